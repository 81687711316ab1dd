package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// udpClosed reports whether a port can be bound.
func udpClosed(addr string) bool {
	pc, err := net.ListenPacket("udp", addr)
	if err == nil {
		pc.Close()
	}
	return err == nil
}

// An update leaves sessions alone whose route and target stay, and ends others
// after the time to drain; a port closes with the last one.
func TestUDPUpdates(t *testing.T) {
	t.Parallel()
	a, b := udpNamed(t, "a"), udpNamed(t, "b")
	port, gonePort := testenv.FreePort(t), testenv.FreePort(t)
	both := udpRoute("both", port, a.target(), b.target())
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{both, udpRoute("gone", gonePort, a.target())}})
	byTarget := make(map[string]*net.UDPConn)
	for len(byTarget) < 2 {
		c := dialUDP(t, udpAddr(t, p, port))
		byTarget[mustExchangeUDP(t, c, "who?")] = c
	}
	gone := dialUDP(t, udpAddr(t, p, gonePort))
	mustExchangeUDP(t, gone, "who?")
	goneAddr := udpAddr(t, p, gonePort)

	// Nothing changes for those that stay.
	for i := range 5 {
		c := udpNamed(t, "c")
		both.Action.Targets = []Target{a.target(), b.target(), c.target()}
		both.Action.Security.MaxConnections = 100 + i
		update(t, p, both, udpRoute("gone", gonePort, a.target()))
		for name, c := range byTarget {
			if got := mustExchangeUDP(t, c, "who?"); got != name {
				t.Errorf("a client of %s was sent to %s", name, got)
			}
		}
	}
	if a.sources() > 10 { // not one more for each update
		t.Errorf("%d sessions with a", a.sources())
	}

	both.Action.Targets = []Target{b.target()}
	update(t, p, both)
	removed := time.Now()
	if len(p.Addrs()) != 1 || p.PacketAddr(gonePort) != nil {
		t.Errorf("listens on %v", p.Addrs())
	}
	noAnswerUDP(t, dialUDP(t, goneAddr), "a new client of a removed route")
	for _, c := range []*net.UDPConn{gone, byTarget["a"]} {
		if got := mustExchangeUDP(t, c, "who?"); got != "a" {
			t.Errorf("a session that drains was sent to %s", got)
		}
	}
	var moved time.Duration
	eventually(t, "the client of a removed target moves", func() bool {
		byTarget["a"].SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // one may be lost as it moves
		got, err := exchangeUDP(byTarget["a"], []byte("who?"))
		moved = time.Since(removed)
		return err == nil && string(got) == "b"
	})
	if moved < drainTime*9/10 {
		t.Errorf("moved after %v, want %v", moved, drainTime)
	}
	if got := mustExchangeUDP(t, byTarget["b"], "who?"); got != "b" {
		t.Errorf("the client of b was sent to %s", got)
	}
	eventually(t, "the removed port closes", func() bool { return udpClosed(goneAddr) })
	if d := time.Since(removed); d < drainTime*9/10 {
		t.Errorf("closed after %v, want %v", d, drainTime)
	}

	// A port without sessions closes at once.
	if update(t, p, both, udpRoute("gone", gonePort, a.target())); udpClosed(goneAddr) {
		t.Error("the port is not back")
	}
	if update(t, p, both); !udpClosed(goneAddr) {
		t.Error("an unused port is open")
	}
}

func TestUDPPortComesBack(t *testing.T) {
	t.Parallel()
	a := udpNamed(t, "a")
	r := udpRoute("udp", 0, a.target())
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{r}})
	at := udpAddr(t, p, 0)
	c := dialUDP(t, at)
	mustExchangeUDP(t, c, "one")
	for range 20 {
		update(t, p)
		mustExchangeUDP(t, c, "two")
		update(t, p, r)
		if got := udpAddr(t, p, 0); got != at {
			t.Fatalf("came back as %s, was %s", got, at)
		}
		mustExchangeUDP(t, c, "three")
	}
	mustExchangeUDP(t, dialUDP(t, at), "a new client")
	time.Sleep(drainTime * 3 / 2)
	mustExchangeUDP(t, c, "four")
	if n := a.sources(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

func TestUDPStop(t *testing.T) {
	sameGoroutines(t)
	echo := udpEcho(t)
	port := testenv.FreePort(t)
	p := newProxy(t, Config{Routes: []Route{udpRoute("udp", port, echo.target())}})
	before := openFiles(t)
	for range 5 {
		mustStart(t, p)
		at := udpAddr(t, p, port)
		var clients []*net.UDPConn
		for range 20 {
			c := dialUDP(t, at)
			mustExchangeUDP(t, c, "hello")
			clients = append(clients, c)
		}
		begin := time.Now()
		if err := stopWithin(p, 10*time.Second); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("Stop took %v: it waits for what has no end", d)
		}
		if !udpClosed(at) {
			t.Error("the port is still open")
		}
		if p.PacketAddr(port) != nil || p.Addrs() != nil {
			t.Error("a stopped Proxy has addresses")
		}
		for _, c := range clients {
			c.Close()
		}
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d open files, %d before", n, before)
	}
}

