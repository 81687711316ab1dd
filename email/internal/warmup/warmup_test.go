package warmup

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// A month with more mail than an address may send: each day has its number, in
// sum and at each provider, and then there is no limit.
func TestMonth(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool(OverflowDefer, "192.0.2.1"), Now: c.Now})
	schedule := defaultSchedule()
	if len(schedule) != 30 || schedule[0] != 50 {
		t.Fatal("not the schedule that the package comment describes")
	}
	for i, limit := range schedule {
		if i > 0 && (float64(limit) < 1.4*float64(schedule[i-1]) || float64(limit) > 1.6*float64(schedule[i-1])) {
			t.Errorf("day %d has %d after %d", i+1, limit, schedule[i-1])
		}
		sum := 0
		for _, provider := range known() {
			n := total(send(p, provider, 10_000_000))
			if lane := number(schedule, i, defaultShare(provider)); n > lane {
				t.Errorf("day %d: %d to %s, of %d", i+1, n, provider, lane)
			}
			sum += n
		}
		if sum != limit {
			t.Errorf("day %d: %d messages, not %d", i+1, sum, limit)
		}
		g, ok := p.Take(Request{Sender: "a@example.com", Provider: Gmail})
		begin := time.Date(2026, 11, 2+i, 0, 0, 0, 0, time.UTC)
		if ok || g.Next.Before(begin) || g.Next.After(begin.Add(spread)) {
			t.Fatalf("day %d: %v, come back %v", i+1, ok, g.Next)
		}
		c.Advance(days(1))
		p.Stats() // asking changes nothing
	}
	if a := addressOf(t, p, "192.0.2.1"); a.Limit != 0 || a.Day != 0 {
		t.Errorf("after the last day %+v", a.Stage)
	}
}

// As TestMonth where every day 2 of 3 go to one provider, the rest anywhere.
func TestMonthOfOneProvider(t *testing.T) {
	c, rnd := newClock(), rand.New(rand.NewPCG(1, 2))
	p := open(t, Config{Settings: onePool(OverflowDefer, "192.0.2.1"), Now: c.Now})
	schedule := defaultSchedule()
	for i := range 200 {
		sum := map[string]int{}
		for range 100 {
			provider := Gmail
			if rnd.IntN(3) == 0 {
				provider = known()[rnd.IntN(6)]
			}
			sum[provider] += total(send(p, provider, 1+schedule[min(i, 29)]/50))
		}
		if n := total(sum); i < 30 && n > schedule[i] {
			t.Errorf("day %d: %d", i+1, n)
		}
		if lane := number(schedule, i, 0.5); sum[Gmail] > lane {
			t.Errorf("day %d: %d to gmail, of %d", i+1, sum[Gmail], lane)
		}
		c.Advance(days(1))
	}
	if l := lane1(t, p, "192.0.2.1", Gmail); l.Limit != 0 {
		t.Errorf("gmail after 200 days: %+v", l.Stage)
	}
}

func TestOnlyUsedDaysCount(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool("", "192.0.2.1"), Now: c.Now})
	day := func(n, want int) {
		t.Helper()
		send(p, Gmail, n)
		c.Advance(days(1))
		if l := lane1(t, p, "192.0.2.1", Gmail); l.Day != want || l.Limit != number(defaultSchedule(), want-1, 0.5) {
			t.Errorf("day %d of the schedule, not %d", l.Day, want)
		}
	}
	day(25, 2) // 25 of 25
	day(9, 2)  // of 38
	day(0, 2)
	day(10, 3)
	day(14, 4) // of 55
}

func TestIdleLanesCool(t *testing.T) {
	for idle, want := range map[int]int{1: 15, 7: 15, 8: 14, 10: 12, 20: 2, 29: 1, 30: 1, 300: 1} {
		c := newClock()
		p := open(t, Config{Settings: onePool("", "192.0.2.1"), Now: c.Now})
		for range 14 {
			send(p, Gmail, 1_000_000)
			c.Advance(days(1))
		}
		c.Advance(days(idle))
		p.Stats()
		if l := lane1(t, p, "192.0.2.1", Gmail); l.Day != want {
			t.Errorf("after %d days without mail at day %d, not %d", idle, l.Day, want)
		}
		send(p, Gmail, 1)
		c.Advance(days(1))
		p.Stats()
		if l := lane1(t, p, "192.0.2.1", Gmail); l.Day < want || l.Day > want+1 {
			t.Errorf("a day later at %d after %d", l.Day, want)
		}
	}
	// What was graduated cools as well.
	c := newClock()
	p := open(t, Config{Settings: Settings{Schedule: []int{10, 20}, Pools: onePool("", "192.0.2.1").Pools}, Now: c.Now})
	for range 3 {
		send(p, Gmail, 1000)
		c.Advance(days(1))
	}
	if n := total(send(p, Gmail, 1000)); n != 1000 {
		t.Errorf("%d of a warm address", n)
	}
	c.Advance(days(31))
	if n := total(send(p, Gmail, 1000)); n != 5 {
		t.Errorf("%d after a month", n)
	}
}

