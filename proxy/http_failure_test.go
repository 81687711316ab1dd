package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A client that leaves ends its request at the target, at any stage of it.
func TestHTTPClientAbort(t *testing.T) {
	for _, test := range []struct{ name, send string }{
		{"waiting", "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"downloading", "GET /download HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"uploading", "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"},
		{"uploading in chunks", "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan error, 1)
			_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
				close(began)
				switch r.URL.Path {
				case "/upload":
					_, err := io.ReadAll(r.Body)
					ended <- err
				case "/download":
					for r.Context().Err() == nil {
						w.Write(make([]byte, 1<<16))
					}
					ended <- errors.New("cancelled")
				default:
					<-r.Context().Done()
					ended <- errors.New("cancelled")
				}
			})
			p := start(t, oneRoute(forwardTo(target)))
			c := wireDial(t, addr(t, p, 0))
			io.WriteString(c, test.send)
			receive(t, began)
			c.Close()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the target saw a clean end of a body that was cut off")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the target's request goes on")
			}
			eventually(t, "nothing in flight", func() bool {
				s := p.Stats()
				return s.Routes[0].Active == 0 && s.Targets[0].Active == 0
			})
			if s := p.Stats().Targets[0]; s.Failures != 0 || !s.Healthy {
				t.Errorf("a client's leaving counts against the target: %+v", s)
			}
		})
	}
}

// A response that the target does not finish must not look finished.
func TestHTTPUpstreamDies(t *testing.T) {
	for _, test := range []struct {
		name, answer string
		reset        bool
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false},
		{"length, reset", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
		{"inside a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", false},
		{"before the last chunk's end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", false},
		{"malformed chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", false},
		{"until close, reset", "HTTP/1.0 200 OK\r\n\r\nhalf", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := wireServer(t, func(c net.Conn) {
				if _, err := wireHead(bufio.NewReader(c)); err != nil {
					return
				}
				io.WriteString(c, test.answer)
				if test.reset {
					// Once all has been read, or the reset would drop it.
					time.Sleep(50 * time.Millisecond)
					c.(*net.TCPConn).SetLinger(0)
				}
			})
			p := start(t, oneRoute(forwardTo(target)))
			for _, proto := range []string{"1.1", "1.0"} {
				c := wireDial(t, addr(t, p, 0))
				fmt.Fprintf(c, "GET / HTTP/%s\r\nHost: a\r\n\r\n", proto)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					continue // an abort before the head was sent
				}
				// Over HTTP/1.0 without a length there is no way to tell.
				if rest, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode < 500 && (proto == "1.1" || resp.ContentLength >= 0) {
					t.Errorf("HTTP/%s: %s, clean end after %q", proto, resp.Status, rest)
				}
				c.Close()
			}
			eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
		})
	}
}

func TestHTTPUpstreamFails(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := targetOf(closed.Addr())
	closed.Close()
	silent := wireServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })

	for _, test := range []struct {
		name   string
		target Target
		status int
	}{
		{"nobody there", nobody, 502},
		{"silent", silent, 504},
		{"closes", wireServer(t, func(c net.Conn) { wireHead(bufio.NewReader(c)) }), 502},
		{"closes at once", wireServer(t, func(c net.Conn) {}), 502},
		{"not HTTP", wireAnswer(t, "220 mail ESMTP\r\n\r\n"), 502},
		{"binary", wireAnswer(t, "\x00\x01\x02\x03\xff\xfe\r\n\r\n"), 502},
		{"half a head", wireAnswer(t, "HTTP/1.1 200 OK\r\nContent-Le"), 502},
		{"broken header", wireAnswer(t, "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), 502},
		{"two lengths", wireAnswer(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 502},
		{"negative length", wireAnswer(t, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), 502},
		{"unknown encoding", wireAnswer(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), 502},
		{"status 000", wireAnswer(t, "HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n"), 502},
		{"status 099", wireAnswer(t, "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n"), 502},
		{"unasked 101", wireAnswer(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), 502},
		{"unasked 101 without name", wireAnswer(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"), 502},
		{"endless 1xx", wireAnswer(t, strings.Repeat("HTTP/1.1 102 Processing\r\nX: "+strings.Repeat("y", 1000)+"\r\n\r\n", 1000)), 502},
		{"huge head", wireAnswer(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("y", 1<<20)+"\r\n\r\n"), 502},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := oneRoute(forwardTo(test.target))
			cfg.Timeouts.ResponseHead = 300 * time.Millisecond
			p := start(t, cfg)
			for _, method := range []string{"GET", "POST"} {
				c := wireDial(t, addr(t, p, 0))
				fmt.Fprintf(c, "%s / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", method)
				begin := time.Now()
				got, _ := io.ReadAll(c)
				for wireStatus(string(got)) == 102 {
					_, rest, _ := bytes.Cut(got, []byte("\r\n\r\n"))
					got = rest
				}
				if wireStatus(string(got)) != test.status {
					t.Errorf("%s: got %.80q, want %d", method, got, test.status)
				}
				if d := time.Since(begin); d > 3*time.Second {
					t.Errorf("%s took %v", method, d)
				}
				// Internals have no place in what strangers see.
				if s := string(got); strings.Contains(s, "127.0.0.1") || strings.Contains(s, "dial") {
					t.Errorf("the answer tells about the inside: %q", got)
				}
			}
			eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
		})
	}
}

// A body that stands still for longer than Timeouts.Idle ends, both ways.
func TestHTTPStalledBody(t *testing.T) {
	release := make(chan struct{})
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upload" {
			io.Copy(io.Discard, r.Body)
			return
		}
		io.WriteString(w, "beginning")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	})
	defer close(release)
	cfg := oneRoute(forwardTo(target))
	cfg.Timeouts.Idle = 300 * time.Millisecond
	p := start(t, cfg)
	ended := func(t *testing.T, c net.Conn) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		b, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("still open 3s later, with Timeouts.Idle 300ms; got %q", b)
		}
	}
	t.Run("target stalls", func(t *testing.T) {
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, "GET /download HTTP/1.1\r\nHost: a\r\n\r\n")
		ended(t, c)
	})
	t.Run("client stalls", func(t *testing.T) {
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
		ended(t, c)
	})
	t.Run("nobody reads what the client does not send", func(t *testing.T) {
		cfg := oneRoute(Action{Handler: says("ok")})
		cfg.Timeouts.Idle = 300 * time.Millisecond
		c := wireDial(t, addr(t, start(t, cfg), 0))
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
		ended(t, c)
	})
	t.Run("client does not read", func(t *testing.T) {
		_, endless := backend(t, func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		})
		cfg := oneRoute(forwardTo(endless))
		cfg.Timeouts.Idle = 300 * time.Millisecond
		p := start(t, cfg)
		c := wireDial(t, addr(t, p, 0))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		eventually(t, "request given up", func() bool { s := p.Stats(); return s.Requests == 1 && s.Routes[0].Active == 0 })
	})
}

