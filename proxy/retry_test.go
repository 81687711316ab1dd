package proxy

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestRetryBudget(t *testing.T) {
	for _, test := range []struct {
		retry         Retry
		perSecond     int
		least, most   int // retries in 10 seconds in which all requests want one
		toDeadTargets bool
	}{
		{Retry{}, 1000, 1800, 2200, false}, // 200 and 10 a second
		{Retry{}, 10, 100, 120, false},     // the 10 a second alone would do for all
		{Retry{BudgetPercent: 1, BudgetPerSecond: 1}, 1000, 90, 120, false},
		{Retry{BudgetPercent: 100}, 1000, 9500, 10_000, false},
		{Retry{BudgetPercent: -1}, 1000, 10_000, 10_000, false},
		{Retry{Attempts: 1}, 1000, 0, 0, false},
		// Once both are known to be out, one is no better than the other.
		{Retry{}, 1000, 1800, 2200, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := balancing(LoadBalancing{Retry: test.retry}, targetsNamed("a", "b")...)
			b := apply(t, idleProxy(t, r), r)[0]
			o := brokeOff
			if test.toDeadTargets {
				o = unreachable
			}
			begin, retries := time.Now(), 0
			for time.Since(begin) < 10*time.Second {
				time.Sleep(time.Second / time.Duration(test.perSecond))
				b.state.requests.Add(1)
				var ch choice
				e, err := b.next(t.Context(), &ch)
				if err != nil {
					t.Fatal(err)
				}
				e.done(o, errors.New("it fails"))
				if b.mayRetry(&ch, e, o) {
					retries++
				}
			}
			if retries < test.least || retries > test.most {
				t.Errorf("%+v: %d retries of %d requests, want %d to %d", test, retries, 10*test.perSecond, test.least, test.most)
			}
			if made := b.state.retries.made.Load(); made != uint64(retries) {
				t.Errorf("%d retries are counted, want %d", made, retries)
			}
		})
	}
}

// Quiet hours do not save up retries for the outage.
func TestRetryBudgetIsNotSavedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var budget retryBudget
		cfg := Retry{}.withDefaults()
		budget.spend(&cfg, 0)
		time.Sleep(time.Hour)
		n := 0
		for budget.spend(&cfg, 3600*100) { // 100 requests a second
			n++
		}
		if n != 10+20 {
			t.Errorf("%d retries at once after a quiet hour, want 30", n)
		}
	})
}

func TestAttempts(t *testing.T) {
	for attempts, want := range []int{4, 1, 2, 3, 4, 4} {
		r := balancing(LoadBalancing{Retry: Retry{Attempts: attempts}}, targetsNamed("a", "b", "c", "d")...)
		b := apply(t, idleProxy(t, r), r)[0]
		var ch choice
		n := 0
		for {
			e, err := b.next(t.Context(), &ch)
			if err != nil {
				t.Fatal(err)
			}
			n++
			e.done(unreachable, errors.New("refused"))
			if !b.mayRetry(&ch, e, unreachable) {
				break
			}
		}
		if n != want {
			t.Errorf("attempts %d: %d targets were tried, want %d", attempts, n, want)
		}
	}
}

// A service whose back ends all break off must not get many times the load.
func TestRetriesDoNotMultiplyAnOutage(t *testing.T) {
	testenv.Goroutines(t)
	var reached atomic.Int64
	var targets []Target
	for range 4 {
		targets = append(targets, tcpServer(t, func(c *net.TCPConn) {
			next := newRequestReader(c)
			if _, err := next(); err == nil {
				reached.Add(1)
			}
		}).target())
	}
	for name, retry := range map[string]Retry{"default": {}, "without a budget": {BudgetPercent: -1}} {
		t.Run(name, func(t *testing.T) {
			r := httpRoute("web", 0, "a.test", targets...)
			r.Action.LoadBalancing.Retry = retry
			p := start(t, Config{Routes: []Route{r}})
			reached.Store(0)
			const clients, each = 8, 60
			begin := time.Now()
			var wg sync.WaitGroup
			for range clients {
				c := client(t, addr(t, p, 0), nil)
				wg.Go(func() {
					for range each {
						if resp, err := c.Get("http://a.test/"); err != nil {
							t.Error(err)
						} else if resp.Body.Close(); resp.StatusCode != http.StatusBadGateway {
							t.Error(resp.Status)
						}
					}
				})
			}
			waitAll(t, &wg)
			s := routeStats(p, "web")
			n := reached.Load()
			t.Logf("%d requests in %v reached the targets %d times; %d retries, %d refused", clients*each, time.Since(begin), n, s.Retries, s.RetriesRefused)
			if uint64(n) != clients*each+s.Retries {
				t.Errorf("the targets were reached %d times by %d requests and %d retries", n, clients*each, s.Retries)
			}
			if retry.BudgetPercent < 0 {
				if n != 4*clients*each {
					t.Errorf("the targets were reached %d times, want %d", n, 4*clients*each)
				}
				return
			}
			// A fifth of the requests, twice where a window has few of them and the
			// one before had many, and ten a second.
			if most := uint64(2*clients*each/5) + 10*uint64(time.Since(begin)/time.Second+1); s.Retries > most || s.RetriesRefused == 0 {
				t.Errorf("%d retries, want at most %d; %d were refused", s.Retries, most, s.RetriesRefused)
			}
		})
	}
}

// One of two back ends goes away under load. Requests that did not reach it go
// to the other, however many they are.
func TestFailoverIsNotOnTheBudget(t *testing.T) {
	testenv.Goroutines(t)
	_, well := backend(t, says("ok"))
	r := httpRoute("web", 0, "a.test", deadTarget(t), well)
	r.Action.LoadBalancing.Retry = Retry{BudgetPercent: 1, BudgetPerSecond: 1}
	p := start(t, Config{Routes: []Route{r}})
	const clients = 40
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for range clients {
		c := client(t, addr(t, p, 0), nil)
		wg.Go(func() {
			<-begin
			for range 5 {
				if status, _ := get(t, c, "http://a.test/"); status != 200 {
					t.Error(status)
				}
			}
		})
	}
	close(begin)
	waitAll(t, &wg)
	if s := routeStats(p, "web"); s.Retries == 0 || s.RetriesRefused != 0 {
		t.Errorf("%+v", s)
	}
}
