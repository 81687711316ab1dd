package smtpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// host is a backend that writes down what happens to it.
type host struct {
	mechanisms []string

	// The certificate of all servers with this host.
	tls  *tls.Config
	cert string // path
	pool *x509.CertPool

	// What to do at some points, or nil.
	connect func(ctx context.Context, c *Conn) error
	helo    func(name string) error
	mail    func(ctx context.Context, from addr.Address) error
	rcpt    func(to addr.Address) error
	data    func(ctx context.Context, r io.Reader) (*Reply, error)
	auth    func() // AuthMechanisms
	reset   func()

	mu       sync.Mutex
	calls    []string
	messages []string
	events   []Event
	open     int
}

func (h *host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
}

func (h *host) log() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.calls, "\n")
}

func (h *host) accepted() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.messages...)
}

func (h *host) saw(e Event) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, seen := range h.events {
		if seen == e {
			return true
		}
	}
	return false
}

func (h *host) NewSession(ctx context.Context, c *Conn) (Session, error) {
	if h.connect != nil {
		if err := h.connect(ctx, c); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	h.open++
	h.mu.Unlock()
	return &hostSession{h, c}, nil
}

type hostSession struct {
	h *host
	c *Conn
}

func (s *hostSession) Helo(_ context.Context, name string) error {
	s.h.note("helo %s esmtp=%v tls=%v", name, s.c.ESMTP(), s.c.TLS() != nil)
	if s.h.helo != nil {
		return s.h.helo(name)
	}
	return nil
}

func (s *hostSession) AuthMechanisms() []string {
	if s.h.auth != nil {
		s.h.auth()
	}
	return s.h.mechanisms
}

func (s *hostSession) Authenticate(_ context.Context, mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "user" || password != "password" {
			return errors.New("wrong: " + password)
		}
		s.h.note("auth %s as %s", mechanism, user)
		return nil
	}
	switch mechanism {
	case "PLAIN":
		return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
	case "LOGIN":
		return &login{check: check}, nil
	case "SCRAM-SHA-256":
		return newScram()
	case "LAST-WORD":
		return &lastWord{}, nil
	case "LONG":
		return long{}, nil
	}
	return nil, errors.New("no such mechanism")
}

// login is the server of the LOGIN mechanism, which go-sasl lacks.
type login struct {
	check func(user, password string) error
	user  *string
	asked int
}

func (l *login) Next(response []byte) ([]byte, bool, error) {
	l.asked++
	switch {
	case response == nil:
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.user = &user
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(*l.user, string(response))
}

// lastWord ends with data for the client, as SCRAM may.
type lastWord struct{}

func (lastWord) Next(response []byte) ([]byte, bool, error) { return []byte("v=proof"), true, nil }

// long has a challenge of more octets than other replies have in a line.
type long struct{}

func longChallenge() string { return strings.Repeat("challenge", 1000) }

func (long) Next(response []byte) ([]byte, bool, error) {
	if response != nil {
		return nil, true, nil
	}
	return []byte(longChallenge()), false, nil
}

func (s *hostSession) Mail(ctx context.Context, from addr.Address, o *MailOptions) error {
	s.h.note("mail <%s> %+v", from, *o)
	if s.h.mail != nil {
		return s.h.mail(ctx, from)
	}
	return nil
}

func (s *hostSession) Rcpt(_ context.Context, to addr.Address, o *RcptOptions) error {
	s.h.note("rcpt <%s> %+v", to, *o)
	if s.h.rcpt != nil {
		return s.h.rcpt(to)
	}
	return nil
}

func (s *hostSession) Data(ctx context.Context, r io.Reader) (*Reply, error) {
	if s.h.data != nil {
		return s.h.data(ctx, r)
	}
	message, err := io.ReadAll(r)
	if err != nil {
		s.h.note("data failed: %v", err)
		return nil, err
	}
	s.h.mu.Lock()
	s.h.messages = append(s.h.messages, string(message))
	s.h.mu.Unlock()
	return &Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "queued as 1"}, nil
}