func TestOverflow(t *testing.T) {
	c := newClock()
	for overflow, want := range map[string]map[string]int{
		"":            {"192.0.2.1": 25, "192.0.2.2": 75},
		OverflowWarm:  {"192.0.2.1": 25, "192.0.2.2": 75},
		OverflowAny:   {"192.0.2.1": 25, "192.0.2.2": 75},
		OverflowDefer: {"192.0.2.1": 25},
	} {
		p := open(t, Config{Settings: onePool(overflow, "192.0.2.1", "w192.0.2.2"), Now: c.Now})
		if sent := send(p, Gmail, 100); sent["192.0.2.1"] != want["192.0.2.1"] || sent["192.0.2.2"] != want["192.0.2.2"] {
			t.Errorf("%q: %v", overflow, sent)
		}
	}

	// Without a warm one.
	p := open(t, Config{Settings: onePool(OverflowWarm, "192.0.2.1"), Now: c.Now})
	if n := total(send(p, Gmail, 100)); n != 25 {
		t.Errorf("%d", n)
	}
	p = open(t, Config{Settings: onePool(OverflowAny, "192.0.2.1"), Now: c.Now})
	if n := total(send(p, Gmail, 100)); n != 100 {
		t.Errorf("%d", n)
	}
	other := onePool(OverflowAny, "192.0.2.1")
	other.Pools = append(other.Pools, Pool{Name: "other", Senders: []string{"x.test"}, Addresses: []Address{{Address: "192.0.2.9", Warm: true}, {Address: "192.0.2.8"}}})
	p = open(t, Config{Settings: other, Now: c.Now})
	if sent := send(p, Gmail, 100); sent["192.0.2.1"] != 25 || sent["192.0.2.9"] != 75 {
		t.Errorf("%v", sent)
	}
}

// Addresses that warm up share the mail by what they may send; warm ones evenly.
func TestBalance(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool("", "192.0.2.1", "192.0.2.2"), Now: c.Now})
	for range 10 {
		send(p, Gmail, 1)
	}
	if a, b := lane1(t, p, "192.0.2.1", Gmail).Today, lane1(t, p, "192.0.2.2", Gmail).Today; a != 5 || b != 5 {
		t.Errorf("%d, %d", a, b)
	}
	p = open(t, Config{Settings: onePool("", "w192.0.2.1", "w192.0.2.2"), Now: c.Now})
	for range 10 {
		send(p, Gmail, 1)
	}
	if a := lane1(t, p, "192.0.2.1", Gmail).Today; a != 5 {
		t.Errorf("%d of 10", a)
	}
	// One in trouble is spared.
	p.Report(addr("192.0.2.1"), Gmail, Delivered, 20)
	p.Report(addr("192.0.2.1"), Gmail, Block, 20)
	if sent := send(p, Gmail, 10); sent["192.0.2.2"] != 10 {
		t.Errorf("%v", sent)
	}
}

func TestMoreRecipientsThanADaysNumber(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool("", "192.0.2.1"), Now: c.Now})
	g, ok := p.Take(Request{Sender: "a@example.com", Provider: Gmail, Recipients: 1000})
	if !ok || g.N != 25 {
		t.Errorf("%v, %d", ok, g.N)
	}
	p.Return(g, 5)
	if g, ok := p.Take(Request{Sender: "a@example.com", Provider: Gmail, Recipients: 1000}); !ok || g.N != 5 {
		t.Errorf("after a return %v, %d", ok, g.N)
	}
	p.Return(g, 20)
	if l := lane1(t, p, "192.0.2.1", Gmail); l.Today != 5 || l.LastDay.Sent != 5 {
		t.Errorf("%+v", l)
	}
	c.Advance(days(1))
	send(p, Gmail, 3)
	p.Return(g, 25) // of yesterday
	if l := lane1(t, p, "192.0.2.1", Gmail); l.Today != 3 {
		t.Errorf("%+v", l)
	}
}

