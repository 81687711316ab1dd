package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func withLimit(limit int, q Queue, targets ...Target) Route {
	return balancing(LoadBalancing{MaxConnectionsPerTarget: limit, Queue: q}, targets...)
}

// waiting are requests that wait in queues, for tests in a synctest bubble.
type waiting struct {
	t      *testing.T
	mu     sync.Mutex
	served []string
	got    map[string]*entry
	errs   map[string]error
}

func newWaiting(t *testing.T) *waiting {
	return &waiting{t: t, got: map[string]*entry{}, errs: map[string]error{}}
}

// arrive makes a request of this name and returns when it waits or is served.
func (w *waiting) arrive(ctx context.Context, b *balancer, name string, ch choice) {
	go func() {
		e, err := b.next(ctx, &ch)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.got[name], w.errs[name] = e, err; err == nil {
			w.served = append(w.served, name)
		}
	}()
	synctest.Wait()
}

func (w *waiting) entry(name string) *entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got[name]
}

func (w *waiting) err(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errs[name]
}

func (w *waiting) leave(name string) {
	w.entry(name).done(answered(200), nil)
	synctest.Wait()
}

func (w *waiting) want(names ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.served, names) {
		w.t.Fatalf("served were %q, want %q", w.served, names)
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withLimit(1, Queue{Size: 10, Timeout: time.Hour}, targetsNamed("a", "b")...)
		p := idleProxy(t, r)
		b := apply(t, p, r)[0]
		w := newWaiting(t)
		var want []string
		for i := range 12 {
			name := fmt.Sprint(i)
			w.arrive(t.Context(), b, name, choice{})
			want = append(want, name)
		}
		w.want("0", "1")
		w.arrive(t.Context(), b, "too many", choice{})
		if !errors.Is(w.err("too many"), errBusy) {
			t.Errorf("a full queue says %v", w.err("too many"))
		}
		if n := b.state.queue.all.Load(); n != 10 || p.waiting.Load() != 10 {
			t.Errorf("%d wait, want 10", n)
		}
		for i := range 10 {
			w.leave(fmt.Sprint(i))
			w.want(want[:i+3]...)
			// Nobody gets in between.
			name := fmt.Sprint("late", i)
			w.arrive(t.Context(), b, name, choice{})
			want = append(want, name)
		}
		for _, e := range b.entries {
			if n := e.target.active.Load(); n != 1 {
				t.Errorf("%d at target %s", n, e.target.name)
			}
		}
		for i := 10; len(w.served) < len(want); i++ {
			w.leave(want[i])
		}
		w.want(want...)
		if p.waiting.Load() != 0 || b.state.queue.easy.Load() != 0 {
			t.Error("the queue does not know that it is empty")
		}
	})
}

// A place that has just become free is that of who waits, also if the next one
// arrives before it has been given away.
func TestQueueIsNotOvertaken(t *testing.T) {
	r := withLimit(1, Queue{Timeout: time.Minute}, targetsNamed("a")...)
	b := apply(t, idleProxy(t, r), r)[0]
	q := &b.state.queue
	_, first := ask(t, b)
	served := make(chan string, 2)
	arrive := func(name string) {
		e, err := b.next(t.Context(), &choice{})
		if err != nil {
			t.Error(err)
		}
		served <- name
		e.release()
	}
	go arrive("waiting")
	eventually(t, "one waits", func() bool { return q.all.Load() == 1 })
	q.mu.Lock()
	go first.release()
	eventually(t, "the place is free", func() bool { return first.target.active.Load() == 0 })
	go arrive("late")
	select {
	case name := <-served:
		t.Errorf("%s was served first", name)
	case <-time.After(20 * time.Millisecond):
	}
	q.mu.Unlock()
	if name := receive(t, served); name != "waiting" {
		t.Errorf("%s was served first", name)
	}
	receive(t, served)
}

func TestQueueEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withLimit(1, Queue{}, targetsNamed("a")...)
		p := idleProxy(t, r)
		b := apply(t, p, r)[0]
		b.entries[0].health = new(health)
		w := newWaiting(t)
		w.arrive(t.Context(), b, "first", choice{})
		begin := time.Now()
		w.arrive(t.Context(), b, "patient", choice{})
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		w.arrive(ctx, b, "gone", choice{})
		w.arrive(t.Context(), b, "next", choice{})
		cancel()
		synctest.Wait()
		if !errors.Is(w.err("gone"), context.Canceled) {
			t.Errorf("whose client left is told %v", w.err("gone"))
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !errors.Is(w.err("patient"), errBusy) || time.Since(begin) != 5*time.Second {
			t.Errorf("after %v of 5s: %v", time.Since(begin), w.err("patient"))
		}
		w.leave("first")
		w.want("first", "next")
		// When there is no target left to wait for, nobody waits for it.
		w.arrive(t.Context(), b, "hopeful", choice{})
		b.entries[0].health.bad.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(w.err("hopeful"), errNoTarget) {
			t.Errorf("with the target dead: %v", w.err("hopeful"))
		}
		if n := p.waiting.Load(); n != 0 {
			t.Errorf("%d wait for ever", n)
		}
	})
}

// However many want one at the same moment, there are no more places than that.
func TestPlaces(t *testing.T) {
	r := balancing(LoadBalancing{}, targetsNamed("a")...)
	at := apply(t, idleProxy(t, r), r)[0].entries[0].target
	const limit = 3
	var inside atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20_000 {
				if !at.enter(limit) {
					continue
				}
				if n := inside.Add(1); n > limit {
					t.Errorf("%d at once", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				at.leave()
			}
		})
	}
	waitAll(t, &wg)
	if n := at.active.Load(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// A place given to one who leaves at the same moment is not lost.
func TestQueueLosesNoPlace(t *testing.T) {
	r := withLimit(2, Queue{Size: 1000, Timeout: time.Minute}, targetsNamed("a", "b")...)
	p := idleProxy(t, r)
	b := apply(t, p, r)[0]
	var wg sync.WaitGroup
	var served atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			for j := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%3 == 0 {
					wg.Go(func() { runtime.Gosched(); cancel() })
				}
				e, err := b.next(ctx, &choice{})
				cancel()
				if err != nil {
					continue
				}
				served.Add(1)
				if n := e.target.active.Load(); n > 2 {
					t.Errorf("%d at once", n)
				}
				runtime.Gosched() // so that others have to wait
				e.done(answered(200), nil)
			}
		})
	}
	waitAll(t, &wg)
	for _, e := range b.entries {
		if n := e.target.active.Load(); n != 0 {
			t.Errorf("%d places of target %s are lost", n, e.target.name)
		}
	}
	if p.waiting.Load() != 0 || b.state.queue.all.Load() != 0 || b.state.queue.waiters.Len() != 0 {
		t.Error("the queue does not know that it is empty")
	}
	if n := served.Load(); n == 32*300 {
		t.Error("nobody left while waiting")
	}
}

// Who waits for a target that comes back from an ejection gets it, though
// nobody who leaves makes room.
func TestQueueSeesTargetsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withLimit(1, Queue{Timeout: time.Minute}, targetsNamed("a", "b")...)
		r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: 1}
		b := apply(t, idleProxy(t, r), r)[0]
		w := newWaiting(t)
		w.arrive(t.Context(), b, "one", choice{})
		w.arrive(t.Context(), b, "two", choice{})
		w.entry("one").done(answered(503), nil)
		w.arrive(t.Context(), b, "three", choice{})
		w.arrive(t.Context(), b, "four", choice{})
		w.want("one", "two")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		w.want("one", "two", "three")
		w.leave("three") // it was well
		w.want("one", "two", "three", "four")
	})
}

