package proxy

import (
	"bytes"
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

// A hello in pieces is one for the name in it, and never one for the default
// route, which asks for less (CVE-2026-32305). What cannot be put together is
// closed.
func TestTLSSplitHelloKeepsItsPolicy(t *testing.T) {
	open, _ := tlsFiles(t, "default.test")
	clientCert, clientKey, _ := testenv.SelfSigned(t, "client")
	closed, _ := tlsFiles(t, "closed.test")
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	reached := make(chan struct{}, 100)
	target := wireServer(t, func(c net.Conn) { reached <- struct{}{} })
	cfg := Config{Routes: []Route{
		tlsRoute("closed", closed, Action{Handler: says("closed")}, "closed.test"),
		tlsRoute("default", open, Action{Handler: says("default")}, "*"),
		{Name: "streams", Match: Match{Ports: Ports(0)}, Action: forwardTo(target)},
	}}
	cfg.Timeouts.Route = 500 * time.Millisecond
	p := start(t, cfg)
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(parts ...[]byte) func(net.Conn, []byte) error {
		return func(c net.Conn, _ []byte) error {
			for _, part := range parts {
				if _, err := c.Write(part); err != nil {
					return err
				}
				time.Sleep(2 * time.Millisecond) // so that it is a segment of its own
			}
			return nil
		}
	}
	cuts := map[string]func(net.Conn, []byte) error{
		"whole":               func(c net.Conn, b []byte) error { return write(b)(c, b) },
		"after a segment":     func(c net.Conn, b []byte) error { return write(b[:1400], b[1400:])(c, b) },
		"within the header":   func(c net.Conn, b []byte) error { return write(b[:3], b[3:])(c, b) },
		"record by record":    func(c net.Conn, b []byte) error { return write(inRecords(b, 600))(c, b) },
		"a record of 4 bytes": func(c net.Conn, b []byte) error { return write(inRecords(b, 4)[:9], inRecords(b, 4)[9:])(c, b) },
		"one byte in records": func(c net.Conn, b []byte) error { return write(inRecords(b, 1))(c, b) },
	}
	for name, cut := range cuts {
		for _, certs := range [][]tls.Certificate{nil, {pair}} {
			c := tls.Client(&helloCutter{Conn: wireDial(t, addr(t, p, 0)), cut: cut}, &tls.Config{ServerName: "closed.test", InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{"http/1.1"}})
			err := c.Handshake()
			if err == nil {
				if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != "closed.test" {
					t.Errorf("%s: shown the certificate of %s", name, got)
				}
			}
			_, body, err := tlsGet(t, c, "closed.test")
			if want := map[bool]string{true: "closed"}[certs != nil]; body != want {
				t.Errorf("%s, client certificate %v: %q, %v", name, certs != nil, body, err)
			}
			c.Close()
		}
	}

	hello := recordHello(t, &tls.Config{ServerName: "closed.test", InsecureSkipVerify: true})
	if len(hello) < 1400 {
		t.Fatalf("the hello has only %d bytes, and no post-quantum keys then", len(hello))
	}
	records := inRecords(hello, 700)
	for name, send := range map[string][]byte{
		"cut off":                       hello[:1400],
		"cut off after a record":        records[:705],
		"another record between":        slices.Concat(records[:705], []byte{21, 3, 3, 0, 2, 1, 0}, records[705:]),
		"application data between":      slices.Concat(records[:705], []byte{23, 3, 3, 0, 1, 0}, records[705:]),
		"an empty record between":       slices.Concat(records[:705], []byte{22, 3, 3, 0, 0}, records[705:]),
		"another message after a part":  slices.Concat(records[:705], []byte{22, 3, 3, 0, 4, 2, 0, 0, 0}),
		"HTTP after a part":             slices.Concat(records[:705], []byte("GET / HTTP/1.1\r\nHost: default.test\r\n\r\n")),
		"the length changed":            append([]byte{22, 3, 1, byte(len(hello) >> 8), byte(len(hello))}, hello[5:]...),
		"a name longer than it is":      bytes.Replace(hello, []byte("\x00\x0bclosed.test"), []byte("\x00\x7fclosed.test"), 1),
		"a name of another kind before": bytes.Replace(hello, []byte("\x00\x0e\x00\x00\x0bclosed.test"), []byte("\x00\x0e\x00\x00\x0aclosed.test"), 1),
	} {
		c := wireDial(t, addr(t, p, 0))
		write(send)(c, nil)
		got, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: not closed", name)
		}
		if len(got) > 7 || len(got) > 0 && got[0] != 21 { // an alert at most
			t.Errorf("%s: answered with %.50q", name, got)
		}
	}
	if n := len(reached); n > 0 {
		t.Errorf("%d of them reached the target of the default route", n)
	}
}

