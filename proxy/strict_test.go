package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// pieceConn is a connection that has text to read, in pieces.
type pieceConn struct {
	net.Conn
	text  string
	sizes *rand.Rand
}

func (c *pieceConn) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+c.sizes.IntN(40))], c.text)
	c.text = c.text[n:]
	return n, nil
}

// SetReadDeadline does nothing: nothing here waits.
func (c *pieceConn) SetReadDeadline(time.Time) error { return nil }

func strictOver(text string, seed uint64) *strictConn {
	c := &pieceConn{text: text, sizes: rand.New(rand.NewPCG(seed, 1))}
	pool := &sync.Pool{New: func() any { b := make([]byte, 512); return &b }}
	return &strictConn{Conn: c, conn: &conn{run: new(run)}, in: h1.NewReader(c, pool, nil), limit: 16 << 10}
}

// What is right passes unchanged, however it is cut.
func TestStrictPassesRequests(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var text strings.Builder
		var want []string
		for i := range 1 + rnd.IntN(5) {
			body := strings.Repeat("0123456789abcdef\r\n", rnd.IntN(200))
			fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: a\r\n", i)
			if rnd.IntN(2) == 0 {
				fmt.Fprintf(&text, "Content-Length: %d\r\n\r\n%s", len(body), body)
			} else {
				text.WriteString("Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
				for rest := body; rest != ""; {
					n := 1 + rnd.IntN(len(rest))
					fmt.Fprintf(&text, "%x;ext\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				text.WriteString("0\r\nX-T: v\r\n\r\n")
			}
			want = append(want, fmt.Sprintf("/%d %q", i, body))
		}
		r := bufio.NewReader(strictOver(text.String(), seed))
		for _, w := range want {
			req, err := http.ReadRequest(r)
			if err != nil {
				t.Fatalf("seed %d: %v, want %s", seed, err, w)
			}
			body, err := io.ReadAll(req.Body)
			if got := fmt.Sprintf("%s %q", req.RequestURI, body); err != nil || got != w {
				t.Fatalf("seed %d: %s, %v, want %s", seed, got, err, w)
			}
			if len(req.Trailer) > 0 && req.Trailer.Get("X-T") != "v" {
				t.Fatalf("seed %d: trailer %v", seed, req.Trailer)
			}
		}
		if _, err := http.ReadRequest(r); err != io.EOF {
			t.Fatalf("seed %d: %v at the end", seed, err)
		}
	}
}

// Requests that a client may leave HTTP with are followed by HTTP in the strict
// grammar as long as it has not.
func TestHTTPStrictAfterNoSwitch(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen = append(seen, r.URL.Path)
		mu.Unlock()
		w.Write(body)
	})
	p := startBare(t, oneRoute(forwardTo(target)))
	const upgrade = " HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"
	for first, status := range map[string]int{
		"GET /" + upgrade + "\r\n":                                                     200,
		"POST /" + upgrade + "Content-Length: 3\r\n\r\nabc":                            200,
		"POST /" + upgrade + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n": 200,
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n":     200,
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n":                                      400,
	} {
		for second, status2 := range map[string]int{
			"POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok":                                     200,
			"POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
			"POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na":                  400,
			"POST /bad HTTP/1.1\nHost: a\nContent-Length: 0\n\n":                                                400,
			"GET /bad HTTP/1.1\r\nHost: a\r\nX-A: b\r\n folded\r\n\r\n":                                         400,
		} {
			for _, pipelined := range []bool{false, true} {
				c := wireDial(t, addr(t, p, 0))
				br := bufio.NewReader(c)
				send, later := first, second
				if pipelined {
					send, later = first+second, ""
				}
				io.WriteString(c, send)
				for i, want := range []int{status, status2} {
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatalf("%q, then %q: answer %d: %v", first, second, i+1, err)
					}
					io.Copy(io.Discard, resp.Body)
					if resp.StatusCode != want {
						t.Errorf("%q, then %q: answer %d is %s, want %d", first, second, i+1, resp.Status, want)
					}
					if i == 0 {
						io.WriteString(c, later)
					}
				}
				c.Close()
			}
		}
	}
	mu.Lock()
	if slices.Contains(seen, "/bad") {
		t.Errorf("the target got %q", seen)
	}
	mu.Unlock()
	// Nor is the body that comes with the wish read in another way.
	got := wireTalk(t, addr(t, p, 0), "POST /"+upgrade+"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n")
	if wireStatus(got) != 400 {
		t.Errorf("a chunked body with bare line feeds: %q", got)
	}
}

// A handler that takes the connection gets what comes after the request as it is,
// whenever that comes and whether or not the client has asked to leave HTTP.
func TestHTTPHijackedIsRaw(t *testing.T) {
	t.Parallel()
	const raw = "GET x\r\nno: HTTP : \x00\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
	asked := make(chan struct{}, 1)
	proceed := make(chan struct{})
	switches := func(c net.Conn, r io.Reader) {
		asked <- struct{}{}
		<-proceed
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
		io.CopyN(c, r, int64(len(raw)))
	}
	target := wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := wireHead(r); err == nil {
			switches(c, r)
		}
	})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		switches(c, rw)
	})
	cfg := Config{Routes: []Route{handlerRoute("handler", Match{Domains: []string{"handler.test"}}), httpRoute("forwards", 0, "forwards.test", target)}}
	cfg.Routes[0].Action.Handler = handler
	p := startBare(t, cfg)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: forwards.test\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: handler.test\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: handler.test\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: handler.test\r\nContent-Length: 2\r\n\r\nab",
	} {
		for early := range 4 {
			c := wireDial(t, addr(t, p, 0))
			cut := []int{0, 1, 7, len(raw)}[early]
			io.WriteString(c, request+raw[:cut])
			receive(t, asked)
			io.WriteString(c, raw[cut:])
			send(t, proceed, struct{}{})
			got, err := io.ReadAll(c)
			if head, rest, _ := strings.Cut(string(got), "\r\n\r\n"); wireStatus(head) != 101 || rest != raw || err != nil {
				t.Errorf("%q, %d bytes early: %q, %v", request, cut, got, err)
			}
		}
	}
}

// net/http refuses an expectation that it does not know, and reads the body before
// it closes the connection: for a moment.
func TestHTTPUnknownExpectation(t *testing.T) {
	t.Parallel()
	cfg := oneRoute(Action{Handler: says("never")})
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := startBare(t, cfg)
	for _, lines := range []string{"Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n", "Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 100\r\n"} {
		c := wireDial(t, addr(t, p, 0))
		c.SetDeadline(time.Now().Add(8 * time.Second))
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n%s\r\n", lines)
		if got, err := io.ReadAll(c); wireStatus(string(got)) != 417 || err != nil {
			t.Errorf("%q: %q, %v", lines, got, err)
		}
	}
}

// Whatever comes, what net/http reads as a request is one in the strict
// grammar, and there is an end to it.
func FuzzStrict(f *testing.F) {
	f.Add("GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", uint64(1))
	f.Add("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\nHost: a\n\n", uint64(2))
	f.Add("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabGET / HTTP/1.0\r\n\r\n", uint64(3))
	f.Add("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n\x00\x01", uint64(4))
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		s := strictOver(text, seed)
		r := bufio.NewReader(s)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if len(req.Header["Content-Length"]) > 1 || req.ContentLength < 0 && req.Header["Content-Length"] != nil {
				t.Errorf("net/http reads %+v", req)
			}
			if s.state == unread {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
	})
}