// Who waits for the target of his cookie keeps nobody from other targets, and
// takes another himself when his time is over.
func TestQueueAndCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withLimit(1, Queue{Size: 3, Timeout: 3 * time.Second}, targetsNamed("a", "b")...)
		r.Action.LoadBalancing.Sticky = &Sticky{Cookie: "c"}
		b := apply(t, idleProxy(t, r), r)[0]
		stuck := choice{sticky: b.entries[0].cookie}
		w := newWaiting(t)
		w.arrive(t.Context(), b, "a1", stuck)
		w.arrive(t.Context(), b, "a2", stuck)
		w.arrive(t.Context(), b, "a3", stuck)
		w.want("a1")
		w.arrive(t.Context(), b, "any1", choice{})
		w.want("a1", "any1")
		w.arrive(t.Context(), b, "any2", choice{})
		w.want("a1", "any1")
		w.leave("any1")
		w.want("a1", "any1", "any2") // a2 and a3 want a
		w.leave("any2")
		w.leave("a1")
		w.want("a1", "any1", "any2", "a2")
		w.arrive(t.Context(), b, "a4", stuck)
		w.arrive(t.Context(), b, "a6", stuck)
		w.arrive(t.Context(), b, "a5", stuck) // no room to wait, but b is free
		w.want("a1", "any1", "any2", "a2", "a5")
		if w.entry("a5").target != b.entries[1].target || w.entry("a2").target != b.entries[0].target {
			t.Error("went to the wrong target")
		}
		w.leave("a5")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if len(w.served) != 6 { // one of the three
			t.Errorf("served were %q: nobody took the free target rather than none", w.served)
		}
		w.leave("a2")
	})
}

// Who waits goes by the routes of now, and to a target that is still there.
func TestQueueDuringUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := withLimit(1, Queue{Timeout: time.Hour}, targetsNamed("a")...)
		p := idleProxy(t, r)
		b := apply(t, p, r)[0]
		w := newWaiting(t)
		b.state.active.Add(4) // as decide does
		for i := range 4 {
			w.arrive(t.Context(), b, fmt.Sprint(i), choice{})
		}
		w.want("0")
		r.Action.Targets = targetsNamed("b")
		apply(t, p, r)
		synctest.Wait()
		w.want("0", "1")
		if host := w.entry("1").target.key.host; host != "b" {
			t.Errorf("went to %s, which has been removed", host)
		}
		w.leave("0")
		w.want("0", "1")
		// More room is used at once, and it is not more than was asked for.
		r.Action.LoadBalancing.MaxConnectionsPerTarget = 2
		apply(t, p, r)
		synctest.Wait()
		w.want("0", "1", "2")
		// A route that is gone still serves who waits there.
		apply(t, p)
		w.leave("1")
		w.want("0", "1", "2", "3")
		w.leave("2")
		w.leave("3")
	})
}

// Routes that share a target share its places, and take turns.
func TestQueuesOfOneTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := withLimit(2, Queue{Timeout: time.Hour}, targetsNamed("a")...), withLimit(2, Queue{Timeout: time.Hour}, targetsNamed("a")...)
		two.Name, two.Match.Domains = "two", []string{"b.test"}
		free := balancing(LoadBalancing{}, targetsNamed("a")...)
		free.Name, free.Match.Domains = "free", []string{"c.test"}
		list := apply(t, idleProxy(t, one, two, free), one, two, free)
		w := newWaiting(t)
		w.arrive(t.Context(), list[2], "free", choice{}) // has no limit, but counts
		w.arrive(t.Context(), list[0], "0", choice{})
		for i := range 10 {
			w.arrive(t.Context(), list[0], fmt.Sprint("one", i), choice{})
		}
		for i := range 10 {
			w.arrive(t.Context(), list[1], fmt.Sprint("two", i), choice{})
		}
		w.want("free", "0")
		w.leave("free")
		for i := 2; i < 10; i++ {
			w.leave(w.served[i])
		}
		ones := 0
		for _, name := range w.served {
			if name[0] == 'o' {
				ones++
			}
		}
		if ones < 4 || ones > 5 {
			t.Errorf("%d of 9 places went to the first route: %q", ones, w.served)
		}
		for i := 10; i < len(w.served); i++ {
			w.leave(w.served[i])
		}
		w.leave("0")
		for i := 22 - 1; i < len(w.served); i++ {
			w.leave(w.served[i])
		}
	})
}

