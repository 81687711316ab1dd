package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Waits that no timeout of net/http bounds.

func TestUploadToTargetThatReadsNothing(t *testing.T) {
	deaf := wireServer(t, func(net.Conn) { <-t.Context().Done() })
	cfg := oneRoute(forwardTo(deaf))
	cfg.Timeouts.Idle, cfg.Timeouts.ResponseHead = 300*time.Millisecond, 300*time.Millisecond
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	go func() {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
		io.Copy(c, bytes.NewReader(make([]byte, 100000000)))
	}()
	eventually(t, "the request begins", func() bool { return p.Stats().Routes[0].Active == 1 })
	eventually(t, "the upload ends", func() bool { return p.Stats().Routes[0].Active == 0 })
}

// The target answers, and the client neither goes on with its body nor leaves.
func TestPausedUploadAfterEarlyAnswer(t *testing.T) {
	early := wireServer(t, func(c net.Conn) {
		wireHead(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
		io.Copy(io.Discard, c)
	})
	cfg := oneRoute(forwardTo(early))
	cfg.Timeouts.Idle = time.Second
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n0123456789")
	answer, _ := io.ReadAll(c)
	if wireStatus(string(answer)) != 401 {
		t.Errorf("got %q", answer)
	}
	eventually(t, "the connection ends", func() bool { return p.Stats().ActiveConnections == 0 })
}

// What a handler has hijacked is its own, also after it has returned.
func TestHijackedConnectionIsLeftAlone(t *testing.T) {
	ended := make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			ended <- err
			return
		}
		go func() {
			defer c.Close()
			_, err := rw.ReadByte()
			ended <- err
		}()
	})
	cfg := oneRoute(Action{Handler: h})
	cfg.Timeouts.Idle = 200 * time.Millisecond
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
	select {
	case err := <-ended:
		t.Fatalf("ended by itself: %v", err)
	case <-time.After(time.Second):
	}
	io.WriteString(c, "x")
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}

// A removed route ends although its client takes nothing of the response.
func TestDrainOfClientThatDoesNotRead(t *testing.T) {
	_, endless := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for b := make([]byte, 1<<20); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	cfg := oneRoute(forwardTo(endless))
	cfg.Timeouts.Drain = 200 * time.Millisecond
	p := start(t, cfg)
	c := wireDial(t, addr(t, p, 0))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	eventually(t, "the request begins", func() bool { return p.Stats().Routes[0].Active == 1 })
	time.Sleep(200 * time.Millisecond) // until it has filled what there is to fill
	if err := p.UpdateRoutes(t.Context(), []Route{handlerRoute("other", Match{Path: "/x"})}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection ends", func() bool { return p.Stats().ActiveConnections == 0 })
}

// A Proxy that starts again probes on its own behalf, not that of the run that
// has ended.
func TestProbesOfAnotherStart(t *testing.T) {
	_, target := backend(t, says("ok"))
	a := forwardTo(target)
	a.LoadBalancing.HealthCheck = &HealthCheck{Interval: time.Minute, UnhealthyAfter: 1}
	cfg := oneRoute(a)
	cfg.ListenHost = "127.0.0.1"
	p, err := New(cfg, WithLogger(testLogger(t)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		if s := p.Stats().Targets[0]; !s.Healthy {
			t.Errorf("start %d takes a live target for dead: %s", i, s.LastError)
		}
		p.Stop(t.Context())
	}
}

// White space tells nothing, and must not be collected for ever.
func TestSniffIsBounded(t *testing.T) {
	for _, fill := range []string{"\n", " ", "A", "\r\n", "A b"} {
		client, server := net.Pipe()
		go func() {
			for {
				if _, err := io.WriteString(client, fill); err != nil {
					return
				}
			}
		}()
		head, kind, err := sniff(server)
		if len(head) > 2*maxSniff || err == nil && kind != looksHTTP {
			t.Errorf("%q: %d bytes, kind %d, %v", fill, len(head), kind, err)
		}
		client.Close()
		server.Close()
	}
}
