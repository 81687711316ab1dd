package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// h2Backend is a server that speaks nothing but HTTP/2, and the action that
// leads there.
func h2Backend(t testing.TB, protocol string, files *TLS, h http.HandlerFunc) Action {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP2(protocol == H2)
	s.Config.Protocols.SetUnencryptedHTTP2(protocol == H2C)
	s.Config.ErrorLog = newNetLog(testLogger(t))
	if protocol == H2 {
		pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
		if err != nil {
			t.Fatal(err)
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
		s.EnableHTTP2 = true
		s.StartTLS()
	} else {
		s.Start()
	}
	closeAfter(t, s)
	a := forwardTo(targetOf(s.Listener.Addr()))
	a.UpstreamProtocol = protocol
	return a
}

// h2Front runs a proxy with a route for each way to reach an action: "h2" over
// TLS, "h2c" and "http1" without. The func asks by one of them.
func h2Front(t testing.TB, change func(*Config), files *TLS, a Action) (p *Proxy, addrs map[string]string) {
	t.Helper()
	port := testenv.FreePort(t)
	secure, plain := a, a
	settings := *files
	if a.UpstreamProtocol == H2 {
		settings.Mode = TerminateAndReencrypt
		settings.Upstream = UpstreamTLS{ServerName: "a.test", CAPath: files.Certificate.CertPath}
	}
	secure.TLS = &settings
	cfg := Config{Routes: []Route{{Name: "secure", Match: Match{Ports: Ports(0), Domains: []string{"a.test"}}, Action: secure}}}
	if a.UpstreamProtocol != H2 {
		cfg.Routes = append(cfg.Routes, Route{Name: "plain", Match: Match{Ports: Ports(port)}, Action: plain})
	}
	if change != nil {
		change(&cfg)
	}
	p = start(t, cfg)
	addrs = map[string]string{"h2": addr(t, p, 0)}
	if a.UpstreamProtocol != H2 {
		addrs["h2c"], addrs["http1"] = addr(t, p, port), addr(t, p, port)
	}
	return p, addrs
}

func TestUpstreamHTTP2(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		conns := make(map[string]bool)
		var mu sync.Mutex
		a := h2Backend(t, protocol, files, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			conns[r.RemoteAddr] = true
			mu.Unlock()
			switch r.URL.Path {
			case "/none":
				w.WriteHeader(http.StatusNoContent)
				return
			case "/early":
				w.Header().Set("Link", "</x>")
				w.WriteHeader(http.StatusEarlyHints)
			case "/length":
				w.Header().Set("Content-Length", "1000")
				if r.Method != http.MethodHead {
					w.Write(make([]byte, 1000))
				}
				return
			}
			w.Header().Set("X-Request", fmt.Sprint(r.Method, " ", r.Proto, " ", r.Host, " ", r.RequestURI, " ", r.Header.Get("X-Forwarded-Proto"), " ", r.Header.Get("Te")))
			w.Header().Set("Trailer", "X-Sum")
			n, _ := io.Copy(w, r.Body)
			w.Header().Set("X-Sum", fmt.Sprint(n, " ", r.Trailer.Get("X-Sent")))
			w.Header().Set(http.TrailerPrefix+"X-Late", "1")
		})
		_, addrs := h2Front(t, nil, files, a)
		for front, at := range addrs {
			c := h2cClient(t, at)
			scheme := "http"
			switch front {
			case "h2":
				c, scheme = client(t, at, pool), "https"
			case "http1":
				c = client(t, at, nil)
			}
			content := strings.Repeat("content ", 1<<16)
			for _, path := range []string{"/echo?x=1;y", "/a%2Fb?", "/early", "//x"} {
				req, _ := http.NewRequest("POST", scheme+"://a.test"+path, io.MultiReader(strings.NewReader(content))) // of unknown length
				req.Header.Set("Te", "trailers")
				req.Trailer = http.Header{"X-Sent": {"sent"}}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatalf("%s, %s: %v", protocol, front, err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(got) != content || err != nil {
					t.Errorf("%s, %s %s: %d bytes, %v, want %d", protocol, front, path, len(got), err, len(content))
				}
				if got, want := resp.Header.Get("X-Request"), "POST HTTP/2.0 a.test "+path+" "+scheme+" trailers"; got != want {
					t.Errorf("%s, %s %s: the target got %q, want %q", protocol, front, path, got, want)
				}
				if got, want := resp.Trailer.Get("X-Sum"), fmt.Sprint(len(content), " sent"); got != want || resp.Trailer.Get("X-Late") != "1" {
					t.Errorf("%s, %s %s: trailers %v, want %q", protocol, front, path, resp.Trailer, want)
				}
			}
			for path, want := range map[string]int{"/none": 204, "/length": 200} {
				for _, method := range []string{"GET", "HEAD"} {
					req, _ := http.NewRequest(method, scheme+"://a.test"+path, nil)
					resp, err := c.Do(req)
					if err != nil {
						t.Fatalf("%s, %s %s: %v", protocol, front, path, err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					length := 0
					if path == "/length" && method == "GET" {
						length = 1000
					}
					if resp.StatusCode != want || len(got) != length || err != nil || path == "/length" && resp.ContentLength != 1000 {
						t.Errorf("%s, %s %s %s: %d, %d bytes of %d, %v", protocol, front, method, path, resp.StatusCode, len(got), resp.ContentLength, err)
					}
				}
			}
		}
		if len(conns) != 1 {
			t.Errorf("%s: the target had %d connections, want 1", protocol, len(conns))
		}
	}
}

// Both directions at once, message by message, as gRPC streams are, for longer
// than anything may stand still.
func TestUpstreamHTTP2FullDuplex(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		a := h2Backend(t, protocol, files, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			lines := bufio.NewReader(r.Body)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
					return
				}
				io.WriteString(w, "got "+line)
				w.(http.Flusher).Flush()
			}
		})
		const idle = 500 * time.Millisecond
		p, addrs := h2Front(t, func(c *Config) { c.Timeouts.Idle, c.Timeouts.ResponseHead = idle, idle }, files, a)
		for front, at := range addrs {
			c, scheme := h2cClient(t, at), "http"
			switch front {
			case "h2":
				c, scheme = client(t, at, pool), "https"
			case "http1":
				c = client(t, at, nil)
			}
			r, w := io.Pipe()
			req, _ := http.NewRequest("POST", scheme+"://a.test/", r)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s, %s: %v", protocol, front, err)
			}
			in := bufio.NewReader(resp.Body)
			for i, begin := 0, time.Now(); time.Since(begin) < 2*idle; i++ {
				fmt.Fprintf(w, "%d\n", i)
				if line, err := in.ReadString('\n'); line != fmt.Sprintf("got %d\n", i) {
					t.Fatalf("%s, %s: %q, %v", protocol, front, line, err)
				}
				time.Sleep(idle / 10) // the pace of the messages
			}
			w.Close()
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%s, %s: %q, %v, trailer %v", protocol, front, rest, err, resp.Trailer)
			}

			// One that stands still ends, also for the target.
			r, w = io.Pipe()
			req, _ = http.NewRequest("POST", scheme+"://a.test/", r)
			if resp, err = c.Do(req); err != nil {
				t.Fatalf("%s, %s: %v", protocol, front, err)
			}
			begin := time.Now()
			if rest, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%s, %s: a clean end after %q", protocol, front, rest)
			}
			if d := time.Since(begin); d < idle/2 || d > 10*idle {
				t.Errorf("%s, %s: ended after %v", protocol, front, d)
			}
			w.Close()
		}
		eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
	}
}

