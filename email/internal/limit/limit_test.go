package limit

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// clock is one that tests move.
func newClock() *testenv.Clock { return testenv.NewClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) }

func TestHost(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1/32",
		"::ffff:192.0.2.1":     "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::":  "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
	} {
		if got := HostKey(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is of %s, not %s", addr, got, want)
		}
	}
	if got := Host(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is of %s", got)
	}
}

func TestLimiter(t *testing.T) {
	c := newClock()
	l := NewLimiter(0, c.Now, Rate{3, time.Minute}, Rate{5, time.Hour}, Rate{0, time.Second})
	allow := func(key string, n int, want bool, wait time.Duration) {
		t.Helper()
		if ok, retry := l.Allow(key, n); ok != want || retry != wait {
			t.Errorf("%s after %v: %v, %v; want %v, %v", key, c.Now().Sub(newClock().Now()), ok, retry, want, wait)
		}
	}
	allow("a", 2, true, 0)
	allow("a", 1, true, 0)
	allow("a", 1, false, 80*time.Second) // a minute, and a third of the next
	allow("b", 1, true, 0)               // others are not touched
	allow("b", 4, false, time.Minute)    // more than ever
	c.Advance(79 * time.Second)
	allow("a", 1, false, time.Second)
	c.Advance(time.Second)
	allow("a", 1, true, 0)
	c.Advance(100 * time.Second)
	allow("a", 1, true, 0)                              // 5 in this hour
	allow("a", 1, false, 57*time.Minute+12*time.Minute) // of the hour's five, one has to slide out
	c.Advance(10 * time.Hour)
	allow("a", 3, true, 0)
	c.Advance(-20 * time.Hour) // a clock set back does not close for ever
	allow("a", 3, true, 0)

	l.Refund("a", 2)
	allow("a", 2, true, 0)
	l.Refund("unknown", 2)

	l.SetRates(Rate{4, time.Minute}, Rate{5, time.Hour})
	allow("a", 1, true, 0) // the three are still counted
	allow("a", 1, false, 75*time.Second)
	l.SetRates()
	allow("a", 1000, true, 0)
}

// Whatever the traffic, and in any span of its length, a limit of N lets through
// not many more; and who waits as long as told gets in.
func TestLimiterHolds(t *testing.T) {
	const n, per = 100, time.Minute
	for seed := range uint64(15) {
		c, rnd := newClock(), rand.New(rand.NewPCG(seed, 1))
		l := NewLimiter(0, c.Now, Rate{n, per})
		var passed []time.Time
		for range 3000 {
			ok, retry := l.Allow("a", 1)
			if ok != (retry == 0) {
				t.Fatal("ok and retryAfter differ")
			}
			switch {
			case ok:
				passed = append(passed, c.Now())
			case rnd.IntN(20) == 0:
				c.Advance(retry)
				if ok, again := l.Allow("a", 1); !ok {
					t.Fatalf("after a wait of %v, again %v", retry, again)
				}
				passed = append(passed, c.Now())
			}
			c.Advance(time.Duration(rnd.Int64N(int64(400 * time.Millisecond))))
		}
		first := 0
		for i := range passed {
			for passed[i].Sub(passed[first]) >= per {
				first++
			}
			// Traffic that is not even can make it more, but less than twice.
			if i-first+1 > n*3/2 {
				t.Fatalf("%d in one span", i-first+1)
			}
		}
	}
}

func TestKeysAreBounded(t *testing.T) {
	c := newClock()
	l := NewLimiter(100, c.Now, Rate{1, time.Hour})
	l.Allow("mine", 1)
	for i := range 10_000 {
		l.Allow(fmt.Sprint(i), 1)
		if ok, _ := l.Allow("mine", 1); ok {
			t.Fatal("what is in use was forgotten")
		}
	}
	if n := l.keys.len(); n != 100 || l.keys.order.Len() != 100 {
		t.Errorf("%d keys are held", n)
	}
	if ok, _ := l.Allow("0", 1); !ok {
		t.Error("what is old was not forgotten")
	}
}

func TestGate(t *testing.T) {
	var g Gate
	leave, ok := g.Enter("a", 2)
	if !ok {
		t.Fatal("closed")
	}
	if _, ok := g.Enter("a", 2); !ok {
		t.Fatal("closed to the second")
	}
	if leave, ok := g.Enter("a", 2); ok || leave != nil {
		t.Fatal("open to the third")
	}
	if other, ok := g.Enter("b", 2); !ok {
		t.Fatal("closed to others")
	} else {
		other()
	}
	leave()
	leave() // counts once
	if _, ok := g.Enter("a", 2); !ok {
		t.Fatal("closed after one left")
	}
	if _, ok := g.Enter("a", 2); ok {
		t.Fatal("who left twice made two places")
	}
	if free, ok := g.Enter("a", 0); !ok {
		t.Fatal("0 is a limit")
	} else {
		free()
	}
	if g.Active() != 2 || len(g.active) != 1 {
		t.Errorf("%d in, %v", g.Active(), g.active)
	}
}

func TestGateConcurrently(t *testing.T) {
	var g Gate
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if leave, ok := g.Enter("a", 3); ok {
					if n := g.Active(); n > 3 {
						t.Errorf("%d in", n)
					}
					leave()
				}
			}
		})
	}
	wg.Wait()
	if g.Active() != 0 || len(g.active) != 0 {
		t.Errorf("%d left in, %v", g.Active(), g.active)
	}
}