func TestSenders(t *testing.T) {
	list := []Pool{
		{Name: "news", Senders: []string{"*@News.example.com", "*.bulk.test"}, Addresses: []Address{{Address: "192.0.2.1", Warm: true, HELO: "n.example.com"}}},
		{Name: "re", Senders: []string{"/^[a-c]@x\\.test$/", "y.test"}, Addresses: []Address{{Address: "192.0.2.2", Warm: true}}},
	}
	p := open(t, Config{Settings: Settings{Pools: list}})
	for sender, want := range map[string]string{
		"a@news.example.com": "news", "A@NEWS.EXAMPLE.COM": "news", "news.example.com": "", "a@example.com": "",
		"x@a.bulk.test": "news", "a.bulk.test": "news", "b@x.test": "re", "d@x.test": "", "q@y.test": "re", "y.test": "re", "": "",
	} {
		g, ok := p.Take(Request{Sender: sender, Provider: Other, Recipients: 7})
		if !ok || g.Pool != want || g.Source.IsValid() != (want != "") || g.N != 7 {
			t.Errorf("%q: %+v", sender, g)
		}
		if want == "news" && g.HELO != "n.example.com" {
			t.Errorf("%q: %+v", sender, g)
		}
	}
	list = append(list, Pool{Name: "rest", Addresses: []Address{{Address: "2001:db8::1", Warm: true}}})
	p = open(t, Config{Settings: Settings{Pools: list}})
	if g, _ := p.Take(Request{}); g.Pool != "rest" {
		t.Errorf("%+v", g)
	}
}

func TestUsableAndSince(t *testing.T) {
	c := newClock()
	s := onePool(OverflowDefer, "192.0.2.1", "2001:db8::1")
	p := open(t, Config{Settings: s, Now: c.Now})
	v6 := func(a netip.Addr) bool { return a.Is6() }
	if g, ok := p.Take(Request{Usable: v6}); !ok || g.Source != addr("2001:db8::1") {
		t.Errorf("%+v", g)
	}
	if g, ok := p.Take(Request{Usable: func(netip.Addr) bool { return false }}); !ok || g.Pool != "" || g.Source.IsValid() {
		t.Errorf("what no address can reach: %+v, %v", g, ok)
	}
	s.Pools[0].Addresses = []Address{{Address: "192.0.2.1", Since: "2026-11-05"}}
	p = open(t, Config{Settings: s, Now: c.Now})
	begin := time.Date(2026, 11, 5, 0, 0, 0, 0, time.UTC)
	if g, ok := p.Take(Request{}); ok || g.Next.Before(begin) || g.Next.After(begin.Add(spread)) {
		t.Errorf("before its first day: %v, %v", ok, g.Next)
	}
	c.Advance(days(4))
	if g, ok := p.Take(Request{Recipients: 1000}); !ok || g.N != 25 {
		t.Errorf("on its first day: %+v", g)
	}
	// Where nothing is known of days since then, they count.
	c.Advance(days(3))
	p = open(t, Config{Settings: s, Now: c.Now})
	if g, ok := p.Take(Request{Recipients: 1000}); !ok || g.N != 85 {
		t.Errorf("on the fourth day: %+v", g)
	}
}

func TestClockSetBack(t *testing.T) {
	c := newClock()
	p := open(t, Config{Settings: onePool("", "192.0.2.1"), Now: c.Now})
	c.Advance(15*time.Hour + time.Second) // just after midnight
	if n := total(send(p, Gmail, 100)); n != 25 {
		t.Fatal(n)
	}
	c.Advance(-2 * time.Second)
	if n := total(send(p, Gmail, 100)); n != 0 {
		t.Errorf("%d more on the day before", n)
	}
	c.Advance(2 * time.Second)
	if n := total(send(p, Gmail, 100)); n != 0 {
		t.Errorf("%d more on the day after", n)
	}
	c.Advance(days(-100))
	if n := total(send(p, Gmail, 100)); n != 0 {
		t.Errorf("%d more on a day long ago", n)
	}
	c.Advance(days(1))
	if n := total(send(p, Gmail, 100)); n != 38 {
		t.Errorf("%d on the day after that", n)
	}
}

func TestConcurrently(t *testing.T) {
	c, store := newClock(), memory(t)
	p := open(t, Config{Settings: onePool("", "192.0.2.1", "192.0.2.2"), Store: store, Now: c.Now, SaveEvery: time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := 0
	for range 20 {
		wg.Go(func() {
			for range 100 {
				if g, ok := p.Take(Request{Provider: Gmail}); ok {
					p.Report(g.Source, Gmail, Delivered, 1)
					mu.Lock()
					sent++
					mu.Unlock()
				}
				p.Stats()
			}
		})
	}
	wg.Wait()
	if sent != 50 {
		t.Errorf("%d sent of 50", sent)
	}
}

func BenchmarkTake(b *testing.B) {
	p, err := Open(b.Context(), Config{Settings: onePool("", "w192.0.2.1", "w192.0.2.2", "192.0.2.3")})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		g, _ := p.Take(Request{Sender: "a@example.com", Provider: Gmail})
		p.Report(g.Source, Gmail, Delivered, 1)
	}
}