// What gRPC calls trailers-only: a head that ends the stream.
func TestUpstreamHTTP2TrailersOnly(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	a := h2Server(t, func(p *h2Peer) {
		for {
			id, _ := p.request()
			if id == 0 {
				return
			}
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, field := range []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: "12"}} {
				enc.WriteField(field)
			}
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		}
	})
	_, addrs := h2Front(t, nil, files, a)
	for front, at := range addrs {
		var settings *tls.Config
		switch front {
		case "h2":
			settings = &tls.Config{ServerName: "a.test", RootCAs: pool}
		case "http1":
			continue
		}
		h := h2Dial(t, at, settings)
		h.open(1, false, "POST", "a.test", "/", "te", "trailers", "content-type", "application/grpc")
		h.WriteData(1, true, []byte("\x00\x00\x00\x00\x00"))
		for {
			f, err := h.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if head, ok := f.(*http2.MetaHeadersFrame); ok {
				if !head.StreamEnded() {
					t.Errorf("%s: the head does not end the stream: %v", front, head.Fields)
				}
				break
			}
		}
	}
}

// Who breaks off a stream, the other side hears of it.
func TestUpstreamHTTP2Cancel(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		began, gone := make(chan struct{}, 10), make(chan struct{}, 10)
		a := h2Backend(t, protocol, files, func(w http.ResponseWriter, r *http.Request) {
			began <- struct{}{}
			if strings.HasPrefix(r.URL.Path, "/begun") {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
			}
			if strings.HasSuffix(r.URL.Path, "/dies") {
				panic(http.ErrAbortHandler)
			}
			<-r.Context().Done()
			gone <- struct{}{}
		})
		p, addrs := h2Front(t, nil, files, a)
		for front, at := range addrs {
			if front == "http1" {
				continue
			}
			var settings *tls.Config
			if front == "h2" {
				settings = &tls.Config{ServerName: "a.test", RootCAs: pool}
			}
			h := h2Dial(t, at, settings)
			id := uint32(1)
			for _, path := range []string{"/", "/begun"} {
				for _, end := range []bool{true, false} {
					h.open(id, end, "POST", "a.test", path)
					receive(t, began)
					h.WriteRSTStream(id, http2.ErrCodeCancel)
					select {
					case <-gone:
					case <-time.After(5 * time.Second):
						t.Fatalf("%s, %s %s: the target does not hear that the client has left", protocol, front, path)
					}
					id += 2
				}
			}
			for _, end := range []bool{true, false} {
				h.open(id, end, "POST", "a.test", "/begun/dies")
				receive(t, began)
				if a, err := h.answer(id); err != nil || a.reset == nil || a.body != "x" {
					t.Errorf("%s, %s: %v, %v, want a reset after x", protocol, front, a, err)
				}
				id += 2
				h.open(id, end, "POST", "a.test", "/dies")
				receive(t, began)
				if a, err := h.answer(id); err != nil || a.head[":status"] != "502" {
					t.Errorf("%s, %s: %v, %v, want 502", protocol, front, a, err)
				}
				id += 2
			}
			h.Close()
		}
		eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
	}
}

