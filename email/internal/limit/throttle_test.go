package limit

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func host(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}) }

// guess fails n times as soon as it may, and returns how long that took.
func guess(t *testing.T, th *Throttle, c *testenv.Clock, addr netip.Addr, account func(i int) string, n int) time.Duration {
	t.Helper()
	start := c.Now()
	for i := 0; i < n; {
		a, wait := th.Begin(addr, account(i))
		if wait > 0 {
			c.Advance(wait)
			continue
		}
		a.Failed()
		i++
	}
	return c.Now().Sub(start)
}

func TestHostsAreSlowedDown(t *testing.T) {
	c := newClock()
	th := NewThrottle(ThrottleConfig{Now: c.Now})
	many := func(i int) string { return fmt.Sprint("user", i) }
	if took := guess(t, th, c, host(1), many, 10); took != 0 {
		t.Errorf("the first ten took %v", took)
	}
	// 1, 2, 4, ... 512 seconds, then 15 minutes each.
	if took := guess(t, th, c, host(1), many, 11); took != 1023*time.Second {
		t.Errorf("eleven more took %v", took)
	}
	if took := guess(t, th, c, host(1), many, 10); took < 2*time.Hour || took > 3*time.Hour {
		t.Errorf("ten more took %v", took)
	}
	// Others are not concerned.
	if took := guess(t, th, c, host(2), many, 10); took != 0 {
		t.Errorf("another host's first took %v", took)
	}
	// All of an IPv6 network is one host.
	th = NewThrottle(ThrottleConfig{Now: c.Now})
	for i := range 20 {
		addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
		_, wait := th.Begin(addr, many(i))
		if (wait > 0) != (i > 10) {
			t.Errorf("address %d waits %v", i, wait)
		}
	}
	c.Advance(time.Hour)
	if took := guess(t, th, c, netip.MustParseAddr("2001:db8::1"), many, 10); took != 0 {
		t.Errorf("after an hour, ten took %v", took)
	}
}

// Many at once get no further than one after the other.
func TestAttemptsAtOnce(t *testing.T) {
	c := newClock()
	th := NewThrottle(ThrottleConfig{Now: c.Now})
	var mu sync.Mutex
	var begun []*Attempt
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if a, _ := th.Begin(host(1), fmt.Sprint(i)); a != nil {
				mu.Lock()
				begun = append(begun, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(begun) != 11 { // the one too many sets the first wait
		t.Errorf("%d attempts at once", len(begun))
	}
	for _, a := range begun {
		a.Cancel()
		a.Cancel()
	}
	if a, wait := th.Begin(host(1), "x"); wait != 0 {
		t.Errorf("after all were called off, wait %v", wait)
	} else {
		a.Failed()
	}
}

// A botnet that guesses for one account is slowed down, and its owner is not
// kept out.
func TestOwnersGetIn(t *testing.T) {
	c := newClock()
	th := NewThrottle(ThrottleConfig{Now: c.Now})
	home, office := host(1), host(2)
	a, _ := th.Begin(home, "owner")
	a.Succeeded()
	begun := 0
	for i := range 2000 {
		if a, _ := th.Begin(host(1000+i), "owner"); a != nil {
			a.Failed()
			begun++
		}
		if i%100 == 0 { // which does not give the others more
			if a, wait := th.Begin(home, "owner"); wait != 0 {
				t.Fatalf("the owner has to wait %v at home", wait)
			} else {
				a.Succeeded()
			}
		}
		c.Advance(time.Second)
	}
	if begun > 100 {
		t.Errorf("%d guesses in 2000 seconds", begun)
	}
	if _, wait := th.Begin(office, "owner"); wait > time.Minute {
		t.Errorf("the owner has to wait %v at the office", wait)
	}
	a, wait := th.Begin(home, "owner")
	if wait != 0 {
		t.Fatalf("the owner has to wait %v at home", wait)
	}
	// Mistakes at home are forgiven, and elsewhere once it is the owner.
	for range 5 {
		a.Failed()
		if a, wait = th.Begin(home, "owner"); wait != 0 {
			t.Fatalf("after a few mistakes at home, wait %v", wait)
		}
	}
	a.Succeeded()
	c.Advance(time.Minute)
	if a, wait = th.Begin(office, "owner"); wait != 0 {
		t.Fatalf("after a minute, the office waits %v", wait)
	}
	a.Succeeded()
	if a, wait = th.Begin(host(3), "owner"); wait != 0 {
		t.Fatalf("what the owner did makes another host wait %v", wait)
	}
	a.Cancel()
	if a, wait = th.Begin(office, "owner"); wait != 0 {
		t.Fatalf("after success, the office waits %v", wait)
	}
	a.Succeeded()
	c.Advance(31 * 24 * time.Hour)
	for i := range 40 {
		if a, _ := th.Begin(host(1000+i), "owner"); a != nil {
			a.Failed()
		}
	}
	if _, wait := th.Begin(home, "owner"); wait == 0 {
		t.Error("home is known for ever")
	}
}

// With one account of one's own, all others cannot be tried.
func TestSuccessDoesNotHideGuesses(t *testing.T) {
	c := newClock()
	th := NewThrottle(ThrottleConfig{Now: c.Now})
	start := c.Now()
	for guessed := 0; guessed < 40; {
		a, wait := th.Begin(host(1), "mine")
		if wait > 0 {
			c.Advance(wait)
			continue
		}
		a.Succeeded()
		if a, wait = th.Begin(host(1), fmt.Sprint("other", guessed)); wait > 0 {
			c.Advance(wait)
			continue
		}
		a.Failed()
		guessed++
	}
	if took := c.Now().Sub(start); took < time.Hour {
		t.Errorf("40 guesses took only %v", took)
	}
}

func TestThrottleIsBounded(t *testing.T) {
	c := newClock()
	th := NewThrottle(ThrottleConfig{Keys: 50, Now: c.Now})
	for i := range 5000 {
		if a, _ := th.Begin(host(i), fmt.Sprint(i)); a != nil {
			a.Succeeded()
		}
	}
	for i := range 5000 {
		if a, _ := th.Begin(host(i), fmt.Sprint("other", i)); a != nil {
			a.Failed()
		}
	}
	if h, a, p, k := th.hosts.len(), th.accounts.len(), th.pairs.len(), th.known.len(); h != 50 || a != 50 || p != 50 || k != 50 {
		t.Errorf("%d hosts, %d accounts, %d pairs, %d known", h, a, p, k)
	}
	// Those who only fail have pushed nobody out of what is known.
	if th.known.get(pairKey{Host(host(4999)), keyOf("4999")}) == nil {
		t.Error("who signed in is forgotten")
	}
}
