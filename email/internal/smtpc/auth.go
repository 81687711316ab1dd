package smtpc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Bounds of what a server may ask for with SCRAM. RFC 7677 section 4 wants 4096
// iterations at least; many more are a way to keep this host busy.
const (
	minIterations = 4096
	maxIterations = 1_000_000
)

var errAuth = errors.New("the server did not take part in the mechanism as it should")

// mechanism is the client's side of a SASL mechanism.
type mechanism interface {
	// first returns what goes along with AUTH; ok is false for none.
	first() (response string, ok bool)
	// next answers a challenge.
	next(challenge string) (response string, err error)
	// finished says whether the server may say yes now.
	finished() bool
}

// authenticate signs in with the best mechanism that the server offers.
func (c *Conn) authenticate(ctx context.Context) error {
	if c.tls == nil && !c.cfg.AllowPlaintextAuth {
		return c.lose(temporary(PhaseAuth, errors.New("there is no TLS to protect the password")))
	}
	offered, _ := c.Extension("AUTH")
	name, m, err := c.mechanism(strings.Fields(strings.ToUpper(offered)))
	if err != nil {
		return c.lose(temporary(PhaseAuth, err))
	}

	line := "AUTH " + name
	initial, hasInitial := m.first()
	if hasInitial {
		// RFC 4954 section 4: as long as the line is not too long.
		if encoded := encode(initial); len(line)+1+len(encoded)+2 <= 512 {
			line += " " + encoded
			hasInitial = false
		}
	}
	reply, err := c.command(ctx, PhaseAuth, c.cfg.Timeouts.Command, line)
	for range 8 { // no mechanism here takes more
		if err != nil {
			return err
		}
		if reply.Code != 334 {
			break
		}
		response := initial
		if !hasInitial {
			challenge, err := base64.StdEncoding.DecodeString(reply.Text())
			if err != nil {
				return c.lose(temporary(PhaseAuth, errAuth))
			}
			if response, err = m.next(string(challenge)); err != nil {
				return c.lose(temporary(PhaseAuth, err))
			}
		}
		hasInitial = false
		reply, err = c.command(ctx, PhaseAuth, c.cfg.Timeouts.Command, encode(response))
	}
	switch {
	case err != nil:
		return err
	case reply.Code != 235:
		return c.lose(&Error{Phase: PhaseAuth, Status: Temporary, Reply: reply})
	case !m.finished():
		return c.lose(temporary(PhaseAuth, errAuth))
	}
	return nil
}

// mechanism chooses one: SCRAM first, because it does not show the password.
func (c *Conn) mechanism(offered []string) (string, mechanism, error) {
	user, password := c.cfg.Auth.Username, c.cfg.Auth.Password
	if slices.Contains(offered, "SCRAM-SHA-256") {
		client, err := scram.SHA256.NewClient(user, password, "")
		if err != nil { // its text may have the password
			return "", nil, errors.New("the user name or password has characters that SASLprep (RFC 4013) forbids")
		}
		return "SCRAM-SHA-256", &scramMechanism{conv: client.WithMinIterations(minIterations).NewConversation()}, nil
	}
	if slices.Contains(offered, "PLAIN") {
		if strings.Contains(user+password, "\x00") {
			return "", nil, errors.New("the user name or password has a NUL")
		}
		return "PLAIN", &plainMechanism{user, password}, nil
	}
	if slices.Contains(offered, "LOGIN") {
		return "LOGIN", &loginMechanism{answers: []string{user, password}}, nil
	}
	return "", nil, fmt.Errorf("the server offers none of SCRAM-SHA-256, PLAIN and LOGIN but %.100q", offered)
}

func encode(response string) string { return base64.StdEncoding.EncodeToString([]byte(response)) }

// plainMechanism is RFC 4616.
type plainMechanism struct{ user, password string }

func (m *plainMechanism) first() (string, bool)       { return "\x00" + m.user + "\x00" + m.password, true }
func (m *plainMechanism) next(string) (string, error) { return "", errAuth }
func (m *plainMechanism) finished() bool              { return true }

// loginMechanism is no standard: user name and password, each when asked for.
type loginMechanism struct{ answers []string }

func (m *loginMechanism) first() (string, bool) { return "", false }

func (m *loginMechanism) next(string) (string, error) {
	if len(m.answers) == 0 {
		return "", errAuth
	}
	answer := m.answers[0]
	m.answers = m.answers[1:]
	return answer, nil
}

func (m *loginMechanism) finished() bool { return len(m.answers) == 0 }

// scramMechanism is RFC 5802 and 7677.
type scramMechanism struct{ conv *scram.ClientConversation }

func (m *scramMechanism) first() (string, bool) {
	s, err := m.conv.Step("")
	return s, err == nil
}

func (m *scramMechanism) next(challenge string) (string, error) {
	for field := range strings.SplitSeq(challenge, ",") {
		if n, ok := strings.CutPrefix(field, "i="); ok {
			if i, err := strconv.Atoi(n); err != nil || i > maxIterations {
				return "", fmt.Errorf("the server asks for %.20q iterations, more than %d", n, maxIterations)
			}
		}
	}
	s, err := m.conv.Step(challenge)
	if err != nil {
		return "", fmt.Errorf("SCRAM: %.100q", err.Error()) // it may quote the server
	}
	return s, nil
}

// finished: a server that has not shown that it knows the password is not the
// one that was meant.
func (m *scramMechanism) finished() bool { return m.conv.Valid() }
