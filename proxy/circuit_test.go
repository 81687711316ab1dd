package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestCircuitBreakerStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: 3, FailurePercent: -1}}, targetsNamed("a", "b")...)
		b := apply(t, idleProxy(t, r), r)[0]
		a := &b.entries[0]
		c := a.circuit
		// send makes n requests with which the first target does as o says.
		send := func(n int, o outcome) (atA int) {
			t.Helper()
			for range n {
				_, e := ask(t, b)
				switch {
				case e == nil:
					t.Fatal("refused though a target is well")
				case e == a:
					atA++
					var err error
					if o < 100 {
						err = errors.New("what the test says")
					}
					e.done(o, err)
				default:
					e.done(answered(200), nil)
				}
			}
			return atA
		}
		want := func(state string) {
			t.Helper()
			if got := c.state(time.Now()); got != state {
				t.Fatalf("the circuit is %s, want %s", got, state)
			}
		}
		// Neither fewer failures in a row nor other answers open it.
		for range 5 {
			send(4, answered(503))
			send(2, answered(404))
		}
		want(CircuitClosed)
		for _, o := range []outcome{unreachable, brokeOff, timedOut, answered(500), answered(502), answered(503), answered(504)} {
			if o == unreachable {
				continue // pauses it at once, which is tested elsewhere
			}
			if n := send(20, o); n != 3 {
				t.Errorf("%d requests got to a target until it was ejected for %d, want 3", n, o)
			}
			want(CircuitOpen)
			time.Sleep(10*time.Second - 1)
			if n := send(20, answered(200)); n != 0 {
				t.Errorf("%d requests go to an ejected target", n)
			}
			time.Sleep(time.Nanosecond)
			want(CircuitHalfOpen)
			if n := send(20, o); n != 1 {
				t.Errorf("%d requests try an ejected target that fails, want 1", n)
			}
			want(CircuitOpen)
			time.Sleep(10 * time.Second)
			if n := send(20, answered(200)); n < 9 {
				t.Errorf("%d of 20 requests go to a target that is well again", n)
			}
			want(CircuitClosed)
		}
		for _, o := range []outcome{answered(400), answered(429), answered(501), answered(599), answered(101), answered(999), connected, givenUp} {
			send(40, o)
			want(CircuitClosed)
		}
	})
}

// While one tries the target nobody else does, and what older requests have to
// say about it no longer counts.
func TestHalfOpenCircuitTakesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: 1}}, targetsNamed("a")...)
		b := apply(t, idleProxy(t, r), r)[0]
		_, old := ask(t, b)
		_, e := ask(t, b)
		e.done(answered(503), nil)
		old.done(answered(200), nil)
		if _, err := b.next(t.Context(), &choice{}); !errors.Is(err, errNoTarget) {
			t.Fatalf("with its only target ejected the route says %v", err)
		}
		time.Sleep(10 * time.Second)
		_, trial := ask(t, b)
		if trial == nil {
			t.Fatal("nobody may try the target")
		}
		if _, second := ask(t, b); second != nil {
			t.Error("two try the target")
		}
		trial.done(givenUp, nil)
		_, trial = ask(t, b)
		if trial == nil {
			t.Fatal("after one who gave up nobody may try")
		}
		time.Sleep(10 * time.Second)
		_, second := ask(t, b)
		if second == nil {
			t.Fatal("one who gets no answer keeps all others out")
		}
		second.done(answered(200), nil)
		trial.done(answered(200), nil)
		if _, e := ask(t, b); e == nil {
			t.Error("the circuit did not close")
		}
	})
}

func TestFailurePercent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: -1, FailurePercent: 30, MinRequests: 10, Window: time.Minute}}, targetsNamed("a")...)
		b := apply(t, idleProxy(t, r), r)[0]
		c := b.entries[0].circuit
		send := func(failures, successes int) {
			for range successes {
				_, e := ask(t, b)
				e.done(answered(200), nil)
			}
			for range failures {
				if _, e := ask(t, b); e != nil {
					e.done(answered(503), nil)
				}
			}
		}
		isOpen := func() bool { return c.state(time.Now()) == CircuitOpen }
		send(9, 0)
		if isOpen() {
			t.Error("opens before MinRequests")
		}
		time.Sleep(time.Minute)
		send(0, 1000) // long before the window
		send(5, 0)
		send(0, 13) // 5 of 18
		send(0, 0)
		if isOpen() {
			t.Error("opens below the percentage")
		}
		time.Sleep(time.Minute)
		send(1, 0)
		send(2, 7) // 3 of 10
		if !isOpen() {
			t.Error("does not open at the percentage")
		}
		time.Sleep(10 * time.Second)
		send(0, 1)
		send(9, 0)
		if isOpen() {
			t.Error("counts what was before the ejection")
		}
	})
}

