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
		waitAll(t, &running)
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
	eventually(t, "all is counted", func() bool { return routeStats(p, "udp").BytesOut == uint64(total) })
	if s := routeStats(p, "udp"); s.Active != 1 || s.Streams != 1 || s.BytesIn != uint64(total) {
		t.Errorf("%+v, want %d bytes", s, total)
	}
	if s := p.Stats(); s.UDPSessions != 1 || s.ActiveConnections != 0 || len(s.Targets) != 1 || s.Targets[0].Name != echo.LocalAddr().String()+"/udp" || s.Targets[0].Active != 1 || s.Targets[0].Total != 1 {
		t.Errorf("%+v", s)
	}
}

// A client stays with its target; clients are spread as the algorithm says.
func TestUDPBalancing(t *testing.T) {
	testenv.Goroutines(t)
	a, b, c := udpNamed(t, "a"), udpNamed(t, "b"), udpNamed(t, "c")
	heavy := b.target()
	heavy.Weight = 3
	hashed := udpRoute("hashed", testenv.FreePort(t), a.target(), b.target(), c.target())
	hashed.Action.LoadBalancing.Algorithm = IPHash
	p := start(t, Config{Routes: []Route{udpRoute("weighted", 0, a.target(), heavy), hashed}})
	spread := func(port, n int) map[string]int {
		t.Helper()
		seen := make(map[string]int)
		for range n {
			c := dialUDP(t, udpAddr(t, p, port))
			first := mustExchangeUDP(t, c, "1")
			for range 3 {
				if got := mustExchangeUDP(t, c, "2"); got != first {
					t.Fatalf("a client of %s was sent to %s", first, got)
				}
			}
			seen[first]++
		}
		return seen
	}
	if seen := spread(0, 20); seen["a"] != 5 || seen["b"] != 15 {
		t.Errorf("by weight: %v", seen)
	}
	if seen := spread(hashed.Match.Ports[0].From, 10); len(seen) != 1 {
		t.Errorf("one address by hash: %v", seen)
	}
	least := udpRoute("least", testenv.FreePort(t), udpNamed(t, "d").target(), udpNamed(t, "e").target(), udpNamed(t, "f").target())
	least.Action.LoadBalancing.Algorithm = LeastConnections
	update(t, p, least)
	if seen := spread(least.Match.Ports[0].From, 9); seen["d"] != 3 || seen["e"] != 3 || seen["f"] != 3 {
		t.Errorf("least connections: %v", seen)
	}
}

// Only the target's datagrams reach the client.
func TestUDPStrangersAreNotHeard(t *testing.T) {
	testenv.Goroutines(t)
	echo := udpEcho(t)
	p := start(t, Config{Routes: []Route{udpRoute("udp", 0, echo.target())}})
	c := dialUDP(t, udpAddr(t, p, 0))
	mustExchangeUDP(t, c, "hello")
	echo.mu.Lock()
	var session string
	for session = range echo.clients {
	}
	echo.mu.Unlock()
	stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	to, err := net.ResolveUDPAddr("udp", session)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		stranger.WriteTo([]byte("forged"), to)
	}
	if got := mustExchangeUDP(t, c, "still"); got != "still" {
		t.Errorf("%q", got)
	}
}