// h2Peer is the server side of an HTTP/2 connection, frame by frame.
type h2Peer struct {
	*http2.Framer
	net.Conn
	n int // of the connection
}

// h2Server runs serve for each connection, after the greeting.
func h2Server(t testing.TB, serve func(p *h2Peer)) Action {
	var count atomic.Int32
	a := forwardTo(wireServer(t, func(c net.Conn) {
		if p := h2Greet(c, int(count.Add(1))); p != nil {
			serve(p)
		}
	}))
	a.UpstreamProtocol = H2C
	return a
}

// h2Greet exchanges greetings with a client. It returns nil if there is none.
func h2Greet(c net.Conn, n int) *h2Peer {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c, preface); err != nil {
		return nil
	}
	p := &h2Peer{Framer: http2.NewFramer(c, c), Conn: c, n: n}
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	p.WriteWindowUpdate(0, 1<<20)
	return p
}

// request reads up to the end of the next request. It returns no stream when
// the connection has ended.
func (p *h2Peer) request() (id uint32, body string) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return 0, ""
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if id = f.StreamID; f.StreamEnded() {
				return id, body
			}
		case *http2.DataFrame:
			body += string(f.Data())
			if f.StreamEnded() {
				return id, body
			}
		}
	}
}

// respond sends a whole response.
func (p *h2Peer) respond(id uint32, body string) {
	var block bytes.Buffer
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
	p.WriteData(id, true, []byte(body))
}

