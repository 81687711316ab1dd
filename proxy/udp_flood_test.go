package proxy

import (
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// floodPackets brings one datagram from each of many addresses, as fast as
// they are taken.
type floodPackets struct {
	*memoryPackets
	total    int
	sent     atomic.Int64
	answered atomic.Int64
}

func (f *floodPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	n := f.sent.Add(1)
	if n > int64(f.total) {
		<-f.done
		return 0, nil, errors.New("closed")
	}
	return copy(b, "flood"), &net.UDPAddr{IP: net.IPv4(198, byte(n>>24), byte(n>>16), byte(n>>8)), Port: int(n&0xff) + 1}, nil
}

func (f *floodPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	f.answered.Add(1)
	return len(b), nil
}

// usedMemory is what the process's own structures take.
func usedMemory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// However many addresses come, they get as many sessions as there may be, and
// cost no more.
func TestUDPFlood(t *testing.T) {
	testenv.Goroutines(t)
	const sessions, total = 500, 300_000
	echo := udpEcho(t)
	flood := &floodPackets{memoryPackets: newMemoryPackets(), total: total}
	port, raw := testenv.FreePort(t), testenv.FreePort(t)
	routes := []Route{streamRoute("raw", raw, tcpEcho(t).target()), udpRoute("quiet", port, udpEcho(t).target())}
	p := start(t, Config{MaxUDPSessions: sessions, Routes: routes}, WithPacketConn("127.0.0.1:53", flood))
	quiet := dialUDP(t, udpAddr(t, p, port))
	mustExchangeUDP(t, quiet, "before")
	files, goroutines, memory := openFiles(t), runtime.NumGoroutine(), usedMemory()
	begin := time.Now()
	update(t, p, append(routes, udpRoute("flood", 53, echo.target()))...)
	// Who is there already is served all the same.
	for flood.sent.Load() <= total {
		quiet.SetDeadline(time.Now().Add(20 * time.Second))
		mustExchangeUDP(t, quiet, "meanwhile")
		c := dialTCP(t, addr(t, p, raw))
		mustBounce(t, c, "meanwhile")
		c.Close()
	}
	took := time.Since(begin)
	grown := int64(usedMemory()) - int64(memory)
	s := p.Stats()
	if s.UDPSessions != sessions || s.Refused["tooManyConnections"] != total-(sessions-1) {
		t.Errorf("%d sessions, refused %v", s.UDPSessions, s.Refused)
	}
	eventually(t, "those that were let in are answered", func() bool { return flood.answered.Load() == sessions-1 })
	if n := runtime.NumGoroutine() - goroutines; n > sessions+50 {
		t.Errorf("%d more goroutines", n)
	}
	if n := openFiles(t) - files; n > sessions+50 {
		t.Errorf("%d more open files", n)
	}
	if grown > 16<<20 {
		t.Errorf("%d KB more memory", grown>>10)
	}
	t.Logf("%d datagrams in %v, %d ns each; %d KB more memory", total, took, took.Nanoseconds()/total, grown>>10)
}

// What a session costs that waits for datagrams.
func TestUDPSessionMemory(t *testing.T) {
	testenv.Goroutines(t)
	const sessions = 2000
	echo := udpEcho(t)
	flood := &floodPackets{memoryPackets: newMemoryPackets(), total: sessions}
	p := start(t, Config{}, WithPacketConn("127.0.0.1:53", flood))
	before := usedMemory()
	update(t, p, udpRoute("udp", 53, echo.target()))
	eventually(t, "all are answered", func() bool { return flood.answered.Load() >= sessions*9/10 && p.Stats().UDPSessions == sessions })
	each := (int64(usedMemory()) - int64(before)) / sessions
	t.Logf("%d bytes each", each)
	if each > 20<<10 { // with the race detector it is twice as much as without
		t.Errorf("%d bytes each", each)
	}
}

// One datagram each way.
func BenchmarkUDPExchange(b *testing.B) {
	p := startBare(b, Config{Routes: []Route{udpRoute("udp", 0, udpEcho(b).target())}}, WithLogger(slog.New(slog.DiscardHandler)))
	c := dialUDP(b, udpAddr(b, p, 0))
	b.ReportAllocs()
	for b.Loop() {
		mustExchangeUDP(b, c, "hello")
		c.SetDeadline(time.Now().Add(time.Minute))
	}
}

// One datagram each way, from a new client each time.
func BenchmarkUDPSession(b *testing.B) {
	p := startBare(b, Config{Timeouts: Timeouts{UDPIdle: 100 * time.Millisecond}, Routes: []Route{udpRoute("udp", 0, udpEcho(b).target())}}, WithLogger(slog.New(slog.DiscardHandler)))
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("udp", udpAddr(b, p, 0))
		if err != nil {
			b.Fatal(err)
		}
		mustExchangeUDP(b, c, "hello")
		c.Close()
	}
}
