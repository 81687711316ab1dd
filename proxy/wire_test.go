package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// wireServer runs serve for every connection it gets; serve's return closes it.
func wireServer(t testing.TB, serve func(net.Conn)) Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			running.Go(func() {
				serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		waitAll(t, &running)
	})
	return targetOf(ln.Addr())
}

// wireHead reads a message head byte for byte as it came.
func wireHead(r *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// wireRecorder is a target that keeps the heads of requests as they came, and
// answers "ok" to all of them.
type wireRecorder struct {
	Target
	mu    sync.Mutex
	heads []string
}

func newWireRecorder(t testing.TB) *wireRecorder {
	rec := new(wireRecorder)
	rec.Target = wireServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			head, err := wireHead(r)
			if err != nil {
				return
			}
			rec.mu.Lock()
			rec.heads = append(rec.heads, head)
			rec.mu.Unlock()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	return rec
}

// take returns the heads received so far and forgets them.
func (rec *wireRecorder) take() []string {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	heads := rec.heads
	rec.heads = nil
	return heads
}

// wireDial connects with a deadline that no test here should reach.
func wireDial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// wireTalk sends text and returns all that comes back until the connection is
// closed; it fails the test if that does not happen.
func wireTalk(t testing.TB, addr, text string) string {
	t.Helper()
	c := wireDial(t, addr)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("connection not closed after %q; got %q", text, b)
	}
	c.Close()
	return string(b)
}

// wireReply sends text and returns what comes back until the connection is
// closed or no more comes.
func wireReply(t testing.TB, addr, text string) string {
	t.Helper()
	c := wireDial(t, addr)
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got)
		}
		c.SetDeadline(time.Now().Add(30 * time.Millisecond))
	}
}

// wireStatus returns the status code of a raw response, or 0.
func wireStatus(response string) int {
	if _, rest, ok := strings.Cut(response, " "); ok && len(rest) >= 3 {
		n, _ := strconv.Atoi(rest[:3])
		return n
	}
	return 0
}

// wireAnswer is a target that reads one request head per connection, answers
// with the given bytes and closes.
func wireAnswer(t testing.TB, answer string) Target {
	return wireServer(t, func(c net.Conn) {
		if _, err := wireHead(bufio.NewReader(c)); err == nil {
			io.WriteString(c, answer)
		}
	})
}

// oneRoute is a configuration with one route for all HTTP on port 0.
func oneRoute(a Action) Config {
	return Config{Routes: []Route{{Name: "r", Match: Match{Ports: Ports(0), Protocol: "http"}, Action: a}}}
}

// handlerRoute answers with its own name.
func handlerRoute(name string, m Match) Route {
	m.Ports = Ports(0)
	return Route{Name: name, Match: m, Action: Action{Handler: says(name)}}
}