// What a target has not looked at is sent again, whatever the method.
func TestUpstreamHTTP2Refused(t *testing.T) {
	large := strings.Repeat("x", maxReplay+1)
	for _, test := range []struct {
		name  string
		serve func(p *h2Peer)
	}{
		{"refused", func(p *h2Peer) {
			for i := 0; ; i++ {
				id, body := p.request()
				if id == 0 {
					return
				}
				if i%2 == 0 {
					p.WriteRSTStream(id, http2.ErrCodeRefusedStream)
				} else {
					p.respond(id, body)
				}
			}
		}},
		{"goodbye", func(p *h2Peer) {
			for {
				id, body := p.request()
				if id == 0 {
					return
				}
				if p.n%2 == 1 {
					p.WriteGoAway(0, http2.ErrCodeNo, nil)
					return
				}
				p.respond(id, body)
				p.WriteGoAway(id, http2.ErrCodeNo, nil)
			}
		}},
	} {
		p := start(t, oneRoute(h2Server(t, test.serve)))
		c := client(t, addr(t, p, 0), nil)
		for _, body := range []string{"", "body"} {
			for range 5 {
				resp, err := c.Post("http://a.test/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatalf("%s: %v", test.name, err)
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(got) != body {
					t.Errorf("%s: %d %q, want %q", test.name, resp.StatusCode, got, body)
				}
			}
		}
		// Not what is too large to keep. Where one more connection was dialled than
		// was needed, it may be that the one which takes requests comes first.
		status := 0
		for range 3 {
			resp, err := c.Post("http://a.test/", "text/plain", strings.NewReader(large))
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if status = resp.StatusCode; status == 502 {
				break
			}
		}
		if status != 502 {
			t.Errorf("%s: %d with a large body, want 502", test.name, status)
		}
		testenv.WaitFor(t, 10*time.Second, func() error {
			if s := p.Stats().Targets[0]; s.Active != 0 {
				return fmt.Errorf("%s: %+v", test.name, s)
			}
			return nil
		})
	}
}

// A target that refuses everything is left alone, and another one is asked.
func TestUpstreamHTTP2RefusedForEver(t *testing.T) {
	var refused atomic.Int32
	a := h2Server(t, func(p *h2Peer) {
		for {
			id, _ := p.request()
			if id == 0 {
				return
			}
			refused.Add(1)
			p.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		}
	})
	p := start(t, oneRoute(a))
	begin := time.Now()
	if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != 502 {
		t.Errorf("%d, want 502", status)
	}
	if d := time.Since(begin); d > 6*time.Second {
		t.Errorf("it took %v", d)
	}
	if n := refused.Load(); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
	good := h2Server(t, func(p *h2Peer) {
		for {
			id, _ := p.request()
			if id == 0 {
				return
			}
			p.respond(id, "good")
		}
	})
	a.Targets = append(a.Targets, good.Targets...)
	p = start(t, oneRoute(a))
	c := client(t, addr(t, p, 0), nil)
	for range 4 {
		if status, body := get(t, c, "http://a.test/"); status != 200 || body != "good" {
			t.Errorf("%d %q", status, body)
		}
	}
	if n := refused.Load(); n > 6 {
		t.Errorf("%d attempts at the first target, want 3 more", n)
	}
}

// A request that meets a connection which the target is just closing goes to a
// new one, if it may be repeated.
func TestUpstreamHTTP2StaleConnection(t *testing.T) {
	p := start(t, oneRoute(h2Server(t, func(p *h2Peer) {
		id, _ := p.request()
		p.respond(id, fmt.Sprint(p.n))
		p.request() // and no answer
	})))
	c := client(t, addr(t, p, 0), nil)
	last := 0
	for i := range 4 {
		status, body := get(t, c, "http://a.test/")
		n, err := strconv.Atoi(body)
		if status != 200 || err != nil || n <= last { // one more may have been dialled than was needed
			t.Errorf("request %d: %d %q after connection %d", i+1, status, body, last)
		}
		last = n
	}
	resp, err := c.Post("http://a.test/", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 502 {
		t.Errorf("POST: %d, want 502: it may have been done", resp.StatusCode)
	}
}

// A target that does not want the body says so before it ends, and then does
// not wait for it.
func TestUpstreamHTTP2EarlyAnswer(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		a := h2Backend(t, protocol, files, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			io.WriteString(w, "too large")
		})
		p, addrs := h2Front(t, nil, files, a)
		for front, at := range addrs {
			c, scheme := h2cClient(t, at), "http"
			switch front {
			case "h2":
				c, scheme = client(t, at, pool), "https"
			case "http1":
				c = client(t, at, nil)
			}
			r, w := io.Pipe() // nothing comes, nothing ends
			req, _ := http.NewRequest("POST", scheme+"://a.test/", r)
			resp, err := c.Do(req)
			if err != nil {
				t.Errorf("%s, %s: %v", protocol, front, err)
				continue
			}
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "too large" {
				t.Errorf("%s, %s: %d %q", protocol, front, resp.StatusCode, body)
			}
			resp.Body.Close()
			w.Close()
		}
		eventually(t, "nothing in flight", func() bool { s := p.Stats(); return s.Targets[0].Active == 0 && s.Routes[0].Active == 0 })
	}
}

