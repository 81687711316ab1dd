package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Nothing that was said before STARTTLS is true after it.
func TestStartTLSForgets(t *testing.T) {
	h := &host{mechanisms: []string{"PLAIN"}}
	s := serve(t, h, Mode{})
	c := dial(t, s)
	c.want("220")
	begin(c)
	c = c.startTLS(s)
	c.script(`
		C: MAIL FROM:<a@b.org>
		S: 503 5.5.1
		C: RCPT TO:<a@b.org>
		S: 503 5.5.1
		C: STARTTLS
		S: 503 5.5.1
		C: EHLO y
		S: 250-
		C: DATA
		S: 503 5.5.1
		C: MAIL FROM:<a@b.org> REQUIRETLS
		S: 250
		C: RCPT TO:<a@b.org>
		S: 250
		C: DATA
		S: 354
		C: .
		S: 250 2.0.0 queued
		C: QUIT
		S: 221`)
	if got := h.log(); !strings.Contains(got, "rcpt <c@d.org> {Notify:[] OriginalType: Original:}\nreset\nhelo y esmtp=true tls=true") {
		t.Errorf("the session was called like this:\n%s", got)
	}
}

// CVE-2011-0411: what is sent in plaintext behind STARTTLS.
func TestStartTLSInjection(t *testing.T) {
	h := &host{}
	c := dial(t, serve(t, h, Mode{}))
	c.want("220")
	c.ask("EHLO x", "250-")
	c.send("STARTTLS\r\nMAIL FROM:<evil@b.org>\r\n")
	c.want("503 5.5.1 STARTTLS must be the last command of a group")
	c.wantEnd()
	if !h.saw(InjectedBehindTLS) || strings.Contains(h.log(), "evil") {
		t.Errorf("events %v, calls\n%s", h.events, h.log())
	}
}

// Behind a handshake that failed nothing is heard in plaintext.
func TestStartTLSFails(t *testing.T) {
	h := &host{}
	c := dial(t, serve(t, h, Mode{}))
	c.want("220")
	c.ask("EHLO x", "250-")
	c.ask("STARTTLS", "220")
	c.send("MAIL FROM:<evil@b.org>\r\nMAIL FROM:<evil@b.org>\r\n")
	rest, _ := io.ReadAll(c.r)
	if strings.Contains(string(rest), "250") || strings.Contains(string(rest), "550") || strings.Contains(h.log(), "evil") {
		t.Errorf("read %q, calls\n%s", rest, h.log())
	}
	if !h.saw(HandshakeFailed) {
		t.Error("there is no event")
	}
}

func TestImplicitTLS(t *testing.T) {
	s := serve(t, &host{mechanisms: []string{"PLAIN"}}, Mode{ImplicitTLS: true, Submission: true})
	c := dial(t, s).handshake(s)
	c.script(`
		S: 220
		C: EHLO x
		S: 250-
		C: STARTTLS
		S: 503 5.5.1
		C: MAIL FROM:<a@b.org>
		S: 530 5.7.0
		C: AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=
		S: 235 2.7.0
		C: MAIL FROM:<a@b.org>
		S: 250
		C: QUIT
		S: 221`)
}

// A proxy has done the handshake: the connection says so.
func TestTLSOfProxy(t *testing.T) {
	h := &host{mechanisms: []string{"PLAIN"}}
	var id string
	h.connect = func(_ context.Context, c *Conn) error { id = c.ID(); return nil }
	s := serve(t, h, Mode{})
	here, there := net.Pipe()
	state := tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(WithID(context.Background(), "id-of-the-proxy"), proxied{there, state}, Mode{ImplicitTLS: true})
	}()
	c := newClient(t, here)
	c.script(`
		S: 220
		C: EHLO x
		S: 250-
		C: AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=
		S: 235
		C: QUIT
		S: 221`)
	<-done
	if id != "id-of-the-proxy" {
		t.Errorf("the connection has the ID %s", id)
	}
}

type proxied struct {
	net.Conn
	state tls.ConnectionState
}