// A dead target is found by what comes back (ICMP), and left alone for a while.
func TestUDPDeadTarget(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems report it in other ways")
	}
	testenv.Goroutines(t)
	alive := udpNamed(t, "alive")
	dead := Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
	port := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{udpRoute("both", 0, dead, alive.target()), udpRoute("dead", port, dead)}})
	stats := func() TargetStats {
		for _, s := range p.Stats().Targets {
			if s.Name == fmt.Sprintf("127.0.0.1:%d/udp", dead.Port) {
				return s
			}
		}
		return TargetStats{}
	}
	// Whoever comes first may get the dead one; his next datagram does not.
	for range 4 {
		c := dialUDP(t, udpAddr(t, p, 0))
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := exchangeUDP(c, []byte("who?")); err != nil {
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if got := mustExchangeUDP(t, c, "who?"); got != "alive" {
				t.Errorf("%q", got)
			}
		}
	}
	if s := stats(); s.Healthy || s.Failures != 1 || s.LastError == "" {
		t.Errorf("%+v", s)
	}
	for range 20 {
		mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "who?")
	}
	if s := stats(); s.Failures != 1 {
		t.Errorf("tried while it is known to be dead: %+v", s)
	}
	// Where there is no other it is tried each time, and the session ends.
	c := dialUDP(t, udpAddr(t, p, port))
	for range 10 {
		before := stats().Failures
		c.Write([]byte("anyone?"))
		eventually(t, "its session ends", func() bool { return stats().Failures > before && routeStats(p, "dead").Active == 0 })
	}
	if s := stats(); s.Active != 0 {
		t.Errorf("%+v", s)
	}
	// It is there again.
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", dead.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c.Write([]byte("and now?"))
	buf := make([]byte, 100)
	pc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, from, err := pc.ReadFrom(buf); err != nil || string(buf[:n]) != "and now?" {
		t.Errorf("%q, %v", buf[:n], err)
	} else {
		pc.WriteTo([]byte("here"), from)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "here" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	eventually(t, "it counts as healthy", func() bool { return stats().Healthy })
}

// Clients that are gone while answers come do not disturb the others.
func TestUDPDeadClients(t *testing.T) {
	testenv.Goroutines(t)
	burst := udpServer(t, func(b []byte) []byte { return b })
	p := start(t, Config{Routes: []Route{udpRoute("udp", 0, burst.target())}})
	stays := dialUDP(t, udpAddr(t, p, 0))
	for n := range 50 {
		c := dialUDPFrom(t, fmt.Sprintf("127.0.2.%d", n+1), udpAddr(t, p, 0)) // ports come again
		for range 10 {
			c.Write([]byte("hello"))
		}
		c.Close()
		if got := mustExchangeUDP(t, stays, "still"); got != "still" {
			t.Errorf("%q", got)
		}
	}
	if n := p.Stats().Routes[0].Streams; n != 51 {
		t.Errorf("%d sessions, want 51", n)
	}
}

func TestUDPHealthCheck(t *testing.T) {
	testenv.Goroutines(t)
	// Both answer datagrams, but only one is well by its TCP port.
	good, bad := udpNamed(t, "good"), udpNamed(t, "bad")
	tcp, err := net.Listen("tcp", good.LocalAddr().String())
	for err != nil { // somebody else's
		good = udpNamed(t, "good")
		tcp, err = net.Listen("tcp", good.LocalAddr().String())
	}
	defer tcp.Close()
	r := checked(udpRoute("udp", 0, good.target(), bad.target()), HealthCheck{Interval: 10 * time.Millisecond, UnhealthyAfter: 1})
	p := start(t, Config{Routes: []Route{r}})
	eventually(t, "the bad one is found", func() bool {
		s := p.Stats().Targets
		return len(s) == 2 && s[0].Healthy != s[1].Healthy
	})
	for range 10 {
		if got := mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "who?"); got != "good" {
			t.Errorf("sent to %s", got)
		}
	}
}

