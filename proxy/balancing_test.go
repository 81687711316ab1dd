package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// idleProxy is a Proxy that has its routes in place and does not serve, for
// tests of what chooses targets with a clock of their own.
func idleProxy(t testing.TB, routes ...Route) *Proxy {
	t.Helper()
	p, err := New(Config{Routes: routes}, WithLogger(testLogger(t)))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, p, routes...)
	return p
}

// apply is UpdateRoutes of an idleProxy. It returns the balancers.
func apply(t testing.TB, p *Proxy, routes ...Route) []*balancer {
	t.Helper()
	a, err := p.assemble(routes)
	if err != nil {
		t.Fatal(err)
	}
	a.commit()
	var list []*balancer
	for _, rt := range a.table.routes {
		list = append(list, rt.balancer)
	}
	return list
}

// targetsNamed makes targets that nobody will connect to.
func targetsNamed(names ...string) (list []Target) {
	for _, name := range names {
		list = append(list, Target{Host: name, Port: 80})
	}
	return list
}

func balancing(l LoadBalancing, targets ...Target) Route {
	r := httpRoute("web", 0, "a.test", targets...)
	r.Action.LoadBalancing = l
	return r
}

// ask chooses once and returns the target's host and the entry.
func ask(t testing.TB, b *balancer) (string, *entry) {
	t.Helper()
	e, err := b.next(t.Context(), &choice{})
	if err != nil {
		return err.Error(), nil
	}
	return e.target.key.host, e
}

func TestBalancingAsJSON(t *testing.T) {
	var got Route
	if err := json.Unmarshal([]byte(`{"name": "web", "match": {"ports": 80}, "action": {"type": "forward", "targets": {"host": "a", "port": 80}, "loadBalancing": {
		"algorithm": "p2c", "slowStart": "30s", "maxConnectionsPerTarget": 50,
		"sticky": {"cookie": "lb", "path": "/a", "maxAge": "1h", "secure": true, "httpOnly": false, "sameSite": "lax", "secret": "s"},
		"circuitBreaker": {"consecutiveFailures": 3, "failurePercent": -1, "minRequests": 10, "window": "5s", "statuses": 503, "ejectionTime": 15000, "maxEjectedPercent": 50},
		"retry": {"attempts": 2, "budgetPercent": 10, "budgetPerSecond": 3}, "queue": {"size": 20, "timeout": "2s"}}}}`), &got); err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	want := LoadBalancing{Algorithm: PowerOfTwo, SlowStart: 30 * time.Second, MaxConnectionsPerTarget: 50,
		Sticky:         &Sticky{Cookie: "lb", Path: "/a", MaxAge: time.Hour, Secure: &yes, HTTPOnly: &no, SameSite: SameSiteLax, Secret: "s"},
		CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: 3, FailurePercent: -1, MinRequests: 10, Window: 5 * time.Second, Statuses: []int{503}, EjectionTime: 15 * time.Second, MaxEjectedPercent: 50},
		Retry:          Retry{Attempts: 2, BudgetPercent: 10, BudgetPerSecond: 3}, Queue: Queue{Size: 20, Timeout: 2 * time.Second}}
	if !reflect.DeepEqual(got.Action.LoadBalancing, want) {
		t.Errorf("%+v", got.Action.LoadBalancing)
	}
	if err := (&Config{Routes: []Route{got}}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	many := make([]Target, 20)
	for i := range many {
		many[i] = Target{Host: fmt.Sprintf("t%d", i), Port: 80, Weight: 1 + i%3}
	}
	everything := LoadBalancing{CircuitBreaker: &CircuitBreaker{}, SlowStart: time.Minute, MaxConnectionsPerTarget: 5, Sticky: &Sticky{Cookie: "c"}}
	for name, r := range map[string]Route{
		"one": balancing(LoadBalancing{}, many[0]), "round-robin": balancing(LoadBalancing{}, many...),
		"p2c": balancing(LoadBalancing{Algorithm: PowerOfTwo}, many...), "least": balancing(LoadBalancing{Algorithm: LeastConnections}, many...),
		"hash": balancing(LoadBalancing{Algorithm: IPHash}, many...), "one, everything": balancing(everything, many[0]), "everything": balancing(everything, many...),
	} {
		b := apply(t, idleProxy(t, r), r)[0]
		if n := testing.AllocsPerRun(100, func() {
			ch := choice{client: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
			e, err := b.next(t.Context(), &ch)
			if err != nil {
				t.Fatal(err)
			}
			e.done(answered(200), nil)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, count := range []int{1, 3, 100} {
		for _, algorithm := range []string{RoundRobin, PowerOfTwo, LeastConnections, IPHash} {
			for _, what := range []string{"plain", "everything"} {
				var l LoadBalancing
				if what == "everything" {
					l = LoadBalancing{CircuitBreaker: &CircuitBreaker{}, SlowStart: time.Minute, MaxConnectionsPerTarget: 1000, Sticky: &Sticky{Cookie: "c"}}
				}
				l.Algorithm = algorithm
				var targets []Target
				for i := range count {
					targets = append(targets, Target{Host: fmt.Sprintf("t%d", i), Port: 80})
				}
				r := balancing(l, targets...)
				bal := apply(b, idleProxy(b, r), r)[0]
				b.Run(fmt.Sprintf("%d/%s/%s", count, algorithm, what), func(b *testing.B) {
					ctx := context.Background()
					for b.Loop() {
						ch := choice{client: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
						e, err := bal.next(ctx, &ch)
						if err != nil {
							b.Fatal(err)
						}
						e.done(answered(200), nil)
					}
				})
			}
		}
	}
}

// A target that could not be reached is tried by one request once its pause is
// over, and not by all that come.
func TestPausedTargetIsTriedByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, algorithm := range []string{RoundRobin, PowerOfTwo, LeastConnections, IPHash} {
			r := balancing(LoadBalancing{Algorithm: algorithm}, targetsNamed("dead", "well")...)
			b := apply(t, idleProxy(t, r), r)[0]
			dead := b.entries[0].target
			tries := func() (n int) {
				for i := range 200 {
					e, err := b.next(t.Context(), &choice{client: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})})
					if err != nil {
						t.Fatal(err)
					}
					if e.target == dead {
						n++ // and nothing is heard of it
					} else {
						e.report(answered(200), nil)
					}
					e.release()
				}
				return n
			}
			dead.failed(errors.New("refused"))
			if n := tries(); n != 0 {
				t.Errorf("%s: %d go to a target that could not be reached", algorithm, n)
			}
			time.Sleep(failPause)
			if n := tries(); n != 1 {
				t.Errorf("%s: %d try it after its pause, want 1", algorithm, n)
			}
			time.Sleep(failPause) // one that got no answer in this time
			if n := tries(); n != 1 {
				t.Errorf("%s: %d try it later, want 1", algorithm, n)
			}
			b.entries[0].report(givenUp, nil)
			if n := tries(); n != 1 {
				t.Errorf("%s: %d try it after one has given up, want 1", algorithm, n)
			}
			b.entries[0].report(answered(200), nil)
			if n := tries(); n < 50 {
				t.Errorf("%s: %d of 200 go to it when it is well again", algorithm, n)
			}
		}
	})
}

