package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A handler in full duplex may leave the body unread. What comes in its place must
// not be taken for the next request.
func TestUnreadBodyOfFullDuplex(t *testing.T) {
	t.Parallel()
	late := make(chan error, 1)
	cfg := oneRoute(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.URL.Path == "/late" {
			w.WriteHeader(http.StatusAccepted)
			late <- rc.EnableFullDuplex()
			return
		}
		if err := rc.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "answer to %s", r.URL.Path)
	})})
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := startBare(t, cfg)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, path := range []string{"/first", "/late"} {
		c := wireDial(t, addr(t, p, 0))
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", path, len(smuggled))
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !resp.Close || path == "/first" && string(body) != "answer to /first" {
			t.Errorf("%s: %q, %v, closes %v", path, body, err, resp.Close)
		}
		time.Sleep(700 * time.Millisecond) // longer than anybody waits for the body
		io.WriteString(c, smuggled)
		if b, _ := io.ReadAll(br); len(b) > 0 {
			t.Errorf("%s: behind the answer comes %q", path, b)
		}
	}
	if err := <-late; err == nil {
		t.Error("full duplex is enabled when the head may have been sent")
	}
}

// A body that never comes holds up neither the answer nor the connection for longer
// than a moment, whoever gives the answer.
func TestBodyThatNeverComes(t *testing.T) {
	t.Parallel()
	size := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, n)) }
	}
	_, target := backend(t, says("x"))
	cfg := Config{Timeouts: Timeouts{Idle: 300 * time.Millisecond}, Routes: []Route{
		handlerRoute("small", Match{Domains: []string{"small.test"}}), handlerRoute("large", Match{Domains: []string{"large.test"}}),
		httpRoute("forwards", 0, "forwards.test", target),
	}}
	cfg.Routes[0].Action.Handler, cfg.Routes[1].Action.Handler = size(20), size(20_000)
	p := startBare(t, cfg)
	for name, test := range map[string]struct {
		request string
		status  int
		size    int
	}{
		"refused in the fast lane": {"POST / HTTP/1.1\r\nHost: other.test\r\nContent-Length: 100\r\n\r\n", 404, -1},
		"refused by net/http":      {"POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\nContent-Length: 100\r\n\r\n", 404, -1},
		"refused, chunked":         {"POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\nTransfer-Encoding: chunked\r\n\r\n", 404, -1},
		"refused, half of it":      {"POST http://other.test/ HTTP/1.1\r\nHost: other.test\r\nContent-Length: 100\r\n\r\nhalf", 404, -1},
		"a small answer":           {"POST / HTTP/1.1\r\nHost: small.test\r\nContent-Length: 100\r\n\r\n", 200, 20},
		"a large answer":           {"POST / HTTP/1.1\r\nHost: large.test\r\nContent-Length: 100\r\n\r\n", 200, 20_000},
		"HTTP/1.0":                 {"POST / HTTP/1.0\r\nHost: large.test\r\nContent-Length: 100\r\n\r\n", 200, 20_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := wireDial(t, addr(t, p, 0))
			c.SetDeadline(time.Now().Add(4 * time.Second))
			io.WriteString(c, test.request)
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != test.status || err != nil || test.size >= 0 && len(body) != test.size {
				t.Errorf("%s, %d bytes, %v", resp.Status, len(body), err)
			}
			if n, err := io.Copy(io.Discard, br); n > 0 || err != nil {
				t.Errorf("behind the answer: %d bytes, %v", n, err)
			}
		})
	}
}

// The limit for a body that nobody reads is none for the answer, nor for a body
// that somebody does read later on.
func TestUnreadBodyDoesNotLimitTheAnswer(t *testing.T) {
	t.Parallel()
	const parts = 12
	cfg := oneRoute(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			fmt.Fprint(w, "reads: ") // net/http keeps it for now
			time.Sleep(600 * time.Millisecond)
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %v", b, err)
			return
		}
		for range parts {
			fmt.Fprint(w, ".")
			http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		fmt.Fprint(w, r.Context().Err())
	})})
	cfg.Timeouts.Idle = 400 * time.Millisecond
	p := startBare(t, cfg)
	for path, want := range map[string]string{"/read": "reads: body <nil>", "/stream": "............<nil>"} {
		c := wireDial(t, addr(t, p, 0))
		br := bufio.NewReader(c)
		for range 2 { // on the same connection
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", path)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if body, err := io.ReadAll(resp.Body); string(body) != want || err != nil || resp.Close {
				t.Errorf("%s: %q, %v, closes %v", path, body, err, resp.Close)
			}
		}
	}
}

