package proxy

import (
	"sync/atomic"
	"time"
)

// failPause is how long a target that could not be reached is left alone while
// there are others, unless it turns out to be well before.
const failPause = 10 * time.Second

// standing is how a target stands with the balancers that choose among targets.
// It belongs to the target and outlives routing tables with it.
type standing struct {
	pause     gate // after a failure to connect
	ejections atomic.Uint64
	back      atomic.Int64             // when it came back into service, Unix nanoseconds; 0: it was never out
	heard     atomic.Int64             // with TLS: when it was reached last, to a second; Unix nanoseconds
	queues    atomic.Pointer[[]*queue] // where requests may wait for it
	turn      atomic.Uint32            // which of them is first
	circuits  []*circuit               // one for each way to watch it; under Proxy.update
}

// failed notes that the target could not be reached.
func (t *target) failed(err error) {
	t.failures.Add(1)
	t.noteError(err)
	t.pause.shut(failPause)
}

// doubted notes that it could not be reached, maybe for what a client wants. Those to
// whom it is well must not be kept out, so the pause ends as it would have without:
// else who goes on asking would keep it from being tried.
func (t *target) doubted(err error) {
	t.failures.Add(1)
	t.noteError(err)
	t.pause.trying.Store(false)
	if t.pause.until.Load() == 0 {
		t.pause.shut(failPause)
	}
}

// reached notes that it could.
func (t *target) reached() {
	if t.tls != nil {
		if now := time.Now().UnixNano(); now-t.heard.Load() > int64(time.Second) {
			t.heard.Store(now)
		}
	}
	if t.pause.open() {
		t.returned()
	}
}

// doesWell reports whether a target with TLS has been reached lately.
func (t *target) doesWell() bool {
	return time.Now().UnixNano()-t.heard.Load() < int64(failPause)
}

// returned notes that the target is in service again after it was out.
func (t *target) returned() {
	t.back.Store(time.Now().UnixNano())
	t.wake()
}

// enter takes a place at the target unless it is at its limit.
func (t *target) enter(limit int64) bool {
	if limit == 0 {
		t.active.Add(1)
		return true
	}
	for {
		n := t.active.Load()
		if n >= limit {
			return false
		}
		if t.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave gives a place at the target back, to whoever waits for one.
func (t *target) leave() {
	t.active.Add(-1)
	t.wake()
}

// wake lets queues look whether the target has a place for them.
func (t *target) wake() {
	if t.proxy.waiting.Load() == 0 {
		return
	}
	queues := t.queues.Load()
	if queues == nil {
		return
	}
	// Routes that share the target take turns.
	first := int(t.turn.Add(1) % uint32(len(*queues)))
	for i := range *queues {
		(*queues)[(first+i)%len(*queues)].serve()
	}
}

// gate keeps requests out for a time. After that it is half-open: one request
// may try, and the others stay out until it is known how that went.
type gate struct {
	until  atomic.Int64 // Unix nanoseconds, 0: open
	trying atomic.Bool
}

// shut closes the gate.
func (g *gate) shut(d time.Duration) {
	g.trying.Store(false)
	g.until.Store(time.Now().Add(d).UnixNano())
}

// isShut reports whether nobody may pass now.
func (g *gate) isShut(k *pick) bool {
	until := g.until.Load()
	return until != 0 && k.now() < until
}

// enter passes the gate, with the right to try if it is half-open. d is how
// long to wait for the outcome before another may try. It fails if somebody
// else was faster.
func (g *gate) enter(k *pick, d time.Duration) bool {
	until := g.until.Load()
	if until == 0 {
		return true
	}
	if k.now() < until || !g.until.CompareAndSwap(until, k.now()+int64(d)) {
		return false
	}
	g.trying.Store(true)
	return true
}

// open opens the gate. It reports whether that is the success of who tried,
// and not of a request from before.
func (g *gate) open() (tried bool) {
	if g.until.Load() == 0 {
		return false
	}
	g.until.Store(0)
	return g.trying.Swap(false)
}

// abandon lets another one try at once.
func (g *gate) abandon() {
	if g.trying.CompareAndSwap(true, false) {
		g.until.Store(time.Now().UnixNano())
	}
}

// settle tells targets what watches them now and who may wait for them. It is
// the end of commit.
func (a *assembly) settle() {
	queues := make(map[*target][]*queue)
	collect := func(s *routeState) {
		b := s.queue.balancer
		if b == nil || b.limit == 0 {
			return
		}
		for i := range b.entries {
			t := b.entries[i].target
			queues[t] = append(queues[t], &s.queue)
		}
	}
	for _, rt := range a.table.routes {
		if rt.balancer != nil {
			rt.state.queue.use(rt.balancer)
			collect(rt.state)
		}
	}
	for _, s := range a.p.orphans { // where somebody may still wait
		collect(s)
	}
	for _, t := range a.p.targets {
		t.circuits = a.circuits[t]
		if list := queues[t]; len(list) > 0 {
			t.queues.Store(&list)
		} else if t.queues.Load() != nil {
			t.queues.Store(nil)
		}
	}
}