// A deadline of one request must not reach into the next on its connection.
func TestHTTPIdleBetweenRequests(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}
	_, target := backend(t, echo)
	for name, a := range map[string]Action{"forward": forwardTo(target), "handler": {Handler: http.HandlerFunc(echo)}} {
		cfg := oneRoute(a)
		cfg.Timeouts.Idle = 100 * time.Millisecond
		p := start(t, cfg)
		c := wireDial(t, addr(t, p, 0))
		r := bufio.NewReader(c)
		for i := range 3 {
			// The first thing to be written is net/http's own 100 Continue.
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			time.Sleep(20 * time.Millisecond)
			io.WriteString(c, "body")
			resp, err := http.ReadResponse(r, nil)
			for err == nil && resp.StatusCode == 100 {
				resp, err = http.ReadResponse(r, nil)
			}
			if err != nil {
				t.Fatalf("%s: request %d: %v", name, i, err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "body" {
				t.Errorf("%s: request %d: %q, %v", name, i, b, err)
			}
			time.Sleep(150 * time.Millisecond) // longer than Idle, shorter than KeepAlive
		}
		c.Close()
	}
}

func TestHTTPKeepAliveTimeout(t *testing.T) {
	cfg := oneRoute(Action{Handler: says("ok")})
	cfg.Timeouts.KeepAlive = 200 * time.Millisecond
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	begin := time.Now()
	if b, err := io.ReadAll(c); err != nil || wireStatus(string(b)) != 200 {
		t.Errorf("%q, %v", b, err)
	}
	if d := time.Since(begin); d < 150*time.Millisecond || d > 3*time.Second {
		t.Errorf("closed after %v, want 200ms", d)
	}
	if n := p.Stats().Refused["badRequest"]; n != 0 {
		t.Errorf("an idle connection's end was counted as a bad request")
	}
}

// A client that breaks off or garbles its body is at fault, not the target.
func TestHTTPBadBody(t *testing.T) {
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the target saw a complete body")
		}
	})
	p := start(t, oneRoute(forwardTo(target)))
	for _, body := range []string{"zz\r\nabc\r\n0\r\n\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "ffffffffffffffffff\r\nabc", "-1\r\n"} {
		got := wireTalk(t, addr(t, p, 0), "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		if status := wireStatus(got); status != 400 && status != 0 {
			t.Errorf("body %q: got %d, want 400 or nothing", body, status)
		}
	}
	eventually(t, "nothing in flight", func() bool { return p.Stats().Targets[0].Active == 0 })
	if s := p.Stats().Targets[0]; s.Failures != 0 {
		t.Errorf("%d failures are held against the target", s.Failures)
	}
}

// An answer that comes before the whole request has been sent reaches the
// client, and the rest of the body is not taken for the next request.
func TestHTTPEarlyAnswer(t *testing.T) {
	var requests atomic.Int32
	target := wireServer(t, func(c net.Conn) { // unlike net/http it does not wait for the body
		if _, err := wireHead(bufio.NewReader(c)); err == nil {
			requests.Add(1)
			io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large")
			io.Copy(io.Discard, c)
		}
	})
	p := start(t, oneRoute(forwardTo(target)))
	for _, length := range []int{1000, 1_000_000} {
		requests.Store(0)
		c := wireDial(t, addr(t, p, 0))
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nbeginning", length)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "too large" || err != nil {
			t.Errorf("%d %q %v", resp.StatusCode, body, err)
		}
		if !resp.Close {
			t.Errorf("length %d: the connection stays open in the middle of a body", length)
		}
		io.WriteString(c, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if rest, _ := io.ReadAll(r); len(rest) > 0 || requests.Load() != 1 {
			t.Errorf("length %d: the rest of the body was answered: %q, %d requests", length, rest, requests.Load())
		}
		c.Close()
	}
}
