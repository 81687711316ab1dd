package sasl

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/xdg-go/stringprep"
)

// The mechanisms.
const (
	Plain       = "PLAIN"
	Login       = "LOGIN"
	ScramSHA256 = "SCRAM-SHA-256"
)

// MaxResponse is the greatest length of a response in bytes, before base64:
// RFC 4954 section 4.3 has lines of 12,288 bytes with it.
const MaxResponse = 12288 / 4 * 3

var (
	// ErrRejected: the user or the password is wrong. Reply 535 5.7.8.
	ErrRejected = errors.New("sasl: authentication failed")
	// ErrMalformed: the response breaks the mechanism's rules. Reply 501 5.5.2.
	ErrMalformed = errors.New("sasl: malformed response")
	// ErrTooLong: the response is longer than [MaxResponse]. Reply 500 5.5.6.
	ErrTooLong = errors.New("sasl: the response is too long")
	// ErrUnknownMechanism: there is no such mechanism. Reply 504 5.5.4.
	ErrUnknownMechanism = errors.New("sasl: unknown mechanism")
	// ErrUnknownUser is what an [Authenticator] returns for a user that there
	// is not.
	ErrUnknownUser = errors.New("sasl: unknown user")
)

// Authenticator knows users.
type Authenticator interface {
	// Lookup returns a user's credential. For a user that there is not it
	// returns one that fits no password but takes the same work, or
	// ErrUnknownUser, upon which [Server] takes an argon2id hash for that. Any
	// other error is a failure to find out, and temporary. The name went through
	// SASLprep (RFC 4013).
	Lookup(ctx context.Context, username string) (Credential, error)
}

// Credential is what is known of a user's password. Its methods may be called
// concurrently.
type Credential interface {
	// Verify says whether it is this password, in a time that does not depend
	// on the answer.
	Verify(password string) bool
	// Scram returns the keys for SCRAM-SHA-256, and whether there are any. salt
	// is the server's for this user, for those who derive keys of a password.
	Scram(salt []byte) (ScramKeys, bool)
}

// ScramKeys are what a server needs for SCRAM (RFC 5802 section 3).
type ScramKeys struct {
	Salt                 []byte
	Iterations           int
	StoredKey, ServerKey []byte
}

// Config of a [Server].
type Config struct {
	// Authenticator knows the users. Required.
	Authenticator Authenticator
	// Hashing bounds how many passwords are verified at once; others wait. The
	// default 0 means one for each processor.
	Hashing int
}

// Server begins exchanges. Make one with [NewServer]. It is safe for concurrent
// use.
type Server struct {
	auth    Authenticator
	hashing chan struct{}
	salts   *salter
}

// NewServer makes a Server.
func NewServer(cfg Config) *Server {
	if cfg.Hashing <= 0 {
		cfg.Hashing = runtime.GOMAXPROCS(0)
	}
	return &Server{auth: cfg.Authenticator, hashing: make(chan struct{}, cfg.Hashing), salts: newSalter()}
}

// Mechanisms lists the names of the mechanisms, the best first.
func (s *Server) Mechanisms() []string { return []string{ScramSHA256, Plain, Login} }

// Exchange is one try of a client to sign in. It is not safe for concurrent use.
type Exchange struct {
	server  *Server
	guard   Guard
	steps   func(ctx context.Context, response []byte) (challenge []byte, done bool, err error)
	user    string // as the client claims it
	success bool
	over    bool
}

// Guard is asked before the password of a user is looked at; its error ends the
// exchange and is returned by [Exchange.Next] as it is. It is where those who
// guess are slowed down.
type Guard func(ctx context.Context, username string) error

// Start begins an exchange by mechanism, whatever its case. guard may be nil.
func (s *Server) Start(mechanism string, guard Guard) (*Exchange, error) {
	x := &Exchange{server: s, guard: guard}
	switch strings.ToUpper(mechanism) {
	case Plain:
		x.steps = x.plain
	case Login:
		x.steps = (&login{x: x}).next
	case ScramSHA256:
		x.steps = newScramExchange(x).next
	default:
		return nil, fmt.Errorf("%w: %.40q", ErrUnknownMechanism, mechanism)
	}
	return x, nil
}

// Next takes the client's response, decoded from base64, and returns the next
// challenge, to be encoded. The first response is what came along with AUTH, nil
// if nothing did; an initial response that is empty is not nil. When done is
// true and err nil the client is who [Exchange.Username] says. After an error,
// the exchange is over.
//
// Errors: those of this package, of the guard, of ctx and of the Authenticator.
func (x *Exchange) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	switch {
	case x.over:
		return nil, true, ErrMalformed
	case len(response) > MaxResponse:
		err = ErrTooLong
	default:
		challenge, done, err = x.steps(ctx, response)
	}
	x.over = done || err != nil
	x.success = done && err == nil
	return challenge, x.over, err
}

// Username is who the client claims to be, after SASLprep: the one that signed
// in, after success. It is "" until the client has said it.
func (x *Exchange) Username() string { return x.user }

// Succeeded says whether the client has signed in.
func (x *Exchange) Succeeded() bool { return x.success }

// claim takes note of who the client claims to be, and asks the guard.
func (x *Exchange) claim(ctx context.Context, username string) error {
	prepared, err := prepare(username)
	if err != nil {
		return err
	}
	x.user = prepared
	if x.guard != nil {
		return x.guard(ctx, prepared)
	}
	return nil
}

// verify finds out whether the password is the claimed user's.
func (x *Exchange) verify(ctx context.Context, password string) error {
	prepared, err := prepare(password)
	if err != nil {
		return err
	}
	c, err := x.lookup(ctx)
	if err != nil {
		return err
	}
	select {
	case x.server.hashing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-x.server.hashing }()
	if !c.Verify(prepared) {
		return ErrRejected
	}
	return nil
}

func (x *Exchange) lookup(ctx context.Context) (Credential, error) {
	c, err := x.server.auth.Lookup(ctx, x.user)
	if errors.Is(err, ErrUnknownUser) {
		return unknownUser(), nil
	}
	return c, err
}

// Prepare is the form that user names are compared in, and that [Exchange.Username]
// has (SASLprep, RFC 4013). It fails for an empty name and for one that can be
// nobody's.
func Prepare(username string) (string, error) { return prepare(username) }

// prepare is SASLprep for a query (RFC 4013), so that one password has one form.
func prepare(s string) (string, error) {
	prepared, err := stringprep.SASLprep.Prepare(s)
	if err != nil || prepared == "" { // RFC 4616 section 2
		return "", ErrMalformed
	}
	return prepared, nil
}
