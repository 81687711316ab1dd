package dnsserver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestRateLimiter(t *testing.T) {
	l := newRateLimiter(&ResponseRateLimit{ResponsesPerSecond: 10, Burst: 20, Slip: 4})
	now := l.began
	count := func(addr string, n int) (sent, held, slipped int) {
		for range n {
			switch l.take(netip.MustParseAddr(addr), now) {
			case rateSent:
				sent++
			case rateHeld:
				held++
			case rateSlipped:
				slipped++
			}
		}
		return sent, held, slipped
	}
	if sent, held, slipped := count("192.0.2.1", 100); sent != 20 || held != 60 || slipped != 20 {
		t.Errorf("the burst: %d sent, %d held, %d slipped", sent, held, slipped)
	}
	if sent, _, _ := count("192.0.2.200", 100); sent != 0 {
		t.Errorf("another address of the /24: %d sent", sent)
	}
	if sent, _, _ := count("192.0.3.1", 5); sent != 5 {
		t.Errorf("another /24: %d sent", sent)
	}
	now = now.Add(time.Second)
	if sent, _, _ := count("192.0.2.1", 100); sent != 10 {
		t.Errorf("a second later: %d sent", sent)
	}
	if sent, _, _ := count("2001:db8:0:12::1", 100); sent != 20 {
		t.Errorf("IPv6: %d sent", sent)
	}
	if sent, _, _ := count("2001:db8:0:ff:9::1", 100); sent != 0 {
		t.Errorf("another address of the /56: %d sent", sent)
	}
	if sent, _, _ := count("2001:db8:0:100::1", 100); sent != 20 {
		t.Errorf("another /56: %d sent", sent)
	}
	now = now.Add(24 * time.Hour)
	if sent, _, _ := count("192.0.2.1", 100); sent != 20 {
		t.Errorf("a day later: %d sent", sent)
	}
	if newRateLimiter(nil) != nil {
		t.Error("a limit without a section")
	}
	if l := newRateLimiter(&ResponseRateLimit{}); l.interval != int64(5*time.Millisecond) || l.burst != int64(time.Second) || l.slip != 2 {
		t.Errorf("defaults: %+v", l.interval)
	}
	if l := newRateLimiter(&ResponseRateLimit{Slip: -1}); l.slip != 0 {
		t.Errorf("no slip: %d", l.slip)
	}
}

// A flood from forged addresses frees nobody from the limit.
func TestRateLimiterUnderForgedFlood(t *testing.T) {
	l := newRateLimiter(&ResponseRateLimit{ResponsesPerSecond: 5, Slip: -1})
	now, victim := l.began, netip.MustParseAddr("198.51.100.7")
	sent := 0
	var a [4]byte
	const seconds, rate = 2, 1_000_000 // more networks than there is room for
	for i := range seconds * rate {
		now = now.Add(time.Second / rate)
		binary.BigEndian.PutUint32(a[:], rand.Uint32())
		l.take(netip.AddrFrom4(a), now)
		if i%(rate/100) == 0 && l.take(victim, now) == rateSent { // a hundred a second
			sent++
		}
	}
	if sent > 5+seconds*5 {
		t.Errorf("%d responses to a victim in %d s", sent, seconds)
	}
	var set rateSet
	for i := range rateWays {
		set.keys[i], set.full[i] = uint64(i+1), int64(100+i)
	}
	if left := *set.find(99); left != 100 || set.keys[0] != 99 {
		t.Errorf("a newcomer begins with %d", left)
	}
	if allocs := testing.AllocsPerRun(1000, func() { l.take(victim, now) }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// A client that is limited gets truncated answers over UDP, and whole ones over
// TCP or when it has proven its address.
func TestSlip(t *testing.T) {
	testenv.Goroutines(t)
	s := newServer(t, Config{ResponseRateLimit: &ResponseRateLimit{ResponsesPerSecond: 1, Burst: 3, Slip: 1}})
	respond := s.responding
	s.responding = func(sc *scratch, dst, query []byte, from *asker) []byte {
		from.verified = query[1] == 77
		at := len(dst)
		dst = append(respond(sc, dst, query, from), "an answer"...)
		dst[at+7] = 1
		return dst
	}
	mustStart(t, s)
	c := dial(t, "udp", addr(t, s, "udp"))
	truncated := 0
	for id := range uint16(20) {
		q := makeQuery(id, "a.example")
		msg := ask(t, c, q)
		if msg[2]&0x02 == 0 {
			continue
		}
		truncated++
		if len(msg) != len(q) || string(msg[headLen:]) != string(q[headLen:]) || string(msg[4:headLen]) != "\x00\x01\x00\x00\x00\x00\x00\x00" {
			t.Fatalf("truncated to %x", msg)
		}
	}
	if truncated < 15 || truncated > 17 {
		t.Errorf("%d of 20 truncated", truncated)
	}
	for range 10 {
		if msg := ask(t, c, makeQuery(77, "a.example")); msg[2]&0x02 != 0 {
			t.Error("a verified client was limited")
		}
	}
	tcp := dial(t, "tcp", addr(t, s, "tcp"))
	for range 10 {
		if msg := ask(t, tcp, makeQuery(1, "a.example")); msg[2]&0x02 != 0 {
			t.Error("TCP was limited")
		}
	}
	wantUDP(t, s, TransportStats{Queries: 30, Responses: 30, Limited: uint64(truncated), Slipped: uint64(truncated)})
}

func FuzzTruncate(f *testing.F) {
	f.Add(makeQuery(1, "a.example"))
	f.Add(make([]byte, headLen))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) < headLen {
			return
		}
		size := len(msg)
		if n := truncate(msg); n < headLen || n > size || msg[2]&0x02 == 0 || binary.BigEndian.Uint16(msg[4:]) > 1 {
			t.Errorf("%d of %d bytes: %x", n, size, msg)
		}
	})
}
