package smtpd

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Each probe shows a defect of go-smtp v0.25.1 on a server without the guard, and
// must not on ours. When one is mended upstream, the first half of this test
// says so.
func TestDefectsOfGoSMTP(t *testing.T) {
	probes := []struct {
		name  string
		probe func(t *testing.T, h *host, addr string) (defect bool)
	}{
		{"half a last chunk is a message", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("BDAT 100 LAST\r\nhalf")
			c.closeWrite()
			c.rest()
			return len(h.accepted()) > 0
		}},
		{"behind a timeout the body is commands", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("DATA", "354")
			c.send("x\r\n")
			c.want("") // it has timed out
			c.trySend("RSET\r\nMAIL FROM:<evil@b.org>\r\n")
			c.closeWrite()
			c.rest()
			return strings.Contains(h.log(), "evil")
		}},
		{"an address has two meanings", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("RCPT TO:<\"v@other.com> NOTIFY=NEVER \"@d.org>\r\n")
			_, _ = c.reply()
			return strings.Contains(h.log(), "rcpt <v@other.com> NOTIFY=NEVER @d.org>")
		}},
		{"NUL in an address", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("RCPT TO:<a\x00b@d.org>\r\n")
			_, _ = c.reply()
			return strings.Contains(h.log(), "\x00")
		}},
		{"CR in an address", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("RCPT TO:<\"a\rb\"@d.org>\r\n")
			_, _ = c.reply()
			return strings.Contains(h.log(), "\r")
		}},
		{"bare LF in a body", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("DATA", "354")
			c.send("a\n.\r\nb\r\n.\r\n")
			c.closeWrite()
			c.rest()
			return strings.Contains(strings.Join(h.accepted(), ""), "a\n")
		}},
		{"bare CR in a body", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("DATA", "354")
			c.send("a\r.\rb\r\n.\r\n")
			c.closeWrite()
			c.rest()
			return strings.Contains(strings.Join(h.accepted(), ""), "a\r")
		}},
		{"a body line of 2,500 bytes ends the connection", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("DATA", "354")
			c.trySend(strings.Repeat("x", 2500) + "\r\n.\r\n")
			_, _ = c.reply()
			return len(h.accepted()) == 0
		}},
		{"MAIL within a transaction", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("MAIL FROM:<second@b.org>\r\n")
			_, _ = c.reply()
			return strings.Contains(h.log(), "second")
		}},
		{"passwords can be guessed forever", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("RSET\r\n")
			c.want("250")
			for range 50 {
				c.trySend("AUTH PLAIN AHgAeA==\r\n")
				if _, err := c.reply(); err != nil {
					return false
				}
			}
			return true
		}},
		{"421 does not end the connection", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("RCPT TO:<busy@d.org>", "421")
			c.trySend("NOOP\r\n")
			_, err := c.reply()
			return err == nil
		}},
		{"plaintext behind a failed handshake", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.ask("STARTTLS", "220")
			c.trySend("nonsense\r\n")
			_, _ = c.r.ReadString('\n')
			c.trySend("RSET\r\nMAIL FROM:<evil@b.org>\r\n")
			c.closeWrite()
			c.rest()
			return strings.Contains(h.log(), "evil")
		}},
		{"a refused body is read forever", func(t *testing.T, h *host, addr string) bool {
			h.data = func(context.Context, io.Reader) (*Reply, error) { return nil, newReply(554, 5, 7, 1, "no") }
			c := talk(t, addr)
			c.ask("DATA", "354")
			for range 20 { // of what may have 64 KiB
				if !c.trySend(strings.Repeat(strings.Repeat("x", 998)+"\r\n", 65)) {
					return false
				}
			}
			c.trySend(".\r\n")
			c.closeWrite()
			return strings.Contains(c.rest(), "554")
		}},
		{"parameters that are there twice", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("RCPT TO:<x@d.org> NOTIFY=NEVER NOTIFY=SUCCESS\r\n")
			_, _ = c.reply()
			return strings.Contains(h.log(), "rcpt <x@d.org>")
		}},
		{"STARTTLS with something behind it", func(t *testing.T, h *host, addr string) bool {
			c := talk(t, addr)
			c.send("STARTTLSX\r\n")
			reply, _ := c.reply()
			return strings.HasPrefix(reply, "220")
		}},
	}
	for _, p := range probes {
		t.Run(p.name, func(t *testing.T) {
			timeout := time.Minute
			if strings.Contains(p.name, "timeout") {
				timeout = 3 * time.Second
			}
			h := defectHost()
			if !p.probe(t, h, serveBare(t, h, timeout)) {
				t.Error("go-smtp alone does not have this defect any more")
			}
			h = defectHost()
			s := serve(t, h, Mode{}, func(c *Config) {
				c.DataTimeout = timeout
				c.MaxMessageSize = 64 << 10
			})
			if p.probe(t, h, s.addr) {
				t.Errorf("the defect shows; the session saw\n%s", h.log())
			}
		})
	}
}

func defectHost() *host {
	h := &host{mechanisms: []string{"PLAIN"}}
	h.rcpt = func(to addr.Address) error {
		if to.Local == "busy" {
			return newReply(421, 4, 3, 0, "busy")
		}
		return nil
	}
	return h
}

// talk brings a connection to where a message may come.
func talk(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	c.want("220")
	begin(c)
	return c
}

// trySend sends what the server may not want any more.
func (c *client) trySend(s string) bool {
	_, err := io.WriteString(c.conn, s)
	return err == nil
}

func (c *client) closeWrite() { _ = c.conn.(*net.TCPConn).CloseWrite() }

// rest is what the server has still to say.
func (c *client) rest() string {
	b, _ := io.ReadAll(c.r)
	return string(b)
}

// serveBare serves a host with nothing but go-smtp.
func serveBare(t *testing.T, h *host, timeout time.Duration) string {
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &bareSession{h}, nil }))
	s.Domain = "mx.example.com"
	s.AllowInsecureAuth = true
	s.EnableDSN = true
	s.MaxMessageBytes = 64 << 10
	s.ReadTimeout = timeout
	s.ErrorLog = log.New(testLog{t}, "", 0)
	certs := serve(t, h, Mode{}) // for its certificate
	s.TLSConfig = certs.cfg.TLS
	certs.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

type bareSession struct{ h *host }

func (s *bareSession) AuthMechanisms() []string { return s.h.mechanisms }
func (s *bareSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, _, _ string) error { return errors.New("wrong") }), nil
}
func (s *bareSession) Mail(from string, _ *smtp.MailOptions) error {
	s.h.note("mail <%s>", from)
	return nil
}
func (s *bareSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.h.note("rcpt <%s>", to)
	if strings.HasPrefix(to, "busy@") {
		return &smtp.SMTPError{Code: 421, Message: "busy"}
	}
	return nil
}
func (s *bareSession) Data(r io.Reader) error {
	if s.h.data != nil {
		return &smtp.SMTPError{Code: 554, Message: "no"}
	}
	b, err := io.ReadAll(r)
	if err == nil {
		s.h.mu.Lock()
		s.h.messages = append(s.h.messages, string(b))
		s.h.mu.Unlock()
	}
	return err
}
func (s *bareSession) Reset()        {}
func (s *bareSession) Logout() error { return nil }
