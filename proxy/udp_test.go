package proxy

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// udpPeer is a UDP server; it counts whom it has heard and what.
type udpPeer struct {
	*net.UDPConn
	mu       sync.Mutex
	clients  map[string]int
	received atomic.Int64
}

func (s *udpPeer) target() Target { return targetOf(s.LocalAddr()) }

// sources is how many sockets have sent to it.
func (s *udpPeer) sources() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// udpServer answers each datagram with what answer returns, if that is not nil.
func udpServer(t testing.TB, answer func([]byte) []byte) *udpPeer {
	t.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	pc.SetReadBuffer(4 << 20)
	s := &udpPeer{UDPConn: pc, clients: make(map[string]int)}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFromUDP(buf)
			if err != nil {
				return
			}
			s.received.Add(1)
			s.mu.Lock()
			s.clients[from.String()]++
			s.mu.Unlock()
			if b := answer(buf[:n]); b != nil {
				pc.WriteToUDP(b, from)
			}
		}
	})
	t.Cleanup(func() {
		pc.Close()
		running.Wait()
	})
	return s
}

func udpEcho(t testing.TB) *udpPeer { return udpServer(t, func(b []byte) []byte { return b }) }

// udpNamed answers with its name.
func udpNamed(t testing.TB, name string) *udpPeer {
	return udpServer(t, func([]byte) []byte { return []byte(name) })
}

func udpRoute(name string, port int, targets ...Target) Route {
	return Route{Name: name, Match: Match{Ports: Ports(port), Protocol: "udp"}, Action: forwardTo(targets...)}
}

// udpAddr returns where the proxy reads datagrams for a port of its routes.
func udpAddr(t testing.TB, p *Proxy, port int) string {
	t.Helper()
	a := p.PacketAddr(port)
	if a == nil {
		t.Fatalf("no packet socket for port %d", port)
	}
	return a.String()
}

// dialUDP makes a client that hears from addr only.
func dialUDP(t testing.TB, addr string) *net.UDPConn { return dialUDPFrom(t, "", addr) }

func dialUDPFrom(t testing.TB, from, addr string) *net.UDPConn {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.UDPConn)
}

// exchangeUDP sends and returns the next datagram.
func exchangeUDP(c net.Conn, b []byte) ([]byte, error) {
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	return buf[:n], err
}

func mustExchangeUDP(t testing.TB, c net.Conn, text string) string {
	t.Helper()
	got, err := exchangeUDP(c, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// noAnswerUDP sends and sees that nothing comes back for a while.
func noAnswerUDP(t testing.TB, c net.Conn, text string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := exchangeUDP(c, []byte(text)); err == nil {
		t.Errorf("%q was answered with %q", text, got)
	}
}

// Every size arrives as it was sent, both ways and in order.
func TestUDPDatagrams(t *testing.T) {
	testenv.Goroutines(t)
	echo := udpEcho(t)
	p := start(t, Config{Routes: []Route{udpRoute("udp", 0, echo.target())}})
	c := dialUDP(t, udpAddr(t, p, 0))
	total := 0
	for _, size := range []int{1, 0, 2, 511, 512, 1232, 1472, 1473, 8 << 10, 32 << 10, 65000, 65507, 0, 1} {
		b := bytes.Repeat([]byte{byte(size)}, size)
		got, err := exchangeUDP(c, b)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes: %d bytes came back, %v", size, len(got), err)
		}
		total += size
	}
	for round := range 20 {
		for i := range 50 {
			fmt.Fprintf(c, "%d %d", round, i)
		}
		buf := make([]byte, 100)
		for i := range 50 {
			n, err := c.Read(buf)
			if want := fmt.Sprintf("%d %d", round, i); err != nil || string(buf[:n]) != want {
				t.Fatalf("%q, %v, want %q", buf[:n], err, want)
			}
			total += n
		}
	}
	if n := echo.sources(); n != 1 {
		t.Errorf("the target saw %d clients, want 1", n)
	}
	s := routeStats(p, "udp")
	if s.Active != 1 || s.Streams != 1 || s.BytesIn != uint64(total) || s.BytesOut != uint64(total) {
		t.Errorf("%+v, want %d bytes", s, total)
	}
	if s := p.Stats(); s.UDPSessions != 1 || s.ActiveConnections != 0 || len(s.Targets) != 1 || s.Targets[0].Name != echo.LocalAddr().String()+"/udp" || s.Targets[0].Active != 1 || s.Targets[0].Total != 1 {
		t.Errorf("%+v", s)
	}
}
