package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// helloCutter sends the ClientHello in pieces.
type helloCutter struct {
	net.Conn
	cut  func(net.Conn, []byte) error
	done bool
}

func (c *helloCutter) Write(b []byte) (int, error) {
	if c.done {
		return c.Conn.Write(b)
	}
	c.done = true
	if err := c.cut(c.Conn, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// inRecords cuts a handshake record into records with n bytes each.
func inRecords(record []byte, n int) []byte {
	var out []byte
	for body := record[5:]; len(body) > 0; {
		n := min(n, len(body))
		out = append(out, record[0], record[1], record[2], byte(n>>8), byte(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

func TestTLSHelloInPieces(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	passCert, passKey, passPool := testenv.SelfSigned(t, "pass.test")
	target := tlsUpstream(t, passCert, passKey)
	p := start(t, Config{Routes: []Route{
		tlsRoute("r", files, Action{Handler: says("ok")}, "a.test"),
		{Name: "pass", Match: Match{Ports: Ports(0), Domains: []string{"pass.test"}},
			Action: Action{Type: Forward, Targets: []Target{target}, TLS: &TLS{Mode: Passthrough}}},
	}})
	pieces := func(n int, pause time.Duration) func(net.Conn, []byte) error {
		return func(c net.Conn, b []byte) error {
			for i := 0; len(b) > 0; i++ {
				n := min(n, len(b))
				if _, err := c.Write(b[:n]); err != nil {
					return err
				}
				b = b[n:]
				if i%64 == 0 { // often enough for the reader to catch up
					time.Sleep(pause)
				}
			}
			return nil
		}
	}
	for _, test := range []struct {
		name string
		cut  func(net.Conn, []byte) error
	}{
		{"one-byte segments", pieces(1, time.Millisecond)},
		{"segments of 500 bytes", pieces(500, 2*time.Millisecond)},
		{"one-byte records", func(c net.Conn, b []byte) error { _, err := c.Write(inRecords(b, 1)); return err }},
		{"one-byte records in small segments", func(c net.Conn, b []byte) error { return pieces(7, time.Millisecond)(c, inRecords(b, 1)) }},
		{"records of 100 bytes", func(c net.Conn, b []byte) error { _, err := c.Write(inRecords(b, 100)); return err }},
	} {
		for name, roots := range map[string]*x509.CertPool{"a.test": pool, "pass.test": passPool} {
			// Many protocols make it longer than a packet, also without the
			// post-quantum key share.
			protocols := []string{"http/1.1"}
			for i := range 40 {
				protocols = append(protocols, fmt.Sprintf("protocol-%d-%s", i, strings.Repeat("x", 40)))
			}
			c := tls.Client(&helloCutter{Conn: wireDial(t, addr(t, p, 0)), cut: test.cut}, &tls.Config{ServerName: name, RootCAs: roots, NextProtos: protocols})
			if err := c.Handshake(); err != nil {
				t.Errorf("%s, %s: %v", test.name, name, err)
				continue
			}
			if status, body, err := tlsGet(t, c, name); status != 200 {
				t.Errorf("%s, %s: %d %q %v", test.name, name, status, body, err)
			}
			c.Close()
		}
	}
}

// Whatever a stranger sends or does not send, the connection ends in time and
// is counted, and it never reaches a target.
func TestTLSGarbage(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	reached := make(chan struct{}, 100)
	target := wireServer(t, func(c net.Conn) { reached <- struct{}{} })
	hello := recordHello(t, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	cfg := Config{Routes: []Route{
		tlsRoute("r", files, forwardTo(target), "a.test"),
		tlsRoute("any", files, forwardTo(target), "*"),
	}}
	cfg.Timeouts.Route, cfg.Timeouts.RequestHead = 250*time.Millisecond, 250*time.Millisecond
	p := start(t, cfg)
	total := func() (n uint64) {
		for _, count := range p.Stats().Refused {
			n += count
		}
		return n
	}
	for _, test := range []struct {
		name, send string
		reason     string
	}{
		{"nothing", "", "silent"},
		{"one byte", "\x16", "silent"},
		{"record header", "\x16\x03\x01\x02\x00", "badTls"},
		{"half a hello", string(hello[:len(hello)/2]), "badTls"},
		{"hello, then silence", string(hello), "badTls"},
		{"hello, then garbage", string(hello) + strings.Repeat("garbage", 1000), "badTls"},
		{"hello in a record of another type", "\x15" + string(hello[1:]), ""},
		{"server hello", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "badTls"},
		{"record too long", "\x16\x03\x01\xff\xff", "badTls"},
		{"empty record", "\x16\x03\x01\x00\x00", "badTls"},
		{"hello too long", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", "badTls"},
		{"endless hello", "\x16\x03\x01\x40\x00\x01\x01\x00\x00" + strings.Repeat("x", 16380), "badTls"},
		{"empty hello", "\x16\x03\x01\x00\x04\x01\x00\x00\x00", "badTls"},
		{"SSL 2 hello", "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", ""},
		{"zeros", strings.Repeat("\x00", 100), ""},
	} {
		before, all := p.Stats().Refused[test.reason], total()
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, test.send)
		begin := time.Now()
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: not closed", test.name)
		}
		if d := time.Since(begin); d > 1500*time.Millisecond {
			t.Errorf("%s: closed after %v", test.name, d)
		}
		eventually(t, test.name+" counted", func() bool { return total() == all+1 })
		if test.reason != "" && p.Stats().Refused[test.reason] != before+1 {
			t.Errorf("%s: not counted as %s: %v", test.name, test.reason, p.Stats().Refused)
		}
	}

	// TLS, and then nothing or half a request.
	for _, send := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: a.test\r\n"} {
		for _, protocols := range [][]string{nil, {"http/1.1"}} {
			all := total()
			c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: protocols})
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, send)
			begin := time.Now()
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("TLS %q, then %q: not closed", protocols, send)
			}
			if d := time.Since(begin); d > 1500*time.Millisecond {
				t.Errorf("TLS %q, then %q: closed after %v", protocols, send, d)
			}
			time.Sleep(20 * time.Millisecond)
			if total() == all {
				t.Errorf("TLS %q, then %q: not counted", protocols, send)
			}
		}
	}
	if n := len(reached); n > 0 {
		t.Errorf("%d of them reached the target", n)
	}
	eventually(t, "no connection is left", func() bool { return p.Stats().ActiveConnections == 0 })
}

// recordHello returns the first flight of a client.
func recordHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, cfg).Handshake()
		client.Close()
	}()
	b := make([]byte, 1<<17)
	n, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// lineCounter counts log lines by their reason attribute.
