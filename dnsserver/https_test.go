package dnsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startHTTPS starts a server of DNS over HTTPS.
func startHTTPS(t testing.TB, c Config, change func(*Server)) (*Server, *tls.Config) {
	t.Helper()
	cert, client, _ := certificate(t)
	c.Listen, c.DoH = new(bool), &EncryptedPort{Port: new(int)}
	s := newServer(t, c, cert)
	if change != nil {
		change(s)
	}
	mustStart(t, s)
	return s, client
}

// A port of its own answers as the handler does, in HTTP/2 and HTTP/1.1.
func TestHTTPSMatchesHandler(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{Records: []Record{{Name: "a.example", Type: "A", Value: "192.0.2.1", TTL: 77}}}, nil)
	base := "https://" + addr(t, s, "https")
	for _, version := range []string{"HTTP/2.0", "HTTP/1.1"} {
		protocols := new(http.Protocols)
		protocols.SetHTTP2(version == "HTTP/2.0")
		protocols.SetHTTP1(version == "HTTP/1.1")
		transport := &http.Transport{TLSClientConfig: client.Clone(), Protocols: protocols}
		defer transport.CloseIdleConnections()
		for _, test := range httpRequests(t) {
			if len(test.url) > maxHeaderList { // the port has a limit of its own
				if test.status = 431; version == "HTTP/2.0" {
					continue // Go's client knows that
				}
			}
			want := httptest.NewRecorder()
			s.ServeHTTP(want, test.request())
			req := test.request()
			out, err := http.NewRequestWithContext(t.Context(), req.Method, base+req.URL.String(), req.Body)
			if err != nil {
				t.Fatal(err)
			}
			out.Header = req.Header
			out.ContentLength = req.ContentLength
			resp, err := transport.RoundTrip(out)
			if err != nil {
				t.Errorf("%s, %s: %v", version, test.name, err)
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.Proto != version || resp.StatusCode != test.status || err != nil {
				t.Errorf("%s, %s: %s %d, %v, want %d", version, test.name, resp.Proto, resp.StatusCode, err, test.status)
			}
			if test.status == 431 {
				continue
			}
			if test.method == http.MethodHead {
				want.Body.Reset()
			}
			if !bytes.Equal(body, want.Body.Bytes()) {
				t.Errorf("%s, %s: %q, want %q", version, test.name, body, want.Body)
			}
			for _, name := range []string{"Content-Type", "Cache-Control", "Allow", "Vary", "X-Content-Type-Options"} {
				if got, want := resp.Header.Get(name), want.Header().Get(name); got != want {
					t.Errorf("%s, %s: %s is %q, want %q", version, test.name, name, got, want)
				}
			}
			if resp.Header.Get("Date") == "" || resp.Header.Get("Content-Length") == "" {
				t.Errorf("%s, %s: %v", version, test.name, resp.Header)
			}
		}
	}
	if st := s.counters.snapshot().HTTPS; st.Queries != st.Responses+st.Dropped || st.Connections == 0 {
		t.Errorf("%+v", st)
	}
}

// Stop lets requests come to their end, in HTTP/2 and HTTP/1.1, and does not wait
// for more.
func TestStopEndsHTTPS(t *testing.T) {
	testenv.Goroutines(t)
	began, goOn := make(chan struct{}), make(chan struct{})
	s, client := startHTTPS(t, Config{}, func(s *Server) {
		respond := s.responding
		s.responding = func(sc *scratch, dst, query []byte, from *asker) []byte {
			if query[1] == 99 {
				began <- struct{}{}
				<-goOn
			}
			return respond(sc, dst, query, from)
		}
	})
	query := makeQuery(1, "a.example")
	idle := dialHTTP2(t, s, client)
	idle.get(1, query)
	if got, err := idle.until(all(1)); err != nil || got[1].status() != "200" {
		t.Fatalf("%+v, %v", got[1], err)
	}
	half := dialHTTP2(t, s, client)
	half.head(1, false, "POST", "/dns-query", "content-type", wireType)
	half.WriteData(1, false, query[:5])
	half.get(3, query)
	if _, err := half.until(all(3)); err != nil {
		t.Fatal(err)
	}
	fresh := dialHTTP2(t, s, client)
	if _, err := fresh.ReadFrame(); err != nil {
		t.Fatal(err)
	}
	older := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
	fmt.Fprintf(older, "GET /resolve?name=a.example HTTP/1.1\r\nhost: a\r\n\r\n")
	if _, err := older.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	busy := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
	fmt.Fprintf(busy, "GET /dns-query?dns=%s HTTP/1.1\r\nhost: a\r\n\r\n", encode(makeQuery(99, "a.example")))
	testenv.Receive(t, began)

	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop(t, s)
	}()
	var bye *goodbye
	if _, err := idle.until(noMore); !errors.As(err, &bye) || bye.code != http2.ErrCodeNo || bye.last != 1 {
		t.Errorf("idle: %v", err)
	}
	if _, err := older.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("idle in HTTP/1.1: %v", err)
	}
	// What was on its way is answered, new requests are not.
	fresh.get(1, query)
	if got, err := fresh.until(noMore); got[1].status() != "200" || !errors.As(err, &bye) {
		t.Errorf("fresh: %+v, %v", got[1], err)
	}
	waitUntil(t, "the goodbye", func() bool {
		f, err := half.ReadFrame()
		_, ok := f.(*http2.GoAwayFrame)
		return ok || err != nil
	})
	half.get(5, query)
	half.WriteData(1, true, query[5:])
	if got, err := half.until(noMore); got[1].status() != "200" || got[5] != nil || !errors.Is(err, io.EOF) {
		t.Errorf("half: %+v, %+v, %v", got[1], got[5], err)
	}
	select {
	case <-stopped:
		t.Error("a request was not waited for")
	default:
	}
	close(goOn)
	answer, err := io.ReadAll(busy)
	if _, body, ok := bytes.Cut(answer, []byte("\r\n\r\n")); !ok || err != nil {
		t.Errorf("busy: %q, %v", answer, err)
	} else {
		wantAnswer(t, body, makeQuery(99, "a.example"))
	}
	testenv.Receive(t, stopped)
}