func TestUDPSessionsEndWhenIdle(t *testing.T) {
	t.Parallel()
	const idle = 1200 * time.Millisecond
	echo := udpEcho(t)
	stream := udpServer(t, func(b []byte) []byte { return nil })
	port := testenv.FreePort(t)
	p := startBare(t, Config{Timeouts: Timeouts{UDPIdle: idle}, Routes: []Route{udpRoute("echo", 0, echo.target()), udpRoute("stream", port, stream.target())}})
	c := dialUDP(t, udpAddr(t, p, 0))
	mustExchangeUDP(t, c, "one")
	begin := time.Now()
	eventually(t, "it ends", func() bool { return p.Stats().UDPSessions == 0 })
	if d := time.Since(begin); d < idle*9/10 {
		t.Errorf("ended after %v, want %v", d, idle)
	}
	mustExchangeUDP(t, c, "two")
	if n := echo.sources(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	// The client's datagrams alone keep it, and so do the target's.
	quiet := dialUDP(t, udpAddr(t, p, port))
	for range 9 {
		quiet.Write([]byte("tick"))
		time.Sleep(idle / 6)
	}
	if n := stream.sources(); n != 1 {
		t.Errorf("%d sessions of a client that goes on sending", n)
	}
	stream.mu.Lock()
	var session string
	for session = range stream.clients {
	}
	stream.mu.Unlock()
	to, _ := net.ResolveUDPAddr("udp", session)
	for range 9 {
		stream.WriteTo([]byte("tock"), to)
		time.Sleep(idle / 6)
	}
	quiet.Write([]byte("still there?"))
	eventually(t, "all is received", func() bool { return stream.received.Load() == 10 })
	if n := stream.sources(); n != 1 {
		t.Errorf("%d sessions of a target that goes on sending", n)
	}
	eventually(t, "all end", func() bool { return p.Stats().UDPSessions == 0 })
	for _, s := range p.Stats().Targets {
		if s.Active != 0 {
			t.Errorf("%+v", s)
		}
	}
	if a, b := routeStats(p, "echo").Active, routeStats(p, "stream").Active; a != 0 || b != 0 {
		t.Errorf("active: %d, %d", a, b)
	}
}

func TestUDPWithoutIdleLimit(t *testing.T) {
	testenv.Goroutines(t)
	p := start(t, Config{Timeouts: Timeouts{UDPIdle: -1}, Routes: []Route{udpRoute("udp", 0, udpEcho(t).target())}})
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "hello")
	if n := p.Stats().UDPSessions; n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestUDPLimits(t *testing.T) {
	other := testenv.Loopback(t, "127.0.0.2")
	echo := udpEcho(t)
	serve := func(t *testing.T, cfg Config, change func(*Route)) *Proxy {
		r := udpRoute("udp", 0, echo.target())
		if change != nil {
			change(&r)
		}
		cfg.Routes = []Route{r}
		cfg.Timeouts.UDPIdle = 200 * time.Millisecond
		return start(t, cfg)
	}
	// full sees that two clients of an address are served and a third is not.
	full := func(t *testing.T, p *Proxy, from, reason string) {
		t.Helper()
		before := p.Stats().Refused[reason]
		mustExchangeUDP(t, dialUDPFrom(t, from, udpAddr(t, p, 0)), "one")
		mustExchangeUDP(t, dialUDPFrom(t, from, udpAddr(t, p, 0)), "two")
		third := dialUDPFrom(t, from, udpAddr(t, p, 0))
		noAnswerUDP(t, third, "three")
		if n := p.Stats().Refused[reason] - before; n != 1 {
			t.Errorf("%d counted as %s, want 1", n, reason)
		}
	}
	gone := func(t *testing.T, p *Proxy) {
		t.Helper()
		eventually(t, "all end", func() bool { return p.Stats().UDPSessions == 0 })
		r := p.latest()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.udpPerIP) > 0 {
			t.Errorf("still counted: %v", r.udpPerIP)
		}
	}
	for name, test := range map[string]struct {
		cfg    Config
		change func(*Route)
		reason string
	}{
		"of the route":    {Config{}, func(r *Route) { r.Action.Security.MaxConnections = 2 }, "routeFull"},
		"of connections":  {Config{MaxConnections: 2}, nil, "tooManyConnections"},
		"of sessions":     {Config{MaxUDPSessions: 2}, nil, "tooManyConnections"},
		"of one address":  {Config{MaxConnectionsPerIP: 2}, nil, "tooManyPerIp"},
		"of two and more": {Config{MaxConnectionsPerIP: 2, MaxConnections: 5}, nil, "tooManyPerIp"},
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, test.cfg, test.change)
			for range 2 {
				full(t, p, "127.0.0.1", test.reason)
				if test.reason == "tooManyPerIp" {
					full(t, p, other, test.reason)
				}
				gone(t, p)
			}
		})
	}
	// Anybody can send datagrams in the name of others.
	t.Run("sessions take nothing from connections", func(t *testing.T) {
		raw := testenv.FreePort(t)
		p := start(t, Config{MaxConnections: 2, MaxConnectionsPerIP: 2, Routes: []Route{udpRoute("udp", 0, echo.target()), streamRoute("raw", raw, tcpEcho(t).target())}})
		for range 2 {
			mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "session")
		}
		for range 2 {
			mustBounce(t, dialTCP(t, addr(t, p, raw)), "connection")
		}
		noAnswerUDP(t, dialUDP(t, udpAddr(t, p, 0)), "three")
		if c := dialTCP(t, addr(t, p, raw)); !isClosed(c, 5*time.Second) {
			t.Error("a connection too many is open")
		}
	})
	t.Run("lists", func(t *testing.T) {
		p := serve(t, Config{}, func(r *Route) {
			r.Action.Security = Security{IPAllowList: []string{"127.0.0.0/8"}, IPBlockList: []string{other}}
		})
		mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "hello")
		noAnswerUDP(t, dialUDPFrom(t, other, udpAddr(t, p, 0)), "hello")
		if s := p.Stats(); s.Refused["blocked"] != 1 || s.Routes[0].Blocked != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestUDPRouting(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	port := testenv.FreePort(t)
	low := udpRoute("low", 0, udpNamed(t, "low").target())
	second := udpRoute("second", 0, udpNamed(t, "second").target())
	second.Match.ClientIP = []string{other}
	high := udpRoute("high", 0, udpNamed(t, "high").target())
	high.Match.ClientIP, high.Priority = []string{other}, 1
	off := udpRoute("off", 0, udpNamed(t, "off").target())
	off.Priority, off.Enabled = 2, new(bool)
	only := udpRoute("only", port, udpNamed(t, "only").target())
	only.Match.ClientIP = []string{other}
	p := start(t, Config{Routes: []Route{low, second, only, off}})
	ask := func(port int, from, want string) {
		t.Helper()
		if got := mustExchangeUDP(t, dialUDPFrom(t, from, udpAddr(t, p, port)), "who?"); got != want {
			t.Errorf("%s was sent to %s, want %s", from, got, want)
		}
	}
	ask(0, "127.0.0.1", "low")
	ask(0, other, "second")
	ask(port, other, "only")
	noAnswerUDP(t, dialUDP(t, udpAddr(t, p, port)), "nobody?")
	if n := p.Stats().Refused["noRoute"]; n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
	stays := dialUDPFrom(t, other, udpAddr(t, p, 0))
	mustExchangeUDP(t, stays, "who?")
	update(t, p, low, second, only, off, high)
	ask(0, other, "high")
	if got := mustExchangeUDP(t, stays, "and now?"); got != "second" {
		t.Errorf("a session moved to %s", got)
	}
}

// What the host's code is told about a client.
func TestUDPPortFunc(t *testing.T) {
	testenv.Goroutines(t)
	echo := udpEcho(t)
	infos := make(chan ConnInfo, 1)
	target := echo.target()
	right := target.Port
	target.Port = 0
	target.PortFunc = func(i ConnInfo) int {
		infos <- i
		return right
	}
	panics := Target{Host: "127.0.0.1", PortFunc: func(ConnInfo) int { panic("of the host") }}
	wrong := Target{Host: "127.0.0.1", PortFunc: func(ConnInfo) int { return 0 }}
	port, port2 := testenv.FreePort(t), testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{udpRoute("chosen", 0, target), udpRoute("panics", port, panics), udpRoute("wrong", port2, wrong)}})
	c := dialUDP(t, udpAddr(t, p, 0))
	mustExchangeUDP(t, c, "hello")
	if i := receive(t, infos); i.Client.String() != c.LocalAddr().String() || i.Local.String() != c.RemoteAddr().String() || i.Port != 0 || i.Route != "chosen" || i.ID == "" {
		t.Errorf("%+v", i)
	}
	for _, port := range []int{port, port2} {
		c := dialUDP(t, udpAddr(t, p, port))
		noAnswerUDP(t, c, "hello")
		noAnswerUDP(t, c, "again")
	}
	eventually(t, "they end", func() bool { return p.Stats().UDPSessions == 1 })
	if n := p.Stats().Refused["unreachable"]; n != 2 {
		t.Errorf("%d unreachable, want 2", n)
	}
	mustExchangeUDP(t, c, "still")
}