// TCP and UDP share port numbers but nothing else.
func TestUDPBesideTCP(t *testing.T) {
	testenv.Goroutines(t)
	echo, tcp := udpEcho(t), tcpEcho(t)
	port := testenv.FreePort(t)
	_, web := backend(t, says("web"))
	p := start(t, Config{Routes: []Route{
		udpRoute("udp", port, echo.target()), streamRoute("tcp", port, tcp.target()),
		udpRoute("any udp", 0, echo.target()), httpRoute("any tcp", 0, "a.test", web)}})
	var networks []string
	for _, a := range p.Addrs() {
		networks = append(networks, a.Network())
	}
	if fmt.Sprint(networks) != "[tcp tcp udp udp]" {
		t.Errorf("addresses %v", p.Addrs())
	}
	if addr(t, p, port) != udpAddr(t, p, port) {
		t.Errorf("%s and %s", addr(t, p, port), udpAddr(t, p, port))
	}
	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "stream")
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, port)), "datagram")
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "datagram")
	keep := client(t, addr(t, p, 0), nil)
	get(t, keep, "http://a.test/")

	// One goes, the other stays.
	update(t, p, udpRoute("udp", port, echo.target()), udpRoute("any udp", 0, echo.target()))
	if p.Addr(port) != nil || p.Addr(0) != nil || len(p.Addrs()) != 2 {
		t.Errorf("addresses %v", p.Addrs())
	}
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, port)), "datagram")
	// A connection to a port without routes ends with its next request.
	resp, err := keep.Get("http://a.test/")
	if err != nil || resp.StatusCode != 404 || !resp.Close {
		t.Errorf("%+v, %v", resp, err)
	}
	resp.Body.Close()
	update(t, p, streamRoute("tcp", port, tcp.target()))
	if p.PacketAddr(port) != nil || p.PacketAddr(0) != nil || len(p.Addrs()) != 1 {
		t.Errorf("addresses %v", p.Addrs())
	}
	mustBounce(t, dialTCP(t, addr(t, p, port)), "stream")
}

// If one port cannot be bound, none is.
func TestUDPBindsAllOrNothing(t *testing.T) {
	testenv.Goroutines(t)
	echo, tcp := udpEcho(t), tcpEcho(t)
	busy, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	given, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad := udpRoute("bad", targetOf(busy.LocalAddr()).Port, echo.target())
	fine, fineTCP := udpRoute("fine", testenv.FreePort(t), echo.target()), streamRoute("fine too", testenv.FreePort(t), tcp.target())
	mine := udpRoute("mine", 7, echo.target())
	all := []Route{fine, fineTCP, mine, bad}
	p := newProxy(t, Config{Routes: all}, WithPacketConn("127.0.0.1:7", given))
	free := func() {
		t.Helper()
		if !udpClosed(fmt.Sprintf("127.0.0.1:%d", fine.Match.Ports[0].From)) || !refused(fmt.Sprintf("127.0.0.1:%d", fineTCP.Match.Ports[0].From)) {
			t.Error("a port is still open")
		}
	}
	if err := p.Start(t.Context()); err == nil {
		t.Fatal("no error")
	}
	free()
	if err := p.UpdateRoutes(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	mustStart(t, p)
	if err := p.UpdateRoutes(t.Context(), all); err == nil {
		t.Fatal("no error")
	}
	free()
	// The one that was given is still good.
	update(t, p, mine)
	if got := udpAddr(t, p, 7); got != given.LocalAddr().String() {
		t.Errorf("address is %s", got)
	}
	mustExchangeUDP(t, dialUDP(t, given.LocalAddr().String()), "hello")
}

// memoryPackets is a packet connection without a network.
type memoryPackets struct {
	in   chan memoryDatagram
	out  chan memoryDatagram
	done chan struct{}
	once sync.Once
}

type memoryDatagram struct {
	data []byte
	addr net.Addr
}

func newMemoryPackets() *memoryPackets {
	return &memoryPackets{in: make(chan memoryDatagram), out: make(chan memoryDatagram, 1000), done: make(chan struct{})}
}

func (m *memoryPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-m.in:
		return copy(b, d.data), d.addr, nil
	case <-m.done:
		return 0, nil, errors.New("no more") // not everyone knows net.ErrClosed
	}
}