func TestUpstreamHTTP2Health(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		var sick atomic.Bool
		var proto atomic.Value
		a := h2Backend(t, protocol, files, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/health" {
				proto.Store(r.Proto)
				if sick.Load() {
					w.WriteHeader(500)
				}
			}
		})
		a.LoadBalancing.HealthCheck = &HealthCheck{Path: "/health", Interval: 20 * time.Millisecond, UnhealthyAfter: 1, HealthyAfter: 1}
		p, addrs := h2Front(t, nil, files, a)
		eventually(t, "a probe", func() bool { return proto.Load() != nil })
		if got := proto.Load(); got != "HTTP/2.0" {
			t.Errorf("%s: probed with %s", protocol, got)
		}
		sick.Store(true)
		eventually(t, "unhealthy", func() bool { return !p.Stats().Targets[0].Healthy })
		if status, _ := get(t, client(t, addrs["h2"], pool), "https://a.test/"); status != 503 {
			t.Errorf("%s: %d while unhealthy, want 503", protocol, status)
		}
		sick.Store(false)
		eventually(t, "healthy", func() bool { return p.Stats().Targets[0].Healthy })
	}
}

// Connections to targets end with the Proxy, also if requests were under way,
// and when no route has the target any more.
func TestUpstreamHTTP2ConnectionsEnd(t *testing.T) {
	var open atomic.Int32
	began := make(chan struct{}, 10)
	a := h2Server(t, func(p *h2Peer) {
		open.Add(1)
		defer open.Add(-1)
		for {
			id, _ := p.request()
			if id == 0 {
				return
			}
			began <- struct{}{}
			if id%4 == 1 {
				p.respond(id, "x")
			}
		}
	})
	cfg := oneRoute(a)
	p := start(t, cfg)
	c := client(t, addr(t, p, 0), nil)
	get(t, c, "http://a.test/")
	receive(t, began)
	if n := open.Load(); n != 1 {
		t.Fatalf("%d connections", n)
	}
	if err := p.UpdateRoutes(t.Context(), []Route{handlerRoute("r", Match{})}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection of a target without routes ends", func() bool { return open.Load() == 0 })
	if err := p.UpdateRoutes(t.Context(), cfg.Routes); err != nil {
		t.Fatal(err)
	}
	get(t, c, "http://a.test/")
	receive(t, began)
	go c.Get("http://a.test/") // gets no answer
	receive(t, began)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p.Stop(ctx)
	eventually(t, "the connections of a Proxy that has stopped end", func() bool { return open.Load() == 0 })
}

func TestUpstreamProtocolValidation(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	target := Target{Host: "127.0.0.1", Port: 1}
	reencrypt := *files
	reencrypt.Mode = TerminateAndReencrypt
	for _, test := range []struct {
		change func(*Route)
		want   string // "" if it is fine
	}{
		{func(r *Route) {}, ""},
		{func(r *Route) { r.Action.UpstreamProtocol = HTTP1 }, ""},
		{func(r *Route) { r.Action.UpstreamProtocol = H2C }, ""},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.TLS = H2C, files }, ""},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.TLS = H2, &reencrypt }, ""},
		{func(r *Route) { r.Action.UpstreamProtocol = "http/2" }, `"http/2"`},
		{func(r *Route) { r.Action.UpstreamProtocol = H2 }, "terminate-and-reencrypt"},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.TLS = H2, files }, "terminate-and-reencrypt"},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.TLS = H2C, &reencrypt }, `use "h2"`},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Match.Protocol = H2C, "tcp" }, "passes through"},
		{func(r *Route) { r.Action.UpstreamProtocol, r.Action.TLS = H2C, &TLS{Mode: Passthrough} }, "passes through"},
		{func(r *Route) { r.Action = Action{Handler: says(""), UpstreamProtocol: H2C} }, "only forward"},
	} {
		r := Route{Match: Match{Ports: Ports(0)}, Action: forwardTo(target)}
		test.change(&r)
		_, err := New(Config{Routes: []Route{r}})
		var field *FieldError
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%+v: %v", r.Action, err)
		case test.want != "" && (!errors.As(err, &field) || field.Path != "routes[0].action.upstreamProtocol" || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%+v: %v, want an error about %q", r.Action, err, test.want)
		}
	}
}
