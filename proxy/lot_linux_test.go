package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// parked is how many directions wait without a goroutine.
func (p *Proxy) parked() int {
	l := &p.latest().lot
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.parked)
}

// relaying is how many goroutines of this process move bytes of streams.
func relaying() int {
	buf := make([]byte, 8<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "proxy.(*relay).run(")
}

// mustPark has all streams wait without goroutines.
func mustPark(t testing.TB, p *Proxy, directions int) {
	t.Helper()
	dozeOnce(p)
	eventually(t, "the streams are parked", func() bool { return p.parked() == directions })
}

func TestStreamThatStandsStillNeedsNoGoroutine(t *testing.T) {
	testenv.Goroutines(t)
	const count = 20
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	p := start(t, Config{Timeouts: Timeouts{Idle: 4 * time.Second}, Routes: []Route{streamRoute("raw", port, peer.target())}})
	conns := hold(t, addr(t, p, port), count)
	eventually(t, "all wait in the lot", func() bool { return p.parked() == 2*count })
	if n := relaying(); n > 0 {
		t.Errorf("%d goroutines", n)
	}
	for _, c := range conns {
		mustBounce(t, c, "hello")
	}
	begin := time.Now()
	if !isClosed(conns[0], 10*time.Second) {
		t.Fatal("a parked stream is never idle")
	}
	if d := time.Since(begin); d < 3*time.Second {
		t.Errorf("it ended after %v", d)
	}
}

// Whatever happens to a parked stream is noticed.
func TestParkedStream(t *testing.T) {
	testenv.Goroutines(t)
	servers := make(chan *net.TCPConn, 1)
	peer := tcpServer(t, func(c *net.TCPConn) {
		servers <- c
		<-t.Context().Done()
	})
	port := testenv.FreePort(t)
	route := streamRoute("raw", port, peer.target())
	p := start(t, Config{Timeouts: Timeouts{Drain: 20 * time.Millisecond, Idle: 16 * time.Second}, Routes: []Route{route}})
	read := func(c net.Conn) (string, error) {
		b := make([]byte, 100)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	park := func() (client, server *net.TCPConn) {
		client = dialTCP(t, addr(t, p, port))
		server = receive(t, servers)
		server.SetDeadline(time.Now().Add(20 * time.Second))
		mustPark(t, p, 2)
		return client, server
	}
	says := func(from, to net.Conn, text string) {
		t.Helper()
		io.WriteString(from, text)
		if got, err := read(to); got != text {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	gone := func() {
		t.Helper()
		eventually(t, "nothing is left", func() bool { return p.parked() == 0 && len(p.run.open()) == 0 })
	}
	for _, who := range []string{"client", "server"} {
		pair := func() (a, b *net.TCPConn) {
			client, server := park()
			if who == "client" {
				return client, server
			}
			return server, client
		}
		a, b := pair()
		says(a, b, "again")
		says(b, a, "and back")
		mustPark(t, p, 2) // for the second time
		says(a, b, "again")
		mustPark(t, p, 2)
		a.CloseWrite()
		if got, err := read(b); err != io.EOF {
			t.Errorf("%s ended its direction: %q, %v", who, got, err)
		}
		mustPark(t, p, 1)
		says(b, a, "the other direction goes on")
		mustPark(t, p, 1)
		b.CloseWrite()
		if got, err := read(a); err != io.EOF {
			t.Errorf("%s: the other ended its direction too: %q, %v", who, got, err)
		}
		gone()

		a, b = pair()
		breakOff(a)
		if _, err := read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s broke off: %v", who, err)
		}
		gone()
	}
	for name, cut := range map[string]func(){
		"drain": func() { update(t, p) },
		"Stop": func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if p.Stop(ctx) == nil {
				t.Error("Stop says that all was finished")
			}
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		update(t, p, route)
		client, server := park()
		cut()
		for _, c := range []*net.TCPConn{client, server} {
			if _, err := read(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v", name, err)
			}
		}
		gone()
	}
}

// Without epoll streams keep their goroutines, and go on.
func TestNoLot(t *testing.T) {
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{streamRoute("raw", port, peer.target())}})
	p.latest().lot.close()
	c := dialTCP(t, addr(t, p, port))
	for range 3 {
		mustBounce(t, c, "hello")
		dozeOnce(p)
	}
	if n := p.parked(); n > 0 {
		t.Errorf("%d parked", n)
	}
	mustBounce(t, c, "hello")
}

func TestPipesAreBounded(t *testing.T) {
	var p pipes
	var lent []*pipe
	for range maxPipes {
		one := p.get()
		if one == nil {
			testenv.Lacks(t, "this machine gives only %d pipes", len(lent))
		}
		lent = append(lent, one)
	}
	if p.get() != nil {
		t.Error("more than the maximum")
	}
	isOpen := func(one *pipe) bool {
		_, err := unix.FcntlInt(uintptr(one.r), unix.F_GETFD, 0)
		return err == nil
	}
	used := lent[0]
	if _, err := unix.Write(used.w, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	p.put(used, false)
	if isOpen(used) {
		t.Error("a pipe with something in it is kept")
	}
	for _, one := range lent[1:] {
		p.put(one, true)
	}
	open := 0
	for _, one := range lent[1:] {
		if isOpen(one) {
			open++
		}
	}
	if open != sparePipes {
		t.Errorf("%d pipes are kept", open)
	}
	one := p.get()
	if one == used {
		t.Error("the used pipe is back")
	}
	p.close()
	p.put(one, true)
	for _, one := range lent {
		if isOpen(one) {
			t.Error("a pipe is open after the end")
		}
	}
}