func (m *memoryPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case m.out <- memoryDatagram{append([]byte(nil), b...), to}:
	default:
	}
	return len(b), nil
}

func (m *memoryPackets) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *memoryPackets) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 53}
}
func (*memoryPackets) SetDeadline(time.Time) error      { return nil }
func (*memoryPackets) SetReadDeadline(time.Time) error  { return nil }
func (*memoryPackets) SetWriteDeadline(time.Time) error { return nil }

func TestGivenPacketConn(t *testing.T) {
	testenv.Goroutines(t)
	echo := udpEcho(t)
	mem, unused := newMemoryPackets(), newMemoryPackets()
	p := start(t, Config{Routes: []Route{udpRoute("memory", 53, echo.target())}}, WithPacketConn("127.0.0.1:53", mem), WithPacketConn("127.0.0.1:54", unused))
	from := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 4711}
	for _, text := range []string{"one", "two"} {
		send(t, mem.in, memoryDatagram{[]byte(text), from})
		if got := receive(t, mem.out); string(got.data) != text || got.addr.String() != from.String() {
			t.Errorf("%q to %v", got.data, got.addr)
		}
	}
	// One without an IP address belongs to nobody.
	send(t, mem.in, memoryDatagram{[]byte("lost"), &net.UnixAddr{Name: "/socket"}})
	eventually(t, "it is counted", func() bool { return p.Stats().Refused["noRoute"] == 1 })
	if n := echo.sources(); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
	if err := stopWithin(p, 5*time.Second); err != nil {
		t.Error(err)
	}
	receive(t, mem.done)
	receive(t, unused.done)
	if _, err := New(Config{}, WithPacketConn(":53", nil)); err == nil {
		t.Error("nil is taken")
	}
}

// A socket that fails for good is reported.
func TestUDPSocketThatFails(t *testing.T) {
	testenv.Goroutines(t)
	mem := newMemoryPackets()
	p := start(t, Config{Routes: []Route{udpRoute("memory", 53, udpEcho(t).target())}}, WithPacketConn("127.0.0.1:53", mem))
	mem.Close()
	failed := make(chan error, 1)
	go func() { failed <- p.Wait() }()
	if err := receive(t, failed); err == nil {
		t.Error("no error")
	}
}