func TestMaxEjectedPercent(t *testing.T) {
	for _, test := range []struct{ targets, percent, ejected int }{{1, 10, 1}, {2, 50, 1}, {3, 50, 1}, {4, 50, 2}, {4, 74, 2}, {4, 75, 3}, {4, 0, 4}, {4, 100, 4}, {100, 33, 33}} {
		var targets []Target
		for i := range test.targets {
			targets = append(targets, Target{Host: fmt.Sprint("t", i), Port: 80})
		}
		r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: 2, MaxEjectedPercent: test.percent}}, targets...)
		b := apply(t, idleProxy(t, r), r)[0]
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 * test.targets {
					if _, e := ask(t, b); e != nil {
						e.done(answered(503), nil)
					}
				}
			})
		}
		waitAll(t, &wg)
		ejected := 0
		for i := range b.entries {
			if b.entries[i].circuit.state(time.Now()) != CircuitClosed {
				ejected++
			}
		}
		if ejected != test.ejected {
			t.Errorf("%d of %d targets are ejected with a maximum of %d%%, want %d", ejected, test.targets, test.percent, test.ejected)
		}
		if _, e := ask(t, b); (e == nil) != (test.ejected == test.targets) {
			t.Errorf("with %d of %d ejected a request gets %v", test.ejected, test.targets, e)
		}
	}
}

// Two that are to be ejected at the same moment are counted all the same.
func TestMaxEjectedAtOnce(t *testing.T) {
	r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{MaxEjectedPercent: 50}}, targetsNamed("a", "b")...)
	b := apply(t, idleProxy(t, r), r)[0]
	for range 20_000 {
		var wg sync.WaitGroup
		var ejected atomic.Int64
		for i := range b.entries {
			wg.Go(func() {
				if b.eject(b.entries[i].circuit) {
					ejected.Add(1)
				}
			})
		}
		waitAll(t, &wg)
		if n := ejected.Load(); n != 1 {
			t.Fatalf("%d of 2 were ejected", n)
		}
		for i := range b.entries {
			b.entries[i].circuit.gate.open()
		}
	}
}

func TestCircuitSurvivesUpdates(t *testing.T) {
	r := balancing(LoadBalancing{CircuitBreaker: &CircuitBreaker{ConsecutiveFailures: 1}}, targetsNamed("a", "b")...)
	p := idleProxy(t, r)
	b := apply(t, p, r)[0]
	a := &b.entries[0]
	watched := a.circuit
	_, keeps := ask(t, b)
	for keeps != a {
		_, keeps = ask(t, b)
	}
	a.report(answered(503), nil)
	state := func(b *balancer, i int) string { return b.entries[i].circuit.state(time.Now()) }
	for range 3 {
		other := balancing(LoadBalancing{}, targetsNamed("c")...)
		other.Name, other.Match.Domains = "other", []string{"b.test"}
		b = apply(t, p, r, other)[0]
		if state(b, 0) != CircuitOpen || state(b, 1) != CircuitClosed {
			t.Fatalf("after an update: %s and %s", state(b, 0), state(b, 1))
		}
		if b.entries[0].circuit != watched {
			t.Fatal("an update forgets what was counted")
		}
	}
	// A target that is gone is remembered as long as it is in use.
	without := r
	without.Action.Targets = targetsNamed("b")
	apply(t, p, without)
	b = apply(t, p, r)[0]
	if b.entries[0].circuit != watched {
		t.Error("a target that was removed while in use comes back as if it were well")
	}
	// Watched in another way it is still the same target.
	other := r
	other.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: 2}
	b = apply(t, p, other)[0]
	if state(b, 0) != CircuitOpen || state(b, 1) != CircuitClosed {
		t.Errorf("with other settings: %s and %s", state(b, 0), state(b, 1))
	}
	for _, target := range p.targets {
		if len(target.circuits) != 1 {
			t.Errorf("target %s keeps %d circuits", target.name, len(target.circuits))
		}
	}
	// Two routes that watch it in the same way share what they learn.
	second := r
	second.Name, second.Match.Domains = "second", []string{"b.test"}
	list := apply(t, p, r, second)
	if list[0].entries[0].circuit != list[1].entries[0].circuit {
		t.Error("equal circuit breakers are not shared")
	}
}