// Who reads a body that breaks off finds the request's context ended, as net/http
// has it.
func TestContextEndsWithTheBody(t *testing.T) {
	t.Parallel()
	seen := make(chan error, 1)
	p := startBare(t, oneRoute(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			seen <- r.Context().Err()
		}
	})}))
	for i := range 30 {
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nx")
		time.Sleep(2 * time.Millisecond)
		c.Close()
		if <-seen == nil {
			t.Fatalf("at try %d the context has not ended", i)
		}
	}
}

// A connection that stays open after an answer that came while the upload just ended
// is good for the next request.
func TestEarlyAnswerAtTheEndOfAnUpload(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	target := h2Backend(t, H2C, files, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
		io.WriteString(w, "answer")
	})
	_, addrs := h2Front(t, nil, files, target)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8 * runtime.NumCPU()))
	var clients sync.WaitGroup
	var kept, dead, lost atomic.Int64
	end := time.Now().Add(2 * time.Second)
	for k := range 8 {
		clients.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				c := wireDial(t, addrs["http1"])
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n")
				time.Sleep(time.Duration((i*37+k*11)%40) * 25 * time.Microsecond)
				io.WriteString(c, "hello")
				br := bufio.NewReader(c)
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					lost.Add(1)
					c.Close()
					continue
				}
				io.Copy(io.Discard, resp.Body)
				if !resp.Close {
					kept.Add(1)
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
					if _, err := http.ReadResponse(br, nil); err != nil {
						dead.Add(1)
					}
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	if dead.Load() > 0 || lost.Load() > 0 || kept.Load() == 0 {
		t.Errorf("%d connections are kept, %d of them dead; %d answers are lost", kept.Load(), dead.Load(), lost.Load())
	}
}

// Who does not read has a limit at each response on a connection.
func TestHTTPSlowReaderOfALaterResponse(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	write := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/big" {
			io.WriteString(w, "small")
			return
		}
		_, err := w.Write(make([]byte, 64<<20))
		select {
		case ended <- err:
		default:
		}
	}
	_, target := backend(t, write)
	cfg := Config{Timeouts: Timeouts{Idle: 500 * time.Millisecond}, Routes: []Route{handlerRoute("handles", Match{Domains: []string{"handles.test"}}), httpRoute("forwards", 0, "forwards.test", target)}}
	cfg.Routes[0].Action.Handler = http.HandlerFunc(write)
	p := startBare(t, cfg)
	for _, host := range []string{"handles.test", "forwards.test"} {
		c := wireDial(t, addr(t, p, 0))
		fmt.Fprintf(c, "GET http://%s/small HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host) // not for the fast lane
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		fmt.Fprintf(c, "GET http://%s/big HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host)
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: all of it was sent to a client that does not read", host)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: a client that does not read is waited for", host)
		}
	}
}

// A handler that gives up while somebody still reads the request's body leaves nobody
// waiting for the rest.
func TestHTTPGivenUpWhileReading(t *testing.T) {
	t.Parallel()
	breaks := wireServer(t, func(c net.Conn) {
		wireHead(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	})
	reading := make(chan struct{})
	cfg := Config{Timeouts: Timeouts{Idle: 500 * time.Millisecond}, Routes: []Route{handlerRoute("handles", Match{Domains: []string{"handles.test"}}), httpRoute("forwards", 0, "forwards.test", breaks)}}
	cfg.Routes[0].Action.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		go func() {
			r.Body.Read(make([]byte, 1))
			close(reading)
			io.Copy(io.Discard, r.Body)
		}()
		<-reading
		panic(http.ErrAbortHandler)
	})
	p := startBare(t, cfg)
	for _, host := range []string{"handles.test", "forwards.test"} {
		c := wireDial(t, addr(t, p, 0))
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST http://%s/ HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 100\r\n\r\nx", host)
		if _, err := io.ReadAll(c); isTimeout(err) {
			t.Errorf("%s: the connection stays open", host)
		}
	}
}

// deadlinesSeen is a response that notes the deadline for reading at each write.
type deadlinesSeen struct {
	http.ResponseWriter
	by    time.Time
	armed []bool
	sizes []int
}