// However a server name is written, it is the same name with the same rules
// (CVE-2022-23632).
func TestTLSNameSpellings(t *testing.T) {
	open, _ := tlsFiles(t, "default.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed, _ := tlsFiles(t, "closed.test")
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	p := start(t, Config{Routes: []Route{
		tlsRoute("closed", closed, Action{Handler: says("closed")}, "closed.test", "*.closed.test"),
		tlsRoute("default", open, Action{Handler: says("default")}),
	}})
	for spelling, closed := range map[string]bool{
		"closed.test": true, "CLOSED.test": true, "closed.test.": true, "Closed.Test.": true, "x.closed.test": true, "X.CLOSED.TEST.": true,
		"a.b.closed.test": false, "other.test": false, "closed.test.evil": false, "xclosed.test": false,
		"closed.test..": false, ".closed.test": false, "closed..test": false, "closed.test:443": true, "closed.test:x": false,
	} {
		// In TLS 1.2 the answer can be read. The name is put in afterwards, as
		// crypto/tls would not send all of these.
		stand := strings.Repeat("n", len(spelling))
		hello := recordHello(t, &tls.Config{ServerName: stand, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		hello = bytes.Replace(hello, []byte(stand), []byte(spelling), 1)
		c := wireDial(t, addr(t, p, 0))
		c.Write(hello)
		names, asks, err := serverFlight(c)
		c.Close()
		_, isHost := canonicalHost(spelling)
		switch {
		case !isHost, strings.HasSuffix(spelling, "."): // RFC 6066 section 3 allows no dot there, and crypto/tls none
			if err == nil {
				t.Errorf("%q: answered with the certificate of %q", spelling, names)
			}
		case err != nil:
			t.Errorf("%q: %v", spelling, err)
		case closed != (names[0] == "closed.test") || closed != asks:
			t.Errorf("%q: shown the certificate of %q, asked for one: %v", spelling, names, asks)
		}
	}
}

// serverFlight reads what a server of TLS 1.2 says first: the names in its
// certificate, and whether it asks for the client's.
func serverFlight(r io.Reader) (names []string, asks bool, err error) {
	var messages []byte
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, false, err
		}
		body := make([]byte, int(head[3])<<8|int(head[4]))
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, false, err
		}
		if head[0] != recordTypeHandshake {
			return nil, false, fmt.Errorf("a record of type %d: %x", head[0], body)
		}
		messages = append(messages, body...)
		for len(messages) >= 4 {
			size := int(messages[1])<<16 | int(messages[2])<<8 | int(messages[3])
			if len(messages) < 4+size {
				break
			}
			switch content := messages[4 : 4+size]; messages[0] {
			case 11: // Certificate: the first one after two lengths
				length := int(content[3])<<16 | int(content[4])<<8 | int(content[5])
				cert, err := x509.ParseCertificate(content[6 : 6+length])
				if err != nil {
					return nil, false, err
				}
				names = cert.DNSNames
			case 13: // CertificateRequest
				asks = true
			case 14: // ServerHelloDone
				return names, asks, nil
			}
			messages = messages[4+size:]
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
		{"hello for a certificate challenge, then silence", string(recordHello(t, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}})), "badTls"},
		{"PostgreSQL's SSLRequest, then silence", "\x00\x00\x00\x08\x04\xd2\x16\x2f", ""},
		{"STARTTLS, then silence", "STARTTLS\r\n", ""},
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