// One of three back ends answers 503 for a while under load: it is ejected, the
// others take over, and it comes back slowly.
func TestEjectionUnderLoad(t *testing.T) {
	testenv.Goroutines(t)
	const failures, ejection, slow = 5, 300 * time.Millisecond, 2 * time.Second
	var sick atomic.Bool
	var sickAnswers atomic.Int64
	var targets []Target
	for _, name := range []string{"a", "b", "c"} {
		_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			if name == "a" && sick.Load() {
				sickAnswers.Add(1)
				w.WriteHeader(503)
			}
			io.WriteString(w, name)
		})
		targets = append(targets, target)
	}
	r := httpRoute("web", 0, "a.test", targets...)
	r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: failures, FailurePercent: -1, EjectionTime: ejection}
	r.Action.LoadBalancing.SlowStart = slow
	p := start(t, Config{Routes: []Route{r}})

	var mu sync.Mutex
	counts := map[string]int{}
	take := func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		c := counts
		counts = map[string]int{}
		return c
	}
	var over atomic.Bool
	var wg sync.WaitGroup
	const clients = 4
	for range clients {
		c := client(t, addr(t, p, 0), nil)
		wg.Go(func() {
			for !over.Load() {
				resp, err := c.Get("http://a.test/")
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				key := string(body)
				if resp.StatusCode != 200 {
					key += " failed"
				}
				mu.Lock()
				counts[key]++
				mu.Unlock()
			}
		})
	}
	defer waitAll(t, &wg)
	defer over.Store(true)
	total := func(c map[string]int) (n int) {
		for _, k := range c {
			n += k
		}
		return n
	}
	served := func(n int) {
		t.Helper()
		eventually(t, "load goes on", func() bool { mu.Lock(); defer mu.Unlock(); return total(counts) >= n })
	}
	served(300)
	before := take()
	for _, name := range []string{"a", "b", "c"} {
		if n := before[name]; n < total(before)/4 {
			t.Errorf("at first %s has %d of %d", name, n, total(before))
		}
	}
	sick.Store(true)
	eventually(t, "it is ejected", func() bool { return targetStats(p, targets[0]).Ejections > 0 })
	// What was under way may still fail, and one in each EjectionTime tries.
	if n := sickAnswers.Load(); n > failures+clients+1 {
		t.Errorf("%d requests failed until the target was ejected, want about %d", n, failures)
	}
	if s := targetStats(p, targets[0]); s.Healthy || s.Circuit == CircuitClosed || !strings.Contains(s.LastError, "503") {
		t.Errorf("%+v", s)
	}
	take()
	begin, from := time.Now(), sickAnswers.Load()
	served(600)
	trials := sickAnswers.Load() - from
	during := take()
	if most := int64(time.Since(begin)/ejection) + clients + 1; trials > most {
		t.Errorf("%d requests tried the ejected target in %v, want at most %d", trials, time.Since(begin), most)
	}
	if b, c := during["b"], during["c"]; b < total(during)/3 || c < total(during)/3 {
		t.Errorf("the others do not share the load evenly: %v", during)
	}
	sick.Store(false)
	eventually(t, "it is back", func() bool { return targetStats(p, targets[0]).Circuit == CircuitClosed })
	take()
	back := time.Now()
	for time.Since(back) < slow/4 {
		served(50)
	}
	early := take()
	t.Logf("%d requests failed; %d trials while %d requests were served; then %v in the first %v", failures, trials, total(during), early, time.Since(back))
	// A quarter into its slow start its share has grown from a tenth to a
	// quarter of the usual.
	if n := early["a"]; n == 0 || n > total(early)/5 {
		t.Errorf("just back it has %d of %d", n, total(early))
	}
	eventually(t, "the slow start is over", func() bool { return time.Since(back) > slow })
	take()
	served(300)
	if after := take(); after["a"] < total(after)/4 {
		t.Errorf("in the end it has %d of %d", after["a"], total(after))
	}
}