// The limit holds at every instant, for requests and streams of several routes
// and through updates; with room in the queue nobody is refused.
func TestLimitPerTarget(t *testing.T) {
	testenv.Goroutines(t)
	const limit, clients, each = 3, 24, 25
	var now, most, streamsNow, streamsMost atomic.Int64
	enter := func(now, most *atomic.Int64) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
	}
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		enter(&now, &most)
		defer now.Add(-1)
		io.Copy(io.Discard, r.Body)
		time.Sleep(time.Millisecond) // so that requests meet
		w.Write([]byte("ok"))
	})
	peer := tcpServer(t, func(c *net.TCPConn) {
		enter(&streamsNow, &streamsMost)
		defer streamsNow.Add(-1)
		io.Copy(c, c)
	})
	web, also, raw := httpRoute("web", 0, "a.test", target), httpRoute("also", 0, "b.test", target), streamRoute("raw", testenv.FreePort(t), peer.target())
	for _, r := range []*Route{&web, &also, &raw} {
		r.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: limit, Queue: Queue{Size: 2 * clients, Timeout: 20 * time.Second}}
	}
	p := start(t, Config{Routes: []Route{web, also, raw}})
	port := raw.Match.Ports[0].From
	var wg sync.WaitGroup
	for i := range clients {
		c := client(t, addr(t, p, 0), nil)
		wg.Go(func() {
			for j := range each {
				if i%6 == 0 { // streams
					mustEcho(t, addr(t, p, port))
					continue
				}
				host := []string{"a.test", "b.test"}[j%2]
				if status, body := get(t, c, "http://"+host+"/"); status != 200 || body != "ok" {
					t.Errorf("%d %q", status, body)
				}
			}
		})
	}
	var over atomic.Bool
	wg.Go(func() {
		for i := 0; !over.Load(); i++ {
			other := handlerRoute(fmt.Sprint(i), Match{Domains: []string{"other.test"}})
			update(t, p, other, web, also, raw)
			time.Sleep(10 * time.Millisecond)
		}
	})
	eventually(t, "all are through", func() bool {
		return routeStats(p, "web").Requests+routeStats(p, "also").Requests == uint64((clients-clients/6)*each) && routeStats(p, "raw").Streams == clients/6*each && targetStats(p, target).Active == 0
	})
	over.Store(true)
	waitAll(t, &wg)
	if m, s := most.Load(), streamsMost.Load(); m != limit || s > limit {
		t.Errorf("at most %d requests and %d streams at once, want %d", m, s, limit)
	}
	if n := p.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
	eventually(t, "all places are free", func() bool { return targetStats(p, target).Active == 0 && targetStats(p, peer.target()).Active == 0 })
}

