package blocklist_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

func prefixes(t testing.TB, list ...string) (all []netip.Prefix) {
	t.Helper()
	for _, text := range list {
		all = append(all, prefix(t, text))
	}
	return all
}

func prefix(t testing.TB, text string) netip.Prefix {
	t.Helper()
	p, err := blocklist.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newSet(t testing.TB, cfg blocklist.Config) (*blocklist.Set, *testenv.Clock) {
	t.Helper()
	c := testenv.NewClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	cfg.Now, cfg.Events, cfg.Within, cfg.Duration, cfg.MaxDuration = c.Now, 3, 10*time.Minute, time.Hour, 5*time.Hour
	return blocklist.New(cfg), c
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func count(s *blocklist.Set, a netip.Addr, n int) (b blocklist.Block, blocked bool) {
	for range n {
		b, blocked = s.Count(a, "test", "because", false)
	}
	return b, blocked
}

// Events within a time block an address, for twice as long each time more.
func TestEventsBlock(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	a := addr("192.0.2.1")
	count(s, a, 2)
	clock.Advance(10 * time.Minute)
	if count(s, a, 2); s.Blocked(a) {
		t.Error("events of another time have counted")
	}
	for i, want := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 5 * time.Hour, 5 * time.Hour} {
		count(s, a, 2)
		if i == 0 {
			if !s.Blocked(a) { // with the two from before
				t.Error("not blocked after three events")
			}
		} else if b, ok := count(s, a, 1); !ok || b.Times != i+1 || b.Until.Sub(b.Since) != want || b.Reason != "because" {
			t.Errorf("%+v %t, want %v", b, ok, want)
		}
		if _, again := count(s, a, 100); again || s.Blocked(addr("192.0.2.2")) {
			t.Error("what is blocked is blocked again, or its neighbour is")
		}
		clock.Advance(want - time.Second)
		s.Sweep()
		if !s.Blocked(a) {
			t.Errorf("the block has ended before %v", want)
		}
		if clock.Advance(time.Second); s.Blocked(a) {
			t.Errorf("blocked for longer than %v", want)
		}
		s.Sweep()
	}
	clock.Advance(5 * time.Hour)
	s.Sweep()
	count(s, a, 2)
	if b, ok := count(s, a, 1); !ok || b.Times != 1 {
		t.Errorf("it is remembered for ever: %+v", b)
	}
}

// Of a crowd of events one a second counts.
func TestCalm(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	a := addr("192.0.2.1")
	for range 2 {
		for range 50 {
			s.Count(a, "test", "over the rate", true)
		}
		clock.Advance(time.Second)
	}
	if s.Blocked(a) {
		t.Error("a crowd of events has counted one by one")
	}
	if _, ok := s.Count(a, "test", "over the rate", true); !ok {
		t.Error("three seconds over the rate have not counted")
	}
}

// Who has an IPv6 address has the /64 around it; other forms of an address are
// the same one.
func TestIPv6(t *testing.T) {
	s, _ := newSet(t, blocklist.Config{})
	for _, a := range []string{"2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:2:ffff::3%eth0"} {
		count(s, addr(a), 1)
	}
	if !s.Blocked(addr("2001:db8:1:2::4")) || s.Blocked(addr("2001:db8:1:3::1")) {
		t.Error("it is not the /64 that is blocked")
	}
	if b, _ := s.Find(addr("2001:db8:1:2::4")); b.Prefix != netip.MustParsePrefix("2001:db8:1:2::/64") {
		t.Error(b.Prefix)
	}
	count(s, addr("::ffff:192.0.2.1"), 3)
	if !s.Blocked(addr("192.0.2.1")) || s.Blocked(addr("::192.0.2.1")) {
		t.Error("IPv4 in its IPv6 form is another address")
	}
	if s.Blocked(netip.Addr{}) {
		t.Error("no address at all is blocked")
	}
	count(s, netip.Addr{}, 10)
}

// Lists come first, and the one of those who are never blocked before all.
func TestLists(t *testing.T) {
	s, _ := newSet(t, blocklist.Config{Block: prefixes(t, "198.51.100.0/24", "2001:db8:bad::/48", "203.0.113.9")})
	s.SetAllowed(prefixes(t, "198.51.100.7", "192.0.2.0/25"))
	for text, want := range map[string]bool{"198.51.100.1": true, "198.51.100.7": false, "2001:db8:bad:1::1": true, "2001:db8::1": false, "203.0.113.9": true, "203.0.113.8": false} {
		if s.Blocked(addr(text)) != want {
			t.Errorf("%s: want %t", text, want)
		}
	}
	if count(s, addr("192.0.2.1"), 100); s.Blocked(addr("192.0.2.1")) {
		t.Error("an address that is never blocked is")
	}
	if _, ok := s.Block(addr("192.0.2.1"), "test", ""); ok {
		t.Error("an address that is never blocked is")
	}
	for text, want := range map[string]error{"192.0.2.1": blocklist.ErrAllowed, "192.0.2.0/26": blocklist.ErrAllowed, "192.0.2.0/24": nil,
		"0.0.0.0/0": blocklist.ErrTooWide, "2001::/8": blocklist.ErrTooWide, "203.0.113.0/24": nil} {
		if err := s.Put(blocklist.Block{Prefix: prefix(t, text)}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	if s.Blocked(addr("192.0.2.1")) || !s.Blocked(addr("192.0.2.200")) {
		t.Error("a network around an address that is never blocked")
	}
	for _, c := range []struct {
		text string
		want error
	}{{"203.0.113.0/24", nil}, {"203.0.113.0/24", blocklist.ErrNotBlocked}, {"203.0.113.9", blocklist.ErrConfigured}, {"198.51.100.0/24", blocklist.ErrConfigured}, {"192.0.2.77", blocklist.ErrNotBlocked}} {
		if err := s.Lift(prefix(t, c.text)); !errors.Is(err, c.want) {
			t.Errorf("lifting %s: %v, want %v", c.text, err, c.want)
		}
	}
}

// A person's block ends when it says, or never, and when it is lifted nothing of
// the address is remembered.
func TestPutAndLift(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	a := addr("192.0.2.1")
	if err := s.Put(blocklist.Block{Prefix: prefix(t, "192.0.2.1"), Source: "operator", Reason: "spam", Since: clock.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(blocklist.Block{Prefix: prefix(t, "203.0.113.0/24"), Until: clock.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Active != 2 || len(s.All()) != 2 {
		t.Errorf("%+v %v", st, s.All())
	}
	clock.Advance(1000 * time.Hour)
	s.Sweep()
	if !s.Blocked(a) || s.Blocked(addr("203.0.113.1")) || len(s.All()) != 1 {
		t.Error(s.All())
	}
	if err := s.Lift(prefix(t, "192.0.2.1")); err != nil || s.Blocked(a) {
		t.Error(err)
	}
	count(s, a, 3)
	if b, ok := s.Find(a); !ok || b.Times != 1 {
		t.Errorf("%+v", b)
	}
	if err := s.Lift(blocklist.Around(a)); err != nil {
		t.Error(err)
	}
	if count(s, a, 2); s.Blocked(a) {
		t.Error("events from before have counted after it was lifted")
	}
}

// sequence is the nth of many addresses.
func sequence(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, 0x0b000000+n)))
}

// What is over is held until it is forgotten.
func TestHolds(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	host, network := prefix(t, "192.0.2.1"), prefix(t, "198.51.100.0/24")
	s.Block(host.Addr(), "test", "")
	if err := s.Put(blocklist.Block{Prefix: network, Until: clock.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Hour)
	if !s.Holds(host) || !s.Holds(network) || s.Holds(prefix(t, "198.51.100.0/25")) || s.Holds(prefix(t, "192.0.2.2")) {
		t.Error("it does not know what it holds")
	}
	clock.Advance(4 * time.Hour)
	s.Sweep()
	if s.Holds(host) || s.Holds(network) {
		t.Error("it forgets nothing")
	}
}

// An address that is allowed later is not refused, and not shown as blocked.
func TestSetAllowed(t *testing.T) {
	s, _ := newSet(t, blocklist.Config{})
	s.SetAllowed(prefixes(t, "192.0.2.1"))
	if _, ok := s.Block(addr("192.0.2.1"), "test", ""); ok {
		t.Error("what is allowed is blocked")
	}
	s.Block(addr("192.0.2.2"), "test", "")
	for _, allowed := range []string{"192.0.2.2", "192.0.2.3"} {
		s.SetAllowed(prefixes(t, allowed))
		blocked := allowed != "192.0.2.2"
		if s.Blocked(addr("192.0.2.2")) != blocked || (len(s.All()) == 1) != blocked || (s.Stats().Active == 1) != blocked {
			t.Errorf("with %s allowed there is %v", allowed, s.All())
		}
	}
}

// A million forged sources take a bounded place, and neither free the one that
// comes again and again nor push out what a person has blocked.
func TestFlood(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	culprit, enemy, passing := addr("192.0.2.1"), prefix(t, "192.0.2.2"), prefix(t, "192.0.2.3")
	count(s, culprit, 2)
	for _, b := range []blocklist.Block{{Prefix: enemy}, {Prefix: passing, Until: clock.Now().Add(time.Minute)}} {
		if err := s.Put(b); err != nil {
			t.Fatal(err)
		}
	}
	flood := uint32(1_000_000)
	if testenv.Race {
		flood /= 10
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for n := range flood {
		s.Count(sequence(n), "test", "flood", false)
	}
	if st := s.Stats(); st.Counted > 100_000 || st.Active != 2 {
		t.Errorf("%+v", st)
	}
	if count(s, culprit, 1); !s.Blocked(culprit) {
		t.Error("the flood has freed who had two events")
	}
	for n := range flood {
		s.Block(sequence(n), "test", "flood")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if st := s.Stats(); st.Active > 100_000 {
		t.Errorf("%+v", st)
	}
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 64<<20 {
		t.Errorf("a flood takes %d MB", used>>20)
	} else {
		t.Logf("a flood takes %d MB", used>>20)
	}
	if !s.Blocked(enemy.Addr()) || !s.Blocked(passing.Addr()) {
		t.Error("the flood has pushed out what a person has blocked")
	}
	clock.Advance(10 * time.Hour)
	s.Sweep()
	if st := s.Stats(); st.Active != 1 || st.Counted != 0 {
		t.Errorf("%+v", st)
	}
}

// All of it at once, for the race detector.
func TestConcurrently(t *testing.T) {
	s, clock := newSet(t, blocklist.Config{})
	s.SetAllowed(prefixes(t, "11.0.0.1"))
	var all sync.WaitGroup
	for worker := range uint32(4) {
		all.Go(func() {
			for n := range uint32(2000) {
				a := sequence((n + worker) % 300)
				switch n % 7 {
				case 0:
					_ = s.Lift(blocklist.Around(a))
				case 1:
					_ = s.Put(blocklist.Block{Prefix: netip.PrefixFrom(a, 30).Masked(), Until: clock.Now().Add(time.Second)})
				case 2:
					clock.Advance(time.Second)
					s.Sweep()
				case 3:
					s.All()
					s.Stats()
				default:
					s.Count(a, "test", "", n%2 == 0)
					s.Blocked(a)
				}
			}
		})
	}
	all.Wait()
	if s.Blocked(sequence(1)) {
		t.Error("an address that is never blocked is")
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s, _ := newSet(t, blocklist.Config{Block: prefixes(t, "198.51.100.0/24")})
	s.SetAllowed(prefixes(t, "127.0.0.0/8"))
	count(s, addr("192.0.2.1"), 3)
	for _, text := range []string{"192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"} {
		a := addr(text)
		if n := testing.AllocsPerRun(100, func() { s.Blocked(a) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

func BenchmarkBlocked(b *testing.B) {
	empty, _ := newSet(b, blocklist.Config{})
	empty.SetAllowed(prefixes(b, "127.0.0.0/8", "::1"))
	full, _ := newSet(b, blocklist.Config{Block: prefixes(b, "198.51.100.0/24", "203.0.113.0/25", "2001:db8:bad::/48")})
	full.SetAllowed(prefixes(b, "127.0.0.0/8", "::1"))
	for n := range uint32(100_000) {
		full.Block(sequence(n), "test", "")
	}
	for _, c := range []struct {
		name string
		set  *blocklist.Set
		addr netip.Addr
	}{{"nothing-blocked", empty, addr("192.0.2.1")}, {"100k-others", full, addr("192.0.2.1")}, {"100k-others-v6", full, addr("2001:db8::1")}, {"100k-hit", full, sequence(99_999)}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c.set.Blocked(c.addr)
				}
			})
		})
	}
}

func BenchmarkCount(b *testing.B) {
	s, _ := newSet(b, blocklist.Config{})
	b.ReportAllocs()
	n := uint32(0)
	for b.Loop() {
		s.Count(sequence(n%16_000_000), "test", "", false)
		n++
	}
}
