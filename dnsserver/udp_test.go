package dnsserver

import (
	"bytes"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// What is no query is met with silence, and the next one with an answer.
func TestGarbageOverUDP(t *testing.T) {
	testenv.Goroutines(t)
	s := start(t, Config{})
	c := dial(t, "udp", addr(t, s, "udp"))
	response := makeQuery(1, "a.example")
	response[2] |= 0x80
	garbage := [][]byte{{}, {0}, make([]byte, 11), response, bytes.Repeat([]byte{0xff}, 512), make([]byte, maxQuery+1), make([]byte, 65507)}
	for _, b := range garbage {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	longest := append(makeQuery(2, "a.example"), make([]byte, maxQuery)...)[:maxQuery]
	wantAnswer(t, ask(t, c, longest), longest)
	n := uint64(len(garbage))
	wantUDP(t, s, TransportStats{Queries: n + 1, Dropped: n, Responses: 1})
}

// A flood costs no memory and leaves others some service.
func TestFlood(t *testing.T) {
	testenv.Goroutines(t)
	for name, opts := range map[string][]Option{"own sockets": nil, "a socket of the host's": {WithPacketConn(struct{ net.PacketConn }{listenPacket(t)})}} {
		s, err := New(Config{ListenHost: "127.0.0.1", Port: new(int)}, opts...)
		if err != nil {
			t.Fatal(err)
		}
		mustStart(t, s)
		to := addr(t, s, "udp")
		flood := func(n int) {
			var wg sync.WaitGroup
			for range 4 {
				c := dial(t, "udp", to)
				wg.Go(func() {
					q := makeQuery(1, "random.example")
					for i := range n {
						q[13+i%6] = 'a' + byte(i%26)
						c.Write(q)
					}
				})
			}
			wg.Wait()
			c := dial(t, "udp", to)
			waitUntil(t, "an answer", func() bool {
				c.Write(makeQuery(1, "a.example"))
				c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				_, err := c.Read(make([]byte, 512))
				return err == nil
			})
		}
		flood(1000)
		before := heap()
		flood(20000)
		if grown := int64(heap()) - int64(before); grown > 1<<20 {
			t.Errorf("%s: the heap has grown by %d bytes", name, grown)
		}
		stop(t, s)
	}
}

func listenPacket(t testing.TB) net.PacketConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

func TestUDPAllocatesNothing(t *testing.T) {
	for name, c := range map[string]Config{
		"plain":       {},
		"with limits": {ResponseRateLimit: &ResponseRateLimit{ResponsesPerSecond: 1e6, Burst: 1e6}},
	} {
		s := start(t, c)
		conn := dial(t, "udp", addr(t, s, "udp"))
		query, buf := makeQuery(1, "a.example"), make([]byte, 512)
		n := testing.AllocsPerRun(2000, func() {
			if _, err := conn.Write(query); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(buf); err != nil {
				t.Fatal(err)
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations per query", name, n)
		}
	}
}

// A query over an open TCP connection costs none either.
func TestTCPAllocatesNothing(t *testing.T) {
	if testenv.Race {
		t.Skip("pools forget at random with the race detector")
	}
	s := start(t, Config{})
	conn := dial(t, "tcp", addr(t, s, "tcp"))
	query, buf := framed(makeQuery(1, "a.example")), make([]byte, 512)
	n := testing.AllocsPerRun(2000, func() {
		if _, err := conn.Write(query); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buf); err != nil {
			t.Fatal(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations per query", n)
	}
}

func BenchmarkUDP(b *testing.B) {
	s := start(b, Config{})
	conn := dial(b, "udp", addr(b, s, "udp"))
	conn.SetDeadline(time.Time{})
	query, buf := makeQuery(1, "a.example"), make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		for range 32 { // at once
			conn.Write(query)
		}
		for range 32 {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/query")
}