// On a socket for all addresses, answers come from the one that was asked.
func TestUDPAnswersFromTheAddressAsked(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	echo := udpEcho(t)
	infos := make(chan ConnInfo, 10)
	target := echo.target()
	right := target.Port
	target.Port, target.PortFunc = 0, func(i ConnInfo) int { infos <- i; return right }
	for _, host := range []string{"0.0.0.0", "::"} {
		p, err := New(Config{ListenHost: host, Routes: []Route{udpRoute("udp", 0, target)}}, WithLogger(testLogger(t)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Logf("%s: %v", host, err)
			continue
		}
		_, port, _ := net.SplitHostPort(udpAddr(t, p, 0))
		for _, to := range []string{"127.0.0.1", other, "::1"} {
			if to == "::1" && host != "::" {
				continue
			}
			at := net.JoinHostPort(to, port)
			c := dialUDP(t, at) // hears from there only
			if got, err := exchangeUDP(c, []byte("hello")); err != nil || string(got) != "hello" {
				t.Errorf("%s: %q, %v", at, got, err)
				continue
			}
			if i := receive(t, infos); i.Local.String() != at || i.Client.String() != c.LocalAddr().String() {
				t.Errorf("%s: %+v", at, i)
			}
			// From one port to two of our addresses: two conversations.
			if to != "127.0.0.1" {
				continue
			}
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			pc.SetDeadline(time.Now().Add(10 * time.Second))
			for _, to := range []string{"127.0.0.1", other} {
				dst := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(net.JoinHostPort(to, port)))
				pc.WriteTo([]byte("hi"), dst)
				_, from, err := pc.ReadFrom(make([]byte, 10))
				if err != nil || from.String() != dst.String() {
					t.Errorf("asked %v, answered by %v, %v", dst, from, err)
				}
				receive(t, infos)
			}
			pc.Close()
		}
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// Names are resolved for each session; what comes meanwhile waits, in bounds.
func TestUDPWaitsForTheTarget(t *testing.T) {
	testenv.Goroutines(t)
	echo := udpEcho(t)
	named := echo.target()
	named.Host = "localhost"
	p := newProxy(t, Config{Routes: []Route{udpRoute("udp", 0, named)}})
	mustStart(t, p)
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "by name")

	var target *target
	for _, x := range p.targets {
		target = x
	}
	dial := target.dial
	proceed := make(chan bool)
	target.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-proceed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return dial(ctx, network, addr)
	}
	r := p.latest()
	c := dialUDP(t, udpAddr(t, p, 0))
	for i := range 2 * maxWaiting {
		fmt.Fprintf(c, "%d", i)
	}
	eventually(t, "they wait", func() bool { return r.waiting.Load() == 10+6*2 }) // 0 to 15
	close(proceed)
	buf := make([]byte, 10)
	for i := range maxWaiting {
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != fmt.Sprint(i) {
			t.Fatalf("%q, %v, want %d", buf[:n], err, i)
		}
	}
	if n := r.waiting.Load(); n != 0 {
		t.Errorf("%d bytes still wait", n)
	}

	// Together they have a bound too, and all goes when the Proxy stops.
	proceed = make(chan bool)
	large := make([]byte, 60_000)
	for range 20 {
		c := dialUDP(t, udpAddr(t, p, 0))
		for range maxWaiting {
			c.Write(large)
			time.Sleep(time.Millisecond)
		}
	}
	if n := r.waiting.Load(); n < maxWaitingBytes/2 || n > maxWaitingBytes {
		t.Errorf("%d bytes wait", n)
	}
	if err := stopWithin(p, 5*time.Second); err != nil {
		t.Error(err)
	}
	if n := r.waiting.Load(); n != 0 {
		t.Errorf("%d bytes still wait", n)
	}
}

// Clients, updates, idle ends and a stop, all at once.
func TestUDPChurn(t *testing.T) {
	sameGoroutines(t)
	port := testenv.FreePort(t) // the first one leaves a file open
	a, b := udpEcho(t), udpEcho(t)
	before := openFiles(t)
	one, two := udpRoute("one", port, a.target()), udpRoute("two", port, a.target(), b.target())
	p := newProxy(t, Config{Timeouts: Timeouts{UDPIdle: 20 * time.Millisecond, Drain: 10 * time.Millisecond}, Routes: []Route{one}})
	mustStart(t, p)
	at := udpAddr(t, p, port)
	stop := make(chan bool)
	var answered atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("udp", at)
				if err != nil {
					t.Error(err)
					return
				}
				for j := range i % 5 {
					c.SetDeadline(time.Now().Add(20 * time.Millisecond))
					got, err := exchangeUDP(c, fmt.Appendf(nil, "%d %d", i, j))
					if err == nil {
						answered.Add(1)
						if want := fmt.Sprintf("%d %d", i, j); string(got) != want {
							// A datagram that came too late for the one before.
							continue
						}
					}
				}
				c.Close()
			}
		})
	}
	for i := range 200 {
		switch i % 4 {
		case 0:
			update(t, p, two)
		case 1:
			update(t, p)
		case 2:
			update(t, p, one)
		case 3:
			update(t, p, one, udpRoute("more", 0, b.target()))
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	waitAll(t, &running)
	if n := answered.Load(); n < 100 {
		t.Errorf("only %d answers", n)
	}
	eventually(t, "all end", func() bool { return p.Stats().UDPSessions == 0 })
	r := p.latest()
	if err := stopWithin(p, 5*time.Second); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for _, target := range p.targets {
		if n := target.active.Load(); n != 0 {
			t.Errorf("%s has %d active", target.name, n)
		}
	}
	for key, route := range p.table.byKey {
		if n := route.state.active.Load(); n != 0 {
			t.Errorf("%s has %d active", key, n)
		}
	}
	for key, state := range p.orphans {
		if n := state.active.Load(); n != 0 {
			t.Errorf("%s has %d active", key, n)
		}
	}
	if r.sessions != 0 || r.waiting.Load() != 0 {
		t.Errorf("%d sessions, %d bytes wait", r.sessions, r.waiting.Load())
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d open files, %d before", n, before)
	}
}