// Two targets are compared, not one with itself.
func TestPowerOfTwoComparesTwo(t *testing.T) {
	r := balancing(LoadBalancing{Algorithm: PowerOfTwo}, targetsNamed("busy", "free")...)
	b := apply(t, idleProxy(t, r), r)[0]
	b.entries[0].target.active.Store(50)
	busy := 0
	for range 1000 {
		host, e := ask(t, b)
		if host == "busy" {
			busy++
		}
		e.release()
	}
	if busy > 60 { // drawing the same six times: 16 expected
		t.Errorf("%d of 1000 go to the busy one", busy)
	}
}

// Targets that are out leave their turns to all others alike.
func TestRoundRobinWithoutOne(t *testing.T) {
	r := balancing(LoadBalancing{}, targetsNamed("a", "b", "c", "d")...)
	b := apply(t, idleProxy(t, r), r)[0]
	b.entries[1].target.failed(errors.New("refused"))
	counts := map[string]int{}
	for range 300 {
		host, e := ask(t, b)
		counts[host]++
		e.release()
	}
	for _, host := range []string{"a", "c", "d"} {
		if n := counts[host]; n < 98 || n > 102 {
			t.Errorf("%s has %d of 300 turns, %v", host, n, counts)
		}
	}
}

func TestSlowStartShares(t *testing.T) {
	for _, algorithm := range []string{RoundRobin, PowerOfTwo, LeastConnections, IPHash} {
		synctest.Test(t, func(t *testing.T) {
			r := balancing(LoadBalancing{Algorithm: algorithm, SlowStart: 100 * time.Second}, targetsNamed("a", "b", "c", "d")...)
			b := apply(t, idleProxy(t, r), r)[0]
			// share measures what of n requests the first target gets.
			share := func() float64 {
				const n = 4000
				got := 0
				for i := range n {
					e, err := b.next(t.Context(), &choice{client: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
					if err != nil {
						t.Fatal(err)
					}
					if e.target == b.entries[0].target {
						got++
					}
					e.done(answered(200), nil)
				}
				return float64(got) / n
			}
			check := func(when string, want, tolerance float64) {
				t.Helper()
				if got := share(); got < want-tolerance || got > want+tolerance {
					t.Errorf("%s: %s it has %.3f of the requests, want %.3f", algorithm, when, got, want)
				}
			}
			check("at first", 0.25, 0.04)
			back := b.entries[0].target
			back.returned()
			// With three others in full service: f/(3+f).
			check("just back", 0.1/3.1, 0.02)
			time.Sleep(50 * time.Second)
			check("half-way", 0.5/3.5, 0.04)
			time.Sleep(50 * time.Second)
			check("afterwards", 0.25, 0.04)
			// When all are back at once, each has its share at once.
			for i := range b.entries {
				b.entries[i].target.returned()
			}
			check("with all others", 0.25, 0.04)
		})
	}
}

// A target that fails now and then while it serves does not start slowly each
// time; one that UpdateRoutes adds does.
func TestWhoStartsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := balancing(LoadBalancing{}, targetsNamed("a", "b")...)
		b := apply(t, idleProxy(t, r), r)[0]
		e := &b.entries[0]
		e.target.active.Add(1)
		e.target.failed(errors.New("one connection of many"))
		e.done(answered(200), nil) // an older request is answered all the same
		if e.target.back.Load() != 0 {
			t.Error("starts slowly though it was never out")
		}
		e.target.failed(errors.New("refused"))
		time.Sleep(failPause)
		for e2 := (*entry)(nil); e2 != e; {
			_, e2 = ask(t, b)
			e2.done(answered(200), nil)
		}
		if e.target.back.Load() != time.Now().UnixNano() {
			t.Error("does not start slowly when it can be reached again")
		}
	})
	r := balancing(LoadBalancing{}, targetsNamed("127.0.0.1")...)
	p := startBare(t, Config{Routes: []Route{r}})
	r.Action.Targets = targetsNamed("127.0.0.1", "127.0.0.2")
	update(t, p, r)
	entries := p.current().table.Load().routes[0].balancer.entries
	if entries[0].target.back.Load() != 0 || entries[1].target.back.Load() == 0 {
		t.Error("of an old target and a new one, want the new one to start slowly")
	}
}
