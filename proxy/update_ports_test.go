package proxy

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A port changes its kind as a whole or not at all.
func TestUpdateChangesKindOfPort(t *testing.T) {
	peer, echo := tcpEcho(t), udpEcho(t)
	port := testenv.FreePort(t)
	busy, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	p := start(t, Config{Routes: []Route{streamRoute("r", port, peer.target())}})
	open := dialTCP(t, addr(t, p, port))
	mustBounce(t, open, "before")
	asUDP := udpRoute("r", port, echo.target())
	if err := p.UpdateRoutes(t.Context(), []Route{asUDP}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken for UDP: %v", err)
	}
	mustBounce(t, open, "after")
	mustBounce(t, dialTCP(t, addr(t, p, port)), "anew")

	busy.Close()
	update(t, p, asUDP)
	if p.Addr(port) != nil || p.PacketAddr(port) == nil {
		t.Errorf("listens on %v", p.Addrs())
	}
	update(t, p, streamRoute("r", port, peer.target()))
	mustBounce(t, dialTCP(t, addr(t, p, port)), "back")
}

func TestUpdateAddsAndRemovesPorts(t *testing.T) {
	peer := tcpEcho(t)
	a, b, c := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
	p := start(t, Config{})
	if got := p.Addrs(); len(got) != 0 {
		t.Fatalf("listens on %v", got)
	}
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	check := func(ports ...int) {
		t.Helper()
		open := map[int]bool{}
		for _, port := range ports {
			open[port] = true
		}
		for _, port := range []int{a, b, c} {
			conn, err := net.Dial("tcp", at(port))
			if (err == nil) != open[port] {
				t.Errorf("port %d: dial says %v, want open %v", port, err, open[port])
			}
			if err == nil {
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				mustBounce(t, conn, "hello")
				conn.Close()
			}
			if (p.Addr(port) != nil) != open[port] {
				t.Errorf("Addr(%d) is %v", port, p.Addr(port))
			}
		}
		if n := len(p.Addrs()); n != len(ports) {
			t.Errorf("%d addresses, want %d", n, len(ports))
		}
	}
	for range 5 {
		update(t, p, streamRoute("a", a, peer.target()))
		check(a)
		update(t, p, streamRoute("a", a, peer.target()), streamRoute("b", b, peer.target()))
		check(a, b)
		ab := streamRoute("a", c, peer.target())
		ab.Match.Ports = append(ab.Match.Ports, Ports(b)...)
		update(t, p, ab)
		check(b, c)
		disabled := streamRoute("a", a, peer.target())
		disabled.Enabled = new(bool)
		update(t, p, disabled)
		check()
	}
}