func (p proxied) ConnectionState() tls.ConnectionState { return p.state }

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAuth(t *testing.T) {
	plain := b64("\x00user\x00password")
	tests := []struct{ name, script string }{
		{"PLAIN with initial response", `
			C: AUTH PLAIN ` + plain + `
			S: 235 2.7.0
			C: AUTH PLAIN ` + plain + `
			S: 503 5.5.1
			C: MAIL FROM:<a@b.org>
			S: 250`},
		{"PLAIN without", `
			C: auth plain
			S: 334
			C: ` + plain + `
			S: 235 2.7.0`},
		{"LOGIN", `
			C: AUTH LOGIN
			S: 334 VXNlcm5hbWU6
			C: dXNlcg==
			S: 334 UGFzc3dvcmQ6
			C: cGFzc3dvcmQ=
			S: 235 2.7.0`},
		{"LOGIN with the user at once", `
			C: AUTH LOGIN dXNlcg==
			S: 334 UGFzc3dvcmQ6
			C: cGFzc3dvcmQ=
			S: 235`},
		{"data for the client in the end", `
			C: AUTH LAST-WORD =
			S: 334 dj1wcm9vZg==
			C:
			S: 235 2.7.0`},
		{"a long challenge on one line", `
			C: AUTH LONG
			S: 334 ` + b64(longChallenge()) + `
			C: dXNlcg==
			S: 235 2.7.0`},
		{"wrong password", `
			C: AUTH PLAIN ` + b64("\x00user\x00wrong") + `
			S: 535 5.7.8 Authentication failed
			C: MAIL FROM:<a@b.org>
			S: 530 5.7.0
			C: AUTH PLAIN ` + plain + `
			S: 235`},
		{"cancelled", `
			C: AUTH PLAIN
			S: 334
			C: *
			S: 501 5.7.0
			C: AUTH LOGIN
			S: 334
			C: dXNlcg==
			S: 334
			C: *
			S: 501 5.7.0
			C: NOOP
			S: 250`},
		{"no base64", `
			C: AUTH PLAIN !!!
			S: 501 5.5.2
			C: AUTH PLAIN
			S: 334
			C: !!!
			S: 501 5.5.2
			C> "AUTH PLAIN\r\n"
			S: 334
			C> "dXNlcg==\n"
			S: 501 5.5.2
			C: NOOP
			S: 250`},
		{"other mechanisms", `
			C: AUTH CRAM-MD5
			S: 504 5.5.4
			C: AUTH
			S: 501 5.5.4
			C: AUTH P;LAIN
			S: 501 5.5.4
			C: AUTH PLAIN x y
			S: 501 5.5.2`},
		{"12,288 octets", `
			C: AUTH PLAIN ` + strings.Repeat("A", 12288-13) + `
			S: 501 5.5.2
			C: AUTH PLAIN ` + strings.Repeat("AAAA", (12288-13)/4) + `
			S: 535 5.7.8
			C: AUTH PLAIN ` + strings.Repeat("A", 12288-12) + `
			S: 500 5.5.2
			C: AUTH PLAIN
			S: 334
			C: ` + strings.Repeat("AAAA", 12284/4) + `
			S: 535 5.7.8
			C: AUTH PLAIN
			S: 334
			C: ` + strings.Repeat("A", 12290) + `
			S: 500 5.5.6
			C: NOOP
			S: 250`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := &host{mechanisms: []string{"PLAIN", "LOGIN", "LAST-WORD", "LONG"}}
			s := serve(t, h, Mode{Submission: true})
			c := dial(t, s)
			c.want("220")
			c.ask("EHLO x", "250-")
			c = c.startTLS(s)
			c.ask("EHLO x", "250-")
			c.script(test.script)
		})
	}
}

func TestAuthNeedsTLS(t *testing.T) {
	h := &host{mechanisms: []string{"PLAIN"}}
	s := serve(t, h, Mode{Submission: true})
	c := dial(t, s)
	c.script(`
		S: 220
		C: EHLO x
		S: 250-
		C: AUTH PLAIN ` + b64("\x00user\x00password") + `
		S: 538 5.7.11
		C: MAIL FROM:<a@b.org>
		S: 530 5.7.0`)
	if strings.Contains(h.log(), "auth") {
		t.Error("the password was looked at")
	}
}

func TestAuthOutOfOrder(t *testing.T) {
	s := serve(t, &host{mechanisms: []string{"PLAIN"}}, Mode{})
	c := dial(t, s)
	c.want("220")
	c.ask("STARTTLS", "220")
	c = c.handshake(s)
	c.script(`
		C: AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=
		S: 503 5.5.1
		C: EHLO x
		S: 250-
		C: MAIL FROM:<a@b.org>
		S: 250
		C: AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=
		S: 503 5.5.1
		C: RSET
		S: 250
		C: AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=
		S: 235`)

	c = dial(t, serve(t, &host{}, Mode{}))
	c.want("220")
	c.ask("EHLO x", "250-")
	c.ask("AUTH PLAIN", "502 5.5.1")
}

// Guessing passwords ends at some point whatever the session does.
func TestAuthGuessing(t *testing.T) {
	h := &host{mechanisms: []string{"PLAIN"}}
	s := serve(t, h, Mode{ImplicitTLS: true}, func(c *Config) { c.MaxErrors = 3 })
	c := dial(t, s).handshake(s)
	c.want("220")
	c.ask("EHLO x", "250-")
	for range 4 {
		c.ask("AUTH PLAIN "+b64("\x00user\x00guess"), "535 5.7.8")
	}
	c.want("421 4.7.0")
	if !h.saw(TooManyErrors) {
		t.Error("there is no event")
	}
}

// Nothing is held against a client that hangs up within the handshake, as checks of
// health do, nor against one that we hang up on.
func TestHandshakeBrokenOff(t *testing.T) {
	for name, end := range map[string]func(*running, *net.TCPConn){
		"closed": func(_ *running, c *net.TCPConn) { c.Close() },
		"closed within a record": func(_ *running, c *net.TCPConn) {
			_, _ = io.WriteString(c, "\x16\x03\x01")
			c.Close()
		},
		"reset":    func(_ *running, c *net.TCPConn) { _ = c.SetLinger(0); c.Close() },
		"Shutdown": func(s *running, _ *net.TCPConn) { _ = s.Shutdown(context.Background()) },
		"Close":    func(s *running, _ *net.TCPConn) { _ = s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{}
			s := serve(t, h, Mode{ImplicitTLS: true})
			c := dial(t, s)
			open := func() int {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.guards)
			}
			wait := func(n int) {
				testenv.WaitFor(t, 20*time.Second, func() error {
					if got := open(); got != n {
						return fmt.Errorf("%d connections", got)
					}
					return nil
				})
			}
			wait(1)
			end(s, c.conn.(*net.TCPConn))
			wait(0)
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.events) > 0 {
				t.Errorf("events %v", h.events)
			}
		})
	}
}

// A client that does not go on with a handshake.
func TestHandshakeTimeout(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{ImplicitTLS: true}, func(c *Config) { c.HandshakeTimeout = 10 * time.Millisecond })
	c := dial(t, s)
	rest, err := io.ReadAll(bufio.NewReader(c.conn))
	if err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if !h.saw(TimedOut) {
		t.Error("there is no event")
	}
}