// With one target there is nobody to take over: the breaker refuses at once and
// spares the target.
func TestCircuitBreakerFailsFast(t *testing.T) {
	testenv.Goroutines(t)
	var sick atomic.Bool
	var asked atomic.Int64
	_, target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if sick.Load() {
			w.WriteHeader(500)
		}
	})
	r := httpRoute("web", 0, "a.test", target)
	r.Action.LoadBalancing.CircuitBreaker = &CircuitBreaker{ConsecutiveFailures: 3, EjectionTime: 200 * time.Millisecond}
	p := start(t, Config{Routes: []Route{r}})
	c := client(t, addr(t, p, 0), nil)
	if status, _ := get(t, c, "http://a.test/"); status != 200 {
		t.Fatal(status)
	}
	sick.Store(true)
	for range 3 {
		if status, _ := get(t, c, "http://a.test/"); status != 500 {
			t.Fatalf("%d, want the target's own answer", status)
		}
	}
	opened := time.Now()
	n := asked.Load()
	refused := 0
	for time.Since(opened) < 100*time.Millisecond {
		resp, err := c.Get("http://a.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		refused++
	}
	if asked.Load() != n && time.Since(opened) < 200*time.Millisecond {
		t.Errorf("of %d requests %d reached the ejected target", refused, asked.Load()-n)
	}
	eventually(t, "it is tried", func() bool { get(t, c, "http://a.test/"); return asked.Load() > n })
	if s := targetStats(p, target); s.Circuit == CircuitClosed {
		t.Error("a trial that failed closed the circuit")
	}
	sick.Store(false)
	eventually(t, "the circuit closes", func() bool { status, _ := get(t, c, "http://a.test/"); return status == 200 })
	if s := targetStats(p, target); s.Circuit != CircuitClosed || !s.Healthy || s.Ejections != 1 {
		t.Errorf("%+v", s)
	}
}

// An answer that breaks off in the middle is a failure, and so is a target of
// streams that cannot be reached; an answer that a client does not wait for is
// not.
func TestWhatEjects(t *testing.T) {
	testenv.Goroutines(t)
	breaks := wireAnswer(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
	var hung atomic.Int64
	_, hangs := backend(t, func(w http.ResponseWriter, r *http.Request) {
		hung.Add(1)
		w.Write([]byte("x"))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	dead := deadTarget(t)
	watch := &CircuitBreaker{ConsecutiveFailures: -1, FailurePercent: 40, MinRequests: 4, EjectionTime: time.Hour}
	web, patience, raw := httpRoute("web", 0, "a.test", breaks), httpRoute("patience", 0, "b.test", hangs), streamRoute("raw", testenv.FreePort(t), dead)
	for _, r := range []*Route{&web, &patience, &raw} {
		r.Action.LoadBalancing.CircuitBreaker = watch
	}
	p := start(t, Config{Routes: []Route{web, patience, raw}})
	c := client(t, addr(t, p, 0), nil)
	for range 10 {
		if resp, err := c.Get("http://a.test/"); err == nil { // the proxy breaks off too
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		resp, err := c.Get("http://b.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() // it has not ended
		isClosed(dialTCP(t, addr(t, p, raw.Match.Ports[0].From)), 5*time.Second)
	}
	eventually(t, "all places are given back", func() bool {
		return targetStats(p, breaks).Active == 0 && targetStats(p, hangs).Active == 0 && targetStats(p, dead).Active == 0
	})
	if s := targetStats(p, breaks); s.Circuit != CircuitOpen {
		t.Errorf("breaks off: %+v", s)
	}
	if s := targetStats(p, dead); s.Circuit != CircuitOpen || s.Total > 4 {
		t.Errorf("cannot be reached: %+v", s)
	}
	if s := targetStats(p, hangs); s.Circuit != CircuitClosed || hung.Load() != 10 || s.Failures != 0 {
		t.Errorf("abandoned %d times by clients: %+v", hung.Load(), s)
	}
}