// mustEcho opens a stream, says something and ends it. The proxy's end of the
// connection to the target comes after that of ours.
func mustEcho(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if err := bounce(c, "hello"); err != nil {
		t.Error(err)
		return
	}
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

func TestQueueRefuses(t *testing.T) {
	testenv.Goroutines(t)
	begun, release := make(chan bool, 10), make(chan bool)
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		<-release
	})
	hold := tcpEcho(t)
	timeout := 300 * time.Millisecond
	web, none, raw := httpRoute("web", 0, "a.test", target), httpRoute("none", 0, "b.test", target), streamRoute("raw", testenv.FreePort(t), hold.target())
	web.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: 1, Queue: Queue{Size: 1, Timeout: timeout}}
	none.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: 1, Queue: Queue{Size: -1}}
	raw.Action.LoadBalancing = web.Action.LoadBalancing
	p := start(t, Config{Routes: []Route{web, none, raw}})
	c := client(t, addr(t, p, 0), nil)
	var wg sync.WaitGroup
	defer waitAll(t, &wg)
	defer close(release)
	wg.Go(func() {
		if resp, err := c.Get("http://a.test/"); err == nil {
			resp.Body.Close()
		}
	})
	receive(t, begun)
	refused := func(host string) time.Duration {
		t.Helper()
		begin := time.Now()
		resp, err := c.Get("http://" + host + "/")
		if err != nil {
			t.Error(err)
			return 0
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		return time.Since(begin)
	}
	refused("b.test")
	if n := routeStats(p, "none").Queued; n != 0 {
		t.Errorf("%d wait where nobody may", n)
	}
	waited := make(chan time.Duration)
	go func() { waited <- refused("a.test") }()
	eventually(t, "one waits", func() bool { return routeStats(p, "web").Queued == 1 })
	if d := refused("a.test"); d > timeout/2 {
		t.Errorf("a full queue refuses after %v", d)
	}
	if d := receive(t, waited); d < timeout {
		t.Errorf("refused after %v, want %v", d, timeout)
	}
	// A client that leaves makes room in the queue.
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://a.test/", nil)
		_, err := c.Do(req)
		left <- err
	}()
	eventually(t, "one waits", func() bool { return routeStats(p, "web").Queued == 1 })
	cancel()
	if err := receive(t, left); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "nobody waits", func() bool { return routeStats(p, "web").Queued == 0 })
	if n := p.Stats().Refused["targetsBusy"]; n != 3 {
		t.Errorf("%d are counted as refused, want 3", n)
	}

	port := raw.Match.Ports[0].From
	first := dialTCP(t, addr(t, p, port))
	mustBounce(t, first, "hello")
	second := dialTCP(t, addr(t, p, port))
	begin := time.Now()
	if !isClosed(second, 5*time.Second) || time.Since(begin) < timeout/2 {
		t.Errorf("a stream that found no place was closed after %v", time.Since(begin))
	}
	third := dialTCP(t, addr(t, p, port))
	eventually(t, "the third waits", func() bool { return routeStats(p, "raw").Queued == 1 })
	first.Close()
	mustBounce(t, third, "my turn")
}

// Stop ends those who wait.
func TestStopEndsQueue(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	raw := streamRoute("raw", 0, peer.target())
	raw.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: 1, Queue: Queue{Timeout: time.Hour}}
	p := newProxy(t, Config{Routes: []Route{raw}})
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := dialTCP(t, addr(t, p, 0))
	mustBounce(t, c, "hello")
	dialTCP(t, addr(t, p, 0))
	eventually(t, "one waits", func() bool { return routeStats(p, "raw").Queued == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	p.Stop(ctx)
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("Stop took %v", d)
	}
	if n := p.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// Code of the host that panics does not keep a place.
func TestPanickingPortFuncGivesPlaceBack(t *testing.T) {
	testenv.Goroutines(t)
	_, target := backend(t, says("ok"))
	var calls atomic.Int64
	r := httpRoute("web", 0, "a.test", Target{Host: target.Host, PortFunc: func(ConnInfo) int {
		switch calls.Add(1) {
		case 1:
			panic("the host's mistake")
		case 2:
			return 0
		}
		return target.Port
	}})
	r.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: 1, Queue: Queue{Size: -1}}
	p := start(t, Config{Routes: []Route{r}})
	c := client(t, addr(t, p, 0), nil)
	if _, err := c.Get("http://a.test/"); err == nil {
		t.Error("a panic is answered")
	}
	if status, _ := get(t, c, "http://a.test/"); status != 502 {
		t.Errorf("no port: %d", status)
	}
	for range 3 {
		if status, _ := get(t, c, "http://a.test/"); status != 200 {
			t.Errorf("afterwards: %d", status)
		}
	}
}