type lineCounter struct {
	slog.Handler
	mu    *sync.Mutex
	lines map[string]int
}

func (h lineCounter) Enabled(context.Context, slog.Level) bool { return true }
func (h lineCounter) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h lineCounter) WithGroup(string) slog.Handler            { return h }
func (h lineCounter) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	reason := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			reason += " " + a.Value.String()
		}
		return true
	})
	h.lines[reason]++
	return nil
}

// Strangers cannot fill the log.
func TestTLSLogIsBounded(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	hello := recordHello(t, &tls.Config{ServerName: "unknown.test", InsecureSkipVerify: true})
	known := recordHello(t, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	count := lineCounter{Handler: slog.DiscardHandler, mu: new(sync.Mutex), lines: make(map[string]int)}
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")}}, WithLogger(slog.New(count)))
	begin := time.Now()
	const each = 250
	for range each {
		for _, garbage := range [][]byte{
			[]byte("\x00garbage"), []byte("\x16\x03\x01\x00\x00"), hello,
			append(slices.Clone(known), strings.Repeat("x", 100)...),
		} {
			c := wireDial(t, addr(t, p, 0))
			c.Write(garbage)
			io.Copy(io.Discard, c)
			c.Close()
		}
	}
	eventually(t, "all refused", func() bool {
		s := p.Stats().Refused
		return s["noRoute"] == each && s["badTls"] == 2*each && s["unknownName"] == each
	})
	seconds := int(time.Since(begin)/time.Second) + 2
	count.mu.Lock()
	defer count.mu.Unlock()
	for reason, n := range count.lines {
		if n > 10*seconds {
			t.Errorf("%q: %d lines in %d s", reason, n, seconds)
		}
		if !strings.HasPrefix(reason, "DEBUG") {
			t.Errorf("%q: %d lines above debug level", reason, n)
		}
	}
	if len(count.lines) < 3 {
		t.Errorf("lines %v, want some of each reason", count.lines)
	}
}