func (d *deadlinesSeen) SetReadDeadline(by time.Time) error { d.by = by; return nil }
func (d *deadlinesSeen) Header() http.Header                { return http.Header{} }
func (d *deadlinesSeen) WriteHeader(int)                    {}
func (d *deadlinesSeen) Flush()                             {}
func (d *deadlinesSeen) Write(b []byte) (int, error) {
	d.armed, d.sizes = append(d.armed, !d.by.IsZero()), append(d.sizes, len(b))
	return len(b), nil
}

// The limit for a body that nobody reads is not for a client that takes long to read
// the answer: it holds up to the write that sends the head, and no longer.
func TestUnreadBodyLimitEndsWithTheHead(t *testing.T) {
	count := func() *byteCount { return &byteCount{route: new(atomic.Uint64)} }
	for name, test := range map[string]struct {
		write func(*responseWriter)
		armed []bool
		sizes []int
	}{
		"one large":       {func(w *responseWriter) { w.Write(make([]byte, 9000)) }, []bool{true, false}, []int{2049, 9000 - 2049}},
		"small and large": {func(w *responseWriter) { w.Write(make([]byte, 48)); w.Write(make([]byte, 9000)) }, []bool{true, true, false}, []int{48, 2001, 6999}},
		"flushed":         {func(w *responseWriter) { w.Flush(); w.Write(make([]byte, 48)) }, []bool{false}, []int{48}},
		"full duplex":     {func(w *responseWriter) { w.duplex = true; w.Write(make([]byte, 9000)) }, []bool{false}, []int{9000}},
	} {
		d := new(deadlinesSeen)
		b := &requestBody{ReadCloser: io.NopCloser(strings.NewReader("body")), writer: d, idle: time.Hour, bytes: count()}
		w := &responseWriter{ResponseWriter: d, idle: time.Hour, bytes: count(), edit: func(http.Header) {}, body: b}
		test.write(w)
		if !slices.Equal(d.armed, test.armed) || !slices.Equal(d.sizes, test.sizes) || !d.by.IsZero() {
			t.Errorf("%s: limits %v at writes of %d bytes, and %v behind", name, d.armed, d.sizes, d.by)
		}
		b.readBy = time.Now().Add(time.Hour) // as a Read that has just ended beside a write
		b.afterDiscard()
		b.Read(make([]byte, 1))
		if d.by.IsZero() {
			t.Errorf("%s: a Read has no limit any more", name)
		}
	}
}

// Over a connection that goes on nothing is left that could end its look for the
// client: what a handler has not read of a body that has all come is no reason to wait.
func TestUnreadBodyThatHasCome(t *testing.T) {
	t.Parallel()
	broken := make(chan error, 10)
	cfg := oneRoute(Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.WriteString(w, strings.Repeat("x", 3000)) // the head goes with that, and net/http reads the body
			if r.URL.Path == "/close" {
				r.Body.Close()
			}
			time.Sleep(900 * time.Millisecond) // longer than Idle
		}
		broken <- r.Context().Err()
	})})
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := startBare(t, cfg)
	for _, path := range []string{"/leave", "/close"} {
		c := wireDial(t, addr(t, p, 0))
		br := bufio.NewReader(c)
		for _, request := range []string{"POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			io.WriteString(c, request)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close {
				t.Errorf("%s: %v, closes %v", path, err, resp.Close)
			}
			if err := <-broken; err != nil {
				t.Errorf("%s: the context of %.4s has ended: %v", path, request, err)
			}
		}
	}
}

// How long the client may take for a body that nobody wants does not depend on how
// long it may be idle.
func TestUnreadBodyHasAMoment(t *testing.T) {
	for _, idle := range []time.Duration{time.Hour, -1} {
		d := new(deadlinesSeen)
		b := &requestBody{ReadCloser: io.NopCloser(strings.NewReader("body")), writer: d, idle: idle, bytes: &byteCount{route: new(atomic.Uint64)}, in: new(atomic.Bool)}
		w := &responseWriter{ResponseWriter: d, idle: idle, bytes: &byteCount{route: new(atomic.Uint64)}, edit: func(http.Header) {}, body: b}
		w.Write(make([]byte, 9000))
		w.leave(true, nil)
		if left := time.Until(d.by); left < time.Second || left > 5*time.Second {
			t.Errorf("idle %v: net/http waits %v for the rest", idle, left)
		}
	}
}
