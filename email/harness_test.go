package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// server is a Server under test.
type server struct {
	*Server
	t      testing.TB
	mu     sync.Mutex
	events []Event
	// impatient is set by tests in which Stop may fail.
	impatient bool
}

// checked has the tests that are looked at for leaks of goroutines.
var checked sync.Map

// start starts a Server on free ports of 127.0.0.1. What the configuration does
// not say is said here.
func start(t testing.TB, cfg Config, opts ...Option) *server {
	t.Helper()
	if _, again := checked.LoadOrStore(t.Name(), true); !again {
		t.Cleanup(func() { checked.Delete(t.Name()) })
		testenv.Goroutines(t)
	}
	if cfg.ListenHost == "" {
		cfg.ListenHost = "127.0.0.1"
	}
	if cfg.Ports == nil {
		cfg.Ports = Ports(0)
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.example.com"
	}
	if cfg.Domains == nil {
		cfg.Domains = []Domain{{Domain: "example.com"}}
	}
	if cfg.Defaults.DKIM.KeySize == 0 {
		cfg.Defaults.DKIM.KeySize = 1024 // made in no time
	}
	ts := &server{t: t}
	all := []Option{WithLogger(slog.New(slog.NewTextHandler(testLog{t}, nil))), WithResolver(noDNS{}), WithHooks(Hooks{OnEvent: ts.note})}
	if cfg.DataPath == "" {
		all = append(all, WithMailbox(newMailbox(nil).take))
	}
	var err error
	if ts.Server, err = New(cfg, append(all, opts...)...); err != nil {
		t.Fatal(err)
	}
	if err := ts.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := ts.Stop(ctx); err != nil && !ts.impatient {
			t.Errorf("Stop: %v", err)
		}
	})
	return ts
}

func (s *server) note(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// seen returns the events of a kind.
func (s *server) seen(kind string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Event
	for _, e := range s.events {
		if e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}

// testLog is a log that ends with its test.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// noDNS is a resolver for which no name exists.
type noDNS struct{}

func (noDNS) err(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
func (r noDNS) LookupTXT(_ context.Context, name string) ([]string, error) { return nil, r.err(name) }
func (r noDNS) LookupMX(_ context.Context, name string) ([]*net.MX, error) { return nil, r.err(name) }
func (r noDNS) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	return nil, r.err(name)
}
func (r noDNS) LookupAddr(_ context.Context, name string) ([]string, error) { return nil, r.err(name) }

// resolver asks a DNS server of the test, which has these records, one a line,
// and knows of no other name.
func resolver(t testing.TB, records string) *net.Resolver {
	t.Helper()
	addr := nameServer(t, records)
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", addr)
	}}
}

// nameServer is that DNS server. It returns its address.
func nameServer(t testing.TB, records string) string {
	t.Helper()
	byName := make(map[string][]dns.RR)
	for line := range strings.Lines(records) {
		rr, err := dns.NewRR(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		byName[rr.Header().Name] = append(byName[rr.Header().Name], rr)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		all := byName[strings.ToLower(q.Question[0].Name)]
		if len(all) == 0 {
			m.Rcode = dns.RcodeNameError
		}
		for _, rr := range all {
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		w.WriteMsg(m)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { srv.Shutdown(); <-done })
	return pc.LocalAddr().String()
}

// client speaks SMTP line by line.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (s *server) dial() *client { return dialSMTP(s.t, s.Addrs()[0].String()) }

func dialSMTP(t testing.TB, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{t, conn, bufio.NewReader(conn)}
}

// reply reads a reply, its lines joined by newlines.
func (c *client) reply() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("after %q: %v", lines, err)
		}
		lines = append(lines, strings.TrimRight(line, "\r\n"))
		if len(line) > 3 && line[3] == ' ' {
			return strings.Join(lines, "\n")
		}
	}
}

// say sends a line and wants a reply that begins so.
func (c *client) say(line, want string) string {
	c.t.Helper()
	fmt.Fprintf(c, "%s\r\n", line)
	return c.want(line, want)
}

func (c *client) want(after, want string) string {
	c.t.Helper()
	got := c.reply()
	if !strings.HasPrefix(got, want) {
		c.t.Fatalf("to %q: %q, want %q", after, got, want)
	}
	return got
}

func (c *client) hello() *client {
	c.t.Helper()
	c.want("", "220 ")
	c.say("EHLO client.example.net", "250")
	return c
}

// send sends a message and returns the reply to its content.
func (c *client) send(from, to, content string) string {
	c.t.Helper()
	c.say("MAIL FROM:<"+from+">", "250")
	c.say("RCPT TO:<"+to+">", "250")
	return c.data(content)
}

func (c *client) data(content string) string {
	c.t.Helper()
	c.say("DATA", "354")
	io.WriteString(c, content+"\r\n.\r\n")
	return c.reply()
}

const hi = "From: a@example.net\r\nTo: b@example.com\r\nSubject: hi\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\nHello."

// mailbox returns the messages in a Maildir.
func mailbox(t testing.TB, path string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(b))
	}
	return list
}

// mailboxes takes mail as a host does.
type mailboxes struct {
	decide func(*Delivery) error
	mu     sync.Mutex
	got    []gotMail
}

type gotMail struct {
	*Delivery
	content string
}

func newMailbox(decide func(*Delivery) error) *mailboxes { return &mailboxes{decide: decide} }

func (m *mailboxes) take(_ context.Context, d *Delivery) error {
	b, err := io.ReadAll(io.NewSectionReader(d.Content, 0, d.Content.Size()))
	if err == nil && m.decide != nil {
		err = m.decide(d)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, gotMail{d, string(b)})
	return nil
}

func (m *mailboxes) all() []gotMail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got)
}

// waitFor waits until something is so.
func waitFor(t testing.TB, so func() bool) {
	t.Helper()
	testenv.WaitFor(t, 30*time.Second, func() error {
		if so() {
			return nil
		}
		return errors.New("it is not so yet")
	})
}