// A new connection has its first query answered at Stop, but does not hold it up.
func TestStopMeetsNewHTTPS(t *testing.T) {
	testenv.Goroutines(t)
	for _, protocol := range []string{"h2", "http/1.1"} {
		for _, shaken := range []bool{true, false} { // the handshake is through at Stop
			s, client := startHTTPS(t, Config{}, nil)
			client.NextProtos = []string{protocol}
			c := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
			waitUntil(t, "the connection", func() bool { return s.limits.open.Load() == 1 })
			if shaken {
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
			}
			stopped := make(chan time.Duration, 1)
			go func() {
				began := time.Now()
				stop(t, s)
				stopped <- time.Since(began)
			}()
			waitUntil(t, "Stop", func() bool { return s.current() == nil })
			query := makeQuery(1, "a.example")
			switch {
			case !shaken:
				if err := c.Handshake(); err != nil {
					t.Errorf("%s: %v", protocol, err)
				}
			case protocol == "h2":
				io.WriteString(c, http2.ClientPreface)
				h := newFrames(c)
				h.WriteSettings()
				h.get(1, query)
				if got, err := h.until(all(1)); err != nil || got[1].status() != "200" {
					t.Errorf("%+v, %v", got[1], err)
				}
			default:
				fmt.Fprintf(c, "GET /dns-query?dns=%s HTTP/1.1\r\nhost: a\r\n\r\n", encode(query))
				if answer, err := io.ReadAll(c); !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") || !strings.Contains(string(answer), "\r\nConnection: close\r\n") {
					t.Errorf("%q, %v", answer, err)
				}
			}
			if took := testenv.Receive(t, stopped); took > 3*time.Second {
				t.Errorf("%s, shaken %v: Stop took %v", protocol, shaken, took)
			}
			c.Close()
		}
	}
}

