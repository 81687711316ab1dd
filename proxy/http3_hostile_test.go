package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// What is no request of HTTP/3 gets nowhere near a target.
func TestHTTP3Malformed(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	rec := newWireRecorder(t)
	admin := tlsRoute("admin", files, Action{Handler: says("admin")}, "a.test")
	admin.Match.Path = "/admin*"
	read := tlsRoute("read", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})}, "a.test")
	read.Match.Path = "/read"
	p := start(t, with3(admin, read, tlsRoute("r", files, forwardTo(rec.Target), "a.test")))
	at := addr(t, p, 0)
	cfg := &tls.Config{ServerName: "a.test", RootCAs: pool}
	const m, s, a, path = ":method", ":scheme", ":authority", ":path"
	for _, test := range []struct {
		fields []string
		status string // "" for a stream that is reset
	}{
		{[]string{m, "GET", s, "https", a, "a.test", path, "/"}, "200"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/plain?x=1;y"}, "200"},
		{[]string{m, "OPTIONS", s, "https", a, "a.test", path, "*"}, "200"},
		{[]string{m, "GET", s, "https", path, "/", "host", "a.test"}, "200"},

		{[]string{m, "GET", s, "https", a, "a.test", path, "/a b"}, "400"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/a HTTP/1.0"}, "400"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/x#y"}, "400"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/a/../admin"}, "400"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/a%2e%2e/%2e%2e/admin"}, "400"},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/a%00"}, "400"},
		{[]string{m, "CONNECT", a, "a.test:443"}, "400"},
		{[]string{m, "CONNECT", ":protocol", "connect-udp", s, "https", a, "a.test", path, "/"}, "501"},
		{[]string{m, "GET", ":protocol", "websocket", s, "https", a, "a.test", path, "/"}, ""},
		{[]string{m, "CONNECT", ":protocol", "websocket", s, "https", a, "a.test", path, "/a/../admin"}, "400"},
		{[]string{m, "GET", s, "https", a, "", path, "/", "host", ""}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "host", "b.test"}, ""},
		{[]string{m, "GET", s, "https", a, "x@a.test", path, "/"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "admin"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "*"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, ""}, ""},
		{[]string{m, "GET", s, "https", a, "a.test"}, ""},
		{[]string{m, "GET /admin HTTP/1.1", s, "https", a, "a.test", path, "/"}, ""},
		{[]string{m, "", s, "https", a, "a.test", path, "/"}, ""},
		{[]string{s, "https", a, "a.test", path, "/"}, ""},
		{[]string{m, "GET", m, "GET", s, "https", a, "a.test", path, "/"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", path, "/admin"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", "x", "1", path, "/"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", ":status", "200"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", ":x", "1"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "X-Upper", "1"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x y", "1"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "", "1"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x\r\ny", "1"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x", "1\r\nx-forwarded-for: 192.0.2.66"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x", "1\n"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x", "1\x00"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test\r\nx: y", path, "/"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/\r\nx: y"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "connection", "close"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "transfer-encoding", "chunked"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "upgrade", "h2c"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "te", "gzip"}, ""},
		{[]string{m, "POST", s, "https", a, "a.test", path, "/", "content-length", "1", "content-length", "2"}, ""},
		{[]string{m, "POST", s, "https", a, "a.test", path, "/", "content-length", "+1"}, ""},
		{[]string{m, "POST", s, "https", a, "a.test", path, "/", "content-length", "-1"}, ""},
		{[]string{m, "POST", s, "https", a, "a.test", path, "/", "content-length", "1x"}, ""},
		{[]string{m, "GET", s, "https", a, "a.test", path, "/", "x", strings.Repeat("x", 17<<10)}, "431"},
		{append([]string{m, "GET", s, "https", a, "a.test", path, "/"}, strings.Split(strings.Repeat("a,b,", 600)+"c,d", ",")...), "431"},
	} {
		status, body, err := exchange3(t, at, cfg, test.fields...)
		var reset *quic.StreamError
		if test.status == "" {
			if !errors.As(err, &reset) || status != "" {
				t.Errorf("%.200q: %s %q %v, want a reset", test.fields, status, body, err)
			}
		} else if status != test.status {
			t.Errorf("%.200q: %s %q %v, want %s", test.fields, status, body, err, test.status)
		}
		if heads := rec.take(); (len(heads) > 0) != (test.status == "200") {
			t.Errorf("%.200q: the target got %q", test.fields, heads)
		}
	}

	// Frames where they do not belong, and lengths that do not hold.
	head := headersFrame3(m, "POST", s, "https", a, "a.test", path, "/read")
	for name, raw := range map[string][]byte{
		"DATA first":                  frame3(0, []byte("GET / HTTP/1.1\r\n\r\n")),
		"SETTINGS on a request":       frame3(4, nil),
		"GOAWAY on a request":         frame3(7, []byte{0}),
		"PUSH_PROMISE":                frame3(5, fields3(m, "GET")),
		"a frame of HTTP/2":           frame3(2, nil),
		"a field section of garbage":  frame3(1, []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
		"a dynamic table":             frame3(1, []byte{2, 0, 0x80}),
		"a length without end":        {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"an HTTP/1.1 request":         []byte("GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n"),
		"HEADERS after the trailers":  append(append(append([]byte{}, head...), headersFrame3("x", "1")...), headersFrame3("y", "1")...),
		"DATA after the trailers":     append(append(append([]byte{}, head...), headersFrame3("x", "1")...), frame3(0, []byte("x"))...),
		"more content than announced": append(headersFrame3(m, "POST", s, "https", a, "a.test", path, "/read", "content-length", "1"), frame3(0, []byte("xGET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n"))...),
		"less content than announced": append(headersFrame3(m, "POST", s, "https", a, "a.test", path, "/read", "content-length", "9"), frame3(0, []byte("x"))...),
	} {
		c, err := quicOpen(t, at, cfg)
		if err != nil {
			t.Fatal(err)
		}
		str, err := c.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		str.SetDeadline(time.Now().Add(10 * time.Second))
		str.Write(raw)
		str.Close()
		got, body, err := reply3(str)
		if got[":status"] == "200" {
			t.Errorf("%s: %v %q %v", name, got, body, err)
		}
		if err == nil && got[":status"] == "" {
			t.Errorf("%s: the stream ends as if that were an answer", name)
		}
		c.CloseWithError(0, "")
		for _, head := range rec.take() {
			if strings.Contains(head, "/admin") {
				t.Errorf("%s: the target got %q", name, head)
			}
		}
	}
	eventually(t, "nothing is left", func() bool { return p.Stats().ActiveConnections == 0 })
}

// What looks like QUIC, and what does not, costs little and is forgotten.
func TestHTTP3Garbage(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	count := lineCounter{Handler: slog.DiscardHandler, mu: new(sync.Mutex), lines: make(map[string]int)}
	cfg := with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test"))
	cfg.Timeouts.Route = 500 * time.Millisecond
	p := start(t, cfg, WithLogger(slog.New(count)))
	begin := time.Now()
	c, err := net.Dial("udp", addr(t, p, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got atomic.Int64
	go func() {
		b := make([]byte, 2048)
		for {
			n, err := c.Read(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			got.Add(int64(n))
		}
	}()
	hello := firstFlight(t)
	random := rand.New(rand.NewPCG(1, 2))
	sent := 0
	for i := range 2000 {
		b := make([]byte, random.IntN(1400))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		switch i % 4 {
		case 0: // as it is
		case 1: // a hello with a few bytes changed
			b = bytes.Clone(hello)
			for range 1 + random.IntN(5) {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
		case 2: // a long header
			b = append([]byte{0xc0 | byte(random.Uint32()), 0, 0, 0, 1, 8}, b...)
		case 3: // another version
			b = append([]byte{0xc0, 1, 2, 3, 4, 8}, append(b, make([]byte, 1200)...)...)
		}
		c.Write(b)
		sent += len(b)
		if i%64 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if status, body := get(t, client3(t, addr(t, p, 0), pool), "https://a.test/"); status != 200 || body != "ok" {
		t.Errorf("afterwards: %d %q", status, body)
	}
	if n := got.Load(); n > int64(3*sent) {
		t.Errorf("%d bytes came back for %d", n, sent)
	}
	q := p.current().quicPorts()[0]
	eventually(t, "all is forgotten", func() bool { return q.unproven.Load() == 0 && p.Stats().ActiveConnections <= 1 })
	seconds := int(time.Since(begin)/time.Second) + 2
	count.mu.Lock()
	defer count.mu.Unlock()
	for line, n := range count.lines {
		if n > 10*seconds || !strings.HasPrefix(line, "DEBUG") {
			t.Errorf("%q: %d lines in %d s", line, n, seconds)
		}
	}
}

// A client that takes requests back has not more of them at once than others.
func TestHTTP3Resets(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	var running, most, all atomic.Int64
	cfg := with3(tlsRoute("r", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Add(1)
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if r.URL.Path == "/" {
			<-r.Context().Done()
			time.Sleep(10 * time.Millisecond) // as work that cannot be taken back at once
		}
	})}, "a.test"))
	cfg.HTTP3.MaxConcurrentStreams = 10
	p := start(t, cfg)
	c, err := quicOpen(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	request := headersFrame3(":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/")
	for i := range 500 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		str, err := c.OpenStreamSync(ctx)
		cancel()
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		str.Write(request)
		if i%2 == 0 {
			str.Close()
		} else {
			str.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		}
		time.Sleep(time.Millisecond) // so that it arrives before it is taken back
		str.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
	if n := most.Load(); n > 10 || n < 2 {
		t.Errorf("%d requests ran at once, want 10 or less", n)
	}
	if n := all.Load(); n < 250 {
		t.Errorf("only %d requests were seen", n)
	}
	if status, _, err := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/x"); status != "200" {
		t.Errorf("another request: %s, %v", status, err)
	}
	eventually(t, "all have ended", func() bool { return running.Load() == 0 })
}

// A client that has moved is not what its rules were applied to.
func TestHTTP3ClientMoves(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	route := tlsRoute("r", files, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, _ := ConnInfoFrom(r.Context())
		fmt.Fprint(w, info.Client.Addr())
	})}, "a.test")
	p := start(t, with3(route))
	relay := relayDatagrams(t, addr(t, p, 0))
	c, err := quicOpen(t, relay.front.LocalAddr().String(), &tls.Config{ServerName: "a.test", RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		t.Helper()
		status, body, err := ask3(t, c, ":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/")
		if err != nil {
			t.Fatal(err)
		}
		return status + " " + body
	}
	if got := ask(); got != "200 127.0.0.1" {
		t.Fatal(got)
	}
	relay.moveTo("127.0.0.1") // another port: a NAT has forgotten
	for range 3 {
		if got := ask(); got != "200 127.0.0.1" {
			t.Errorf("after another port: %s", got)
		}
	}
	relay.moveTo("127.0.0.2")
	last := ""
	for range 10 { // until the server believes in the new path
		if last = ask(); strings.HasPrefix(last, "421 ") {
			break
		}
		if last != "200 127.0.0.1" {
			t.Fatalf("after another address: %s", last)
		}
	}
	if !strings.HasPrefix(last, "421 ") {
		t.Errorf("after another address: %s, want 421", last)
	}
	if err := awaitClose(t, c, 5*time.Second); !closedWith(err, http3.ErrCodeNoError) {
		t.Errorf("ended with %v", err)
	}
}
