package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tcpPeer is a TCP server for streams; it counts the connections it accepted.
type tcpPeer struct {
	net.Listener
	accepted atomic.Int64
	open     atomic.Int64
}

// target leads to it.
func (s *tcpPeer) target() Target { return targetOf(s.Addr()) }

// tcpServer calls serve with each connection and closes it afterwards.
func tcpServer(t testing.TB, serve func(*net.TCPConn)) *tcpPeer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tcpPeer{Listener: ln}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.open.Add(1)
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					c.Close()
					s.open.Add(-1)
					mu.Lock()
					delete(conns, c)
					mu.Unlock()
				}()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		waitAll(t, &wg)
	})
	return s
}

// tcpEcho sends back what it gets and half-closes after its client did.
func tcpEcho(t testing.TB) *tcpPeer {
	return tcpServer(t, func(c *net.TCPConn) { io.Copy(c, c) })
}

// dialTCP connects for the time of the test.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// bounce sends a message and expects it back.
func bounce(rw io.ReadWriter, msg string) error {
	if _, err := io.WriteString(rw, msg); err != nil {
		return err
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(rw, got); err != nil {
		return err
	}
	if string(got) != msg {
		return fmt.Errorf("sent %q, got %q", msg, got)
	}
	return nil
}

func mustBounce(t testing.TB, rw io.ReadWriter, msg string) {
	t.Helper()
	if err := bounce(rw, msg); err != nil {
		t.Fatal(err)
	}
}

// isClosed waits until the peer ends or resets a connection.
func isClosed(c net.Conn, within time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(within))
	defer c.SetReadDeadline(time.Time{})
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// isOpen sees that nothing ends the connection for a while.
func isOpen(c net.Conn, during time.Duration) bool {
	c.SetReadDeadline(time.Now().Add(during))
	defer c.SetReadDeadline(time.Time{})
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func update(t testing.TB, p *Proxy, routes ...Route) {
	t.Helper()
	if err := p.UpdateRoutes(t.Context(), routes); err != nil {
		t.Fatal(err)
	}
}

func streamRoute(name string, port int, targets ...Target) Route {
	return Route{Name: name, Match: Match{Ports: Ports(port), Protocol: "tcp"}, Action: forwardTo(targets...)}
}

func httpRoute(name string, port int, domain string, targets ...Target) Route {
	return Route{Name: name, Match: Match{Ports: Ports(port), Domains: []string{domain}, Protocol: "http"}, Action: forwardTo(targets...)}
}

func routeStats(p *Proxy, name string) RouteStats {
	for _, r := range p.Stats().Routes {
		if r.Name == name {
			return r
		}
	}
	return RouteStats{}
}

func targetStats(p *Proxy, t Target) TargetStats {
	for _, s := range p.Stats().Targets {
		if s.Name == net.JoinHostPort(t.Host, fmt.Sprint(t.Port)) {
			return s
		}
	}
	return TargetStats{}
}

// upgradeEcho answers an Upgrade and then echoes, as a WebSocket echo server
// without its framing would.
func upgradeEcho(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		http.Error(w, "upgrade to echo expected", http.StatusUpgradeRequired)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	io.Copy(c, rw)
}

// dialUpgrade opens an upgraded connection through the proxy.
func dialUpgrade(t testing.TB, addr, host string) io.ReadWriter {
	t.Helper()
	c := dialTCP(t, addr)
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", host)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade answered %s", resp.Status)
	}
	return struct {
		io.Reader
		io.Writer
	}{br, c}
}

// sseServer sends an event every few milliseconds until its client leaves.
func sseServer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; r.Context().Err() == nil; i++ {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
