package sasl

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/xdg-go/scram"
)

// scramIterations is what RFC 7677 section 4 wants at least. Keys are derived
// of passwords for each exchange, so that more would be this server's work as
// much as that of who guesses.
const scramIterations = 4096

// salter makes salts that are stable for each name as long as the server runs,
// also for names that there are not.
type salter struct{ secret []byte }

func newSalter() *salter {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return &salter{secret}
}

func (s *salter) salt(username string) []byte {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte(username))
	return mac.Sum(nil)[:16]
}

// deriveScram derives keys of a password (RFC 5802 section 3).
func deriveScram(password string, salt []byte) ScramKeys {
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil { // only in FIPS mode, with a salt or a key that is too short
		return ScramKeys{}
	}
	clientKey := hmacSHA256(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	return ScramKeys{Salt: salt, Iterations: scramIterations, StoredKey: storedKey[:], ServerKey: hmacSHA256(salted, "Server Key")}
}

func hmacSHA256(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// scramExchange is SCRAM-SHA-256 without channel binding.
type scramExchange struct {
	x     *Exchange
	conv  *scram.ServerConversation
	ctx   context.Context // of the step under way
	err   error           // why there are no keys
	final bool            // the last challenge is out
}

func newScramExchange(x *Exchange) *scramExchange { return &scramExchange{x: x} }

func (s *scramExchange) next(ctx context.Context, response []byte) ([]byte, bool, error) {
	switch {
	case s.final: // SMTP has no data along with success, so the client says that it has read it
		if len(response) != 0 {
			return nil, true, ErrMalformed
		}
		return nil, true, nil
	case s.conv == nil && response == nil:
		return []byte{}, false, nil
	case s.conv == nil:
		server, err := scram.SHA256.NewServer(s.keys)
		if err != nil {
			return nil, true, err
		}
		s.conv = server.NewConversation()
	}
	s.ctx = ctx
	challenge, err := s.conv.Step(string(response))
	switch {
	case s.err != nil:
		return nil, true, s.err
	case err != nil && s.x.user == "": // before it said who it is
		return nil, true, ErrMalformed
	case err != nil:
		return nil, true, ErrRejected
	}
	if s.conv.Valid() {
		s.final = true
	}
	return []byte(challenge), false, nil
}

// keys is called with the name in the first response.
func (s *scramExchange) keys(username string) (scram.StoredCredentials, error) {
	keys, err := s.find(username)
	if err != nil {
		s.err = err
		return scram.StoredCredentials{}, err
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey,
		ServerKey:  keys.ServerKey,
	}, nil
}

func (s *scramExchange) find(saslname string) (ScramKeys, error) {
	username, err := decodeName(saslname)
	if err != nil {
		return ScramKeys{}, err
	}
	if err := s.x.claim(s.ctx, username); err != nil {
		return ScramKeys{}, err
	}
	if authzID := s.conv.AuthzID(); authzID != "" && authzID != saslname {
		return ScramKeys{}, ErrRejected
	}
	c, err := s.x.lookup(s.ctx)
	if err != nil {
		return ScramKeys{}, err
	}
	select {
	case s.x.server.hashing <- struct{}{}:
	case <-s.ctx.Done():
		return ScramKeys{}, context.Cause(s.ctx)
	}
	defer func() { <-s.x.server.hashing }()
	salt := s.x.server.salts.salt(s.x.user)
	keys, ok := c.Scram(salt)
	if !ok { // only a hash, or nobody: keys that fit no password, after the same work
		keys = deriveScram(rand.Text(), salt)
	}
	if len(keys.StoredKey) != sha256.Size || len(keys.ServerKey) != sha256.Size || len(keys.Salt) == 0 || keys.Iterations < 1 {
		return ScramKeys{}, errors.New("sasl: the keys for SCRAM are not usable")
	}
	return keys, nil
}

// decodeName undoes the encoding of "," and "=" in a name (RFC 5802 section
// 5.1), which the library leaves to others.
func decodeName(saslname string) (string, error) {
	name := strings.NewReplacer("=2C", ",", "=3D", "=").Replace(saslname)
	if strings.Count(name, "=") != strings.Count(saslname, "=3D") {
		return "", ErrMalformed
	}
	return name, nil
}