func (s *hostSession) Reset() {
	s.h.note("reset")
	if s.h.reset != nil {
		s.h.reset()
	}
}

func (s *hostSession) Close() {
	s.h.mu.Lock()
	s.h.open--
	s.h.mu.Unlock()
	s.h.note("close")
}

// running is a server on a port of its own.
type running struct {
	*Server
	addr string
	pool *x509.CertPool
	cert string // path
}

func serve(t testing.TB, h *host, mode Mode, change ...func(*Config)) *running {
	t.Helper()
	first := h.tls == nil // and the last to be closed
	if first {
		testenv.Goroutines(t)
		certPath, keyPath, pool := testenv.SelfSigned(t)
		cert, err := tls.LoadX509KeyPair(certPath, keyPath)
		if err != nil {
			t.Fatal(err)
		}
		h.tls, h.cert, h.pool = &tls.Config{Certificates: []tls.Certificate{cert}}, certPath, pool
	}
	cfg := Config{
		Hostname: "mx.example.com", TLS: h.tls,
		OnEvent: func(_ *Conn, e Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg, h, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l, mode) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) && !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v", err)
		}
		if first && h.open != 0 {
			t.Errorf("%d sessions were not closed", h.open)
		}
	})
	return &running{s, l.Addr().String(), h.pool, h.cert}
}

func testLogger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(testLog{t}, nil)) }

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", p); return len(p), nil }

// client speaks SMTP byte by byte.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, s *running) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, conn)
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, format, args...); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// reply reads a whole reply, one line per line.
func (c *client) reply() (string, error) {
	var all []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(all, "\n"), err
		}
		if !strings.HasSuffix(line, "\r\n") {
			c.t.Errorf("a reply line ends in %q", line)
		}
		line = strings.TrimSuffix(line, "\r\n")
		all = append(all, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(all, "\n"), nil
		}
	}
}

// want reads a reply for each of the prefixes.
func (c *client) want(prefixes ...string) {
	c.t.Helper()
	for _, prefix := range prefixes {
		got, err := c.reply()
		if err != nil {
			c.t.Fatalf("got %q and %v, want %s", got, err, prefix)
		}
		if !strings.HasPrefix(got, prefix) {
			c.t.Fatalf("got %q, want %s", got, prefix)
		}
	}
}

// wantEnd expects nothing more but the end of the connection.
func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("got %q and %v, want the end", rest, err)
	}
}

// ask sends a line and expects a reply.
func (c *client) ask(line, prefix string) {
	c.t.Helper()
	c.send("%s\r\n", line)
	c.want(prefix)
}

// script runs a dialogue. Lines that begin with "C: " are sent with CRLF, those
// with "C> " as the Go string that they quote; lines with "S: " are the prefix
// of a reply, and "S. " is the end.
func (c *client) script(text string) {
	c.t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(strings.TrimLeft(line, "\t "), "\n")
		if line == "" {
			continue
		}
		kind, arg := line[:2], strings.TrimPrefix(line[2:], " ")
		switch kind {
		case "C:":
			c.send("%s\r\n", arg)
		case "C>":
			raw, err := strconv.Unquote(arg)
			if err != nil {
				c.t.Fatalf("%s: %v", line, err)
			}
			c.send("%s", raw)
		case "S:":
			got, err := c.reply()
			if err != nil || !strings.HasPrefix(got, arg) {
				c.t.Fatalf("got %q and %v, want %q", got, err, arg)
			}
		case "S.":
			c.wantEnd()
		default:
			c.t.Fatalf("not a line of a script: %s", line)
		}
	}
}

// startTLS upgrades the connection.
func (c *client) startTLS(s *running) *client {
	c.t.Helper()
	c.ask("STARTTLS", "220 2.0.0")
	return c.handshake(s)
}

func (c *client) handshake(s *running) *client {
	c.t.Helper()
	conn := tls.Client(c.conn, &tls.Config{RootCAs: s.pool, ServerName: "localhost"})
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	return &client{c.t, conn, bufio.NewReader(conn)}
}
