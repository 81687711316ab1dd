package email

import (
	"context"
	"errors"
	"fmt"
	"strings"

	gosasl "github.com/emersion/go-sasl"

	"github.com/dcrouter/dcrouter/email/internal/limit"
	"github.com/dcrouter/dcrouter/email/internal/sasl"
	"github.com/dcrouter/dcrouter/email/internal/smtpd"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// ErrUnknownUser is what an [Authenticator] returns for a user that there is not.
var ErrUnknownUser = errors.New("email: unknown user")

// Authenticator knows the users that may sign in. Its method may be called from
// several goroutines.
type Authenticator interface {
	// Lookup returns what is known of a user, [ErrUnknownUser] if there is none,
	// and any other error if that could not be found out: then the client is
	// asked to try again. The password is written as [User.Password] is.
	Lookup(ctx context.Context, username string) (User, error)
}

// AuthenticatorFunc makes a function an [Authenticator].
type AuthenticatorFunc func(ctx context.Context, username string) (User, error)

// Lookup calls f.
func (f AuthenticatorFunc) Lookup(ctx context.Context, username string) (User, error) {
	return f(ctx, username)
}

// users are those who may sign in.
type users struct {
	server   *sasl.Server
	throttle *limit.Throttle
	listed   map[string]*user // those of the configuration
	ask      Authenticator    // else
	domains  []string         // of the configuration
}

// user is someone who has signed in.
type user struct {
	name    string
	senders []glob.Pattern
	domains []string // for a name without domain
}

// newUsers returns nil where nobody may sign in.
func newUsers(cfg *Config, o *options) (*users, error) {
	if o.authenticator == nil && (cfg.Auth == nil || len(cfg.Auth.Users) == 0) {
		return nil, nil
	}
	u := &users{ask: o.authenticator, listed: make(map[string]*user), throttle: limit.NewThrottle(limit.ThrottleConfig{Now: o.now})}
	for i := range cfg.Domains {
		u.domains = append(u.domains, canonicalDomain(cfg.Domains[i].Domain))
	}
	if u.ask != nil {
		u.server = sasl.NewServer(sasl.Config{Authenticator: asked{u.ask}})
		return u, nil
	}
	check := conf.NewChecker()
	list := make([]sasl.User, len(cfg.Auth.Users))
	for i, c := range cfg.Auth.Users {
		list[i] = sasl.User{Name: c.Username, Password: c.Password.Reveal()}
		if _, err := sasl.ParseCredential(list[i].Password); err != nil {
			check.Field("auth").Field("users").Index(i).Field("password").Errorf("%v", err)
		}
		name, err := sasl.Prepare(c.Username)
		switch {
		case err != nil:
			check.Field("auth").Field("users").Index(i).Field("username").Errorf("%q has characters that user names cannot have (RFC 4013)", c.Username)
		case u.listed[name] != nil:
			check.Field("auth").Field("users").Index(i).Field("username").Errorf("%q is another one's to those who compare (RFC 4013)", c.Username)
		default:
			c.Username = name
			u.listed[name] = u.compile(c)
		}
	}
	if err := check.Err(); err != nil {
		return nil, err
	}
	known, err := sasl.NewUsers(list)
	if err != nil {
		return nil, err
	}
	u.server = sasl.NewServer(sasl.Config{Authenticator: known})
	return u, nil
}

func (u *users) compile(c User) *user {
	compiled := &user{name: c.Username, domains: u.domains}
	for _, p := range c.Senders {
		compiled.senders = append(compiled.senders, mustPattern(asciiDomain(p)))
	}
	return compiled
}

// find returns a user who has signed in.
func (u *users) find(ctx context.Context, name string) (*user, error) {
	if known := u.listed[name]; known != nil || u.ask == nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	c, err := u.ask.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, p := range c.Senders {
		if _, err := glob.ParseFold(p); err != nil {
			return nil, fmt.Errorf("a pattern of senders of user %q: %w", name, err)
		}
	}
	c.Username = name
	return u.compile(c), nil
}

// maySend reports whether an address is the user's. Everybody may send bounces.
func (u *user) maySend(address string) bool {
	if address == "" {
		return true
	}
	if len(u.senders) > 0 {
		return matchAny(u.senders, address)
	}
	if strings.Contains(u.name, "@") {
		return strings.EqualFold(asciiDomain(u.name), address)
	}
	local, domain, _ := cutAddress(address)
	for _, d := range u.domains {
		if strings.EqualFold(u.name, local) && canonicalDomain(domain) == d {
			return true
		}
	}
	return false
}

// asked lets a host's Authenticator give credentials.
type asked struct{ a Authenticator }

func (a asked) Lookup(ctx context.Context, username string) (sasl.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	c, err := a.a.Lookup(ctx, username)
	if errors.Is(err, ErrUnknownUser) || err == nil && c.Password == "" { // no password is not an empty one
		return nil, sasl.ErrUnknownUser
	}
	if err != nil {
		return nil, err
	}
	return sasl.ParseCredential(c.Password.Reveal())
}

// AuthMechanisms lists how clients may sign in.
func (s *session) AuthMechanisms() []string {
	if s.r.s.users == nil {
		return nil
	}
	return s.r.s.users.server.Mechanisms()
}

// Authenticate begins an exchange.
func (s *session) Authenticate(ctx context.Context, mechanism string) (gosasl.Server, error) {
	x := &exchange{s: s, ctx: ctx}
	var err error
	x.x, err = s.r.s.users.server.Start(mechanism, x.mayTry)
	return x, err
}

// exchange is one attempt to sign in.
type exchange struct {
	s       *session
	ctx     context.Context // of the AUTH command
	x       *sasl.Exchange
	attempt *limit.Attempt
}

// mayTry slows down those who guess.
func (x *exchange) mayTry(_ context.Context, username string) error {
	if reply := x.s.blocked(); reply != nil { // since it was let in
		return x.s.refuse("blocked", reply)
	}
	attempt, wait := x.s.r.s.users.throttle.Begin(x.s.client.Addr, username)
	if wait > 0 {
		return &smtpd.Reply{Code: 454, Enhanced: [3]int{4, 7, 0}, Text: fmt.Sprintf("Too many failures, try again in %d seconds", int(wait.Seconds())+1)}
	}
	x.attempt = attempt
	return nil
}

// Next takes a response of the client.
func (x *exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	challenge, done, err = x.x.Next(x.ctx, response)
	s := x.s
	if err == nil && done {
		s.user, err = s.r.s.users.find(x.ctx, x.x.Username())
		if err == nil && s.user == nil {
			err = sasl.ErrRejected
		}
	}
	if err == nil {
		if done {
			if x.attempt != nil {
				x.attempt.Succeeded()
			}
			s.client.User = s.user.name
			s.r.s.stats.signIns.Add(1)
			s.event(Event{Kind: EventSignedIn, User: s.user.name})
		}
		return challenge, done, nil
	}
	return nil, false, x.failed(err)
}

// failed gives the reply to an exchange that did not succeed.
func (x *exchange) failed(err error) error {
	var reply *smtpd.Reply
	security := true
	switch {
	case errors.As(err, &reply):
		// Nothing was tried, and who has to wait may do so for what others have done
		// to the account.
		security = false
	case errors.Is(err, sasl.ErrRejected):
		if x.attempt != nil {
			x.attempt.Failed()
		}
		reply = &smtpd.Reply{Code: 535, Enhanced: [3]int{5, 7, 8}, Text: "Wrong user name or password"}
	case errors.Is(err, sasl.ErrMalformed):
		reply = &smtpd.Reply{Code: 501, Enhanced: [3]int{5, 5, 2}, Text: "The response is malformed"}
	case errors.Is(err, sasl.ErrTooLong):
		reply = &smtpd.Reply{Code: 500, Enhanced: [3]int{5, 5, 6}, Text: "The response is too long"}
	default:
		if x.attempt != nil {
			x.attempt.Cancel()
		}
		security = false
		x.s.r.s.log.Error("a user could not be looked up", "conn_id", x.s.client.ID, "err", err)
		reply = &smtpd.Reply{Code: 454, Enhanced: [3]int{4, 7, 0}, Text: "Users cannot be looked up now, try again later"}
	}
	x.s.r.s.stats.signInFailures.Add(1)
	x.s.event(Event{Kind: EventSignInFailed, User: x.x.Username(), Reason: reply.Error(), Security: security})
	return reply
}
