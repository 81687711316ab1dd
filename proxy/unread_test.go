package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"runtime"
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