// Clients that wait for themselves make room for others, whatever they do.
func TestHeldHTTPSMakesRoom(t *testing.T) {
	testenv.Goroutines(t)
	long := func(_ *scratch, dst, query []byte, _ *asker) []byte {
		return append(append(append(dst, query[:2]...), 0x80), make([]byte, 60000)...)
	}
	for name, hold := range map[string]func(c net.Conn){
		"a body in HTTP/2": func(c net.Conn) {
			io.WriteString(c, http2.ClientPreface)
			h := newFrames(c)
			h.WriteSettings()
			h.head(1, false, "POST", "/dns-query", "content-type", wireType)
		},
		"answers in HTTP/2": func(c net.Conn) { // that nobody reads
			io.WriteString(c, http2.ClientPreface)
			h := newFrames(c)
			h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			h.WriteWindowUpdate(0, 1<<30)
			for id := uint32(1); id < 1000; id += 2 {
				h.get(id, makeQuery(1, "a.example"))
			}
		},
		"answers in HTTP/1.1": func(c net.Conn) {
			for range 1000 {
				fmt.Fprintf(c, "GET /dns-query?dns=%s HTTP/1.1\r\nhost: a\r\n\r\n", encode(makeQuery(1, "a.example")))
			}
		},
		"a body in HTTP/1.1": func(c net.Conn) {
			fmt.Fprintf(c, "POST /dns-query HTTP/1.1\r\nhost: a\r\ncontent-type: %s\r\ncontent-length: 100\r\n\r\n", wireType)
		},
	} {
		s, client := startHTTPS(t, Config{MaxConnections: 2}, func(s *Server) { s.responding = long })
		client.NextProtos = []string{"h2"}
		if strings.HasSuffix(name, "1.1") {
			client.NextProtos = []string{"http/1.1"}
		}
		for range 2 {
			raw := dial(t, "tcp", addr(t, s, "https"))
			raw.(*net.TCPConn).SetReadBuffer(4096)
			c := tls.Client(raw, client)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			hold(c)
		}
		looks := 0
		waitUntil(t, "that the server waits for them", func() bool {
			r := s.current()
			r.mu.Lock()
			defer r.mu.Unlock()
			for c := range r.conns {
				if c.waiting() == 0 {
					looks = 0
				}
			}
			looks++
			return looks > 20 && s.counters.snapshot().HTTPS.Queries >= 2
		})
		for range 3 {
			c := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
			if err := c.Handshake(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			c.Close()
		}
	}
}

// Stop does not wait for clients that do not even take the goodbye.
func TestStopWithoutGoodbye(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := newServer(t, Config{Listen: new(bool)}, cert)
	mustStart(t, s)
	settings := s.opts.tlsFor("http/1.1")
	client.NextProtos = []string{"http/1.1"}
	for range 3 {
		a, b := net.Pipe() // nothing is written that is not read
		defer b.Close()
		go s.ServeConn(tls.Server(a, settings))
		c := tls.Client(b, client)
		fmt.Fprintf(c, "GET /resolve?name=a.example HTTP/1.1\r\nhost: a\r\n\r\n")
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	s.Stop(ctx)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

// Stop does not wait beyond its time for who reads nothing.
func TestStopCutsHTTPS(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, nil)
	h := dialHTTP2(t, s, client)
	h.head(1, false, "POST", "/dns-query", "content-type", wireType)
	h.get(3, makeQuery(1, "a.example"))
	if _, err := h.until(all(3)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := s.Stop(ctx); err == nil {
		t.Error("a request that does not end is not told of")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

// A host's code that panics costs one connection.
func TestHTTPSPanic(t *testing.T) {
	testenv.Goroutines(t)
	s, client := startHTTPS(t, Config{}, func(s *Server) {
		respond := s.responding
		s.responding = func(sc *scratch, dst, query []byte, from *asker) []byte {
			if query[1] == 99 {
				panic("on purpose")
			}
			return respond(sc, dst, query, from)
		}
	})
	h := dialHTTP2(t, s, client)
	h.head(3, false, "POST", "/dns-query", "content-type", wireType)
	h.get(5, makeQuery(99, "a.example"))
	if got, err := h.until(noMore); len(got) > 0 || err == nil {
		t.Errorf("%+v, %v", got[1], err)
	}
	older := tls.Client(dial(t, "tcp", addr(t, s, "https")), client)
	fmt.Fprintf(older, "GET /dns-query?dns=%s HTTP/1.1\r\nhost: a\r\n\r\n", encode(makeQuery(99, "a.example")))
	if answer, err := io.ReadAll(older); len(answer) > 0 {
		t.Errorf("%q, %v", answer, err)
	}
	waitUntil(t, "the end", func() bool { return s.counters.snapshot().HTTPS.OpenConnections == 0 })
	if st := s.counters.snapshot().HTTPS; st.Queries != 3 || st.Dropped != 3 {
		t.Errorf("%+v", st)
	}
	h = dialHTTP2(t, s, client)
	h.get(1, makeQuery(1, "a.example"))
	if got, err := h.until(all(1)); err != nil || got[1].status() != "200" {
		t.Errorf("%+v, %v", got[1], err)
	}
}

// ServeConn serves what the client has asked for by ALPN.
func TestServeConnByALPN(t *testing.T) {
	testenv.Goroutines(t)
	cert, client, _ := certificate(t)
	s := newServer(t, Config{Listen: new(bool)}, cert)
	mustStart(t, s)
	settings := s.opts.tlsFor("dot", "h2", "http/1.1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, protocol := range []string{"", "dot", "h2", "http/1.1"} {
		secure := client.Clone()
		if protocol != "" {
			secure.NextProtos = []string{protocol}
		}
		c := tls.Client(dial(t, "tcp", ln.Addr().String()), secure)
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); s.ServeConn(tls.Server(nc, settings)) }()
		switch protocol {
		case "h2":
			io.WriteString(c, http2.ClientPreface)
			h := newFrames(c)
			h.WriteSettings()
			h.get(1, makeQuery(1, "a.example"))
			if got, err := h.until(all(1)); err != nil || got[1].status() != "200" {
				t.Errorf("%+v, %v", got[1], err)
			}
		case "http/1.1":
			fmt.Fprintf(c, "GET /resolve?name=a.example HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
			answer, err := io.ReadAll(c)
			_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
			if !json.Valid([]byte(body)) || err != nil {
				t.Errorf("%q, %v", answer, err)
			}
		default:
			ask(t, c, makeQuery(1, "a.example"))
		}
		c.Close()
		testenv.Receive(t, done)
	}
	st := s.counters.snapshot()
	if st.HTTPS.Connections != 2 || st.TLS.Connections != 2 {
		t.Errorf("%+v", st)
	}
}
