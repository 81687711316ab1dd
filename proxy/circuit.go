package proxy

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

func (c CircuitBreaker) withDefaults() CircuitBreaker {
	c.ConsecutiveFailures = defaultTo(c.ConsecutiveFailures, 5)
	c.FailurePercent = defaultTo(c.FailurePercent, 50)
	c.MinRequests = defaultTo(c.MinRequests, 20)
	c.Window = defaultTo(c.Window, 10*time.Second)
	c.EjectionTime = defaultTo(c.EjectionTime, 10*time.Second)
	c.MaxEjectedPercent = defaultTo(c.MaxEjectedPercent, 100)
	if len(c.Statuses) == 0 {
		c.Statuses = []int{500, 502, 503, 504}
	}
	return c
}

// circuit watches one target in one way and ejects it when it fails. Routes
// that watch a target in the same way share it.
type circuit struct {
	settings circuitSettings
	gate     gate         // shut: the target is ejected
	row      atomic.Int64 // failures since the last success
	good     atomic.Int64 // successes since the window began

	mu     sync.Mutex
	began  time.Time // of the window: the first failure in it
	failed int64     // since then
}

// circuitSettings is a CircuitBreaker that can be compared. How many targets
// may be ejected is a matter of the route.
type circuitSettings struct {
	consecutive, percent, minRequests int64
	window, ejectionTime              time.Duration
	statuses                          [4]uint64 // a bit for each of 400 to 599
}

func (c CircuitBreaker) settings() circuitSettings {
	c = c.withDefaults()
	s := circuitSettings{
		consecutive:  int64(c.ConsecutiveFailures),
		percent:      int64(c.FailurePercent),
		minRequests:  int64(c.MinRequests),
		window:       c.Window,
		ejectionTime: c.EjectionTime,
	}
	for _, status := range c.Statuses {
		s.statuses[(status-400)/64] |= 1 << ((status - 400) % 64)
	}
	return s
}

// failure tells the outcomes that speak against a target.
func (s *circuitSettings) failure(o outcome) bool {
	switch o {
	case unreachable, brokeOff, timedOut:
		return true
	}
	return o >= 400 && o < 600 && s.statuses[(o-400)/64]&(1<<((o-400)%64)) != 0
}

// report takes in how a request of e went.
func (c *circuit) report(e *entry, o outcome, err error) {
	log, t := e.target.proxy.log, e.target
	switch failure := c.settings.failure(o); {
	case c.gate.until.Load() != 0:
		// Only who tries it says whether it is well again.
		if !c.gate.trying.Load() {
			return
		}
		if failure {
			c.gate.shut(c.settings.ejectionTime)
			return
		}
		c.reset()
		if c.gate.open() {
			t.returned()
			log.Info("target is back", "target", t.name)
		}
	case !failure:
		if c.row.Load() != 0 {
			c.row.Store(0)
		}
		if c.settings.percent > 0 {
			c.good.Add(1)
		}
	case c.tooMany() && e.balancer.eject(c):
		t.ejections.Add(1)
		if err == nil {
			err = fmt.Errorf("answered with status %d", o)
			t.noteError(err)
		}
		log.Warn("target is ejected", "target", t.name, "for", c.settings.ejectionTime, "err", err)
	}
}

// tooMany counts a failure and reports whether it is one too many.
func (c *circuit) tooMany() bool {
	row := c.row.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.began) >= c.settings.window {
		c.began, c.failed = now, 0
		c.good.Store(0)
	}
	c.failed++
	total := c.failed + c.good.Load()
	s := &c.settings
	return s.consecutive > 0 && row >= s.consecutive ||
		s.percent > 0 && total >= s.minRequests && c.failed*100 >= s.percent*total
}

// reset forgets what was counted.
func (c *circuit) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began, c.failed = time.Time{}, 0
	c.row.Store(0)
}

// state is the name of the circuit's state, for statistics.
func (c *circuit) state(now time.Time) string {
	switch until := c.gate.until.Load(); {
	case until == 0:
		return CircuitClosed
	case c.gate.trying.Load() || now.UnixNano() >= until:
		return CircuitHalfOpen
	}
	return CircuitOpen
}

// eject takes a target out unless too many of the route's are out already.
func (b *balancer) eject(c *circuit) bool {
	b.ejecting.Lock()
	defer b.ejecting.Unlock()
	out := 0
	for i := range b.entries {
		if other := b.entries[i].circuit; other != nil && other.gate.until.Load() != 0 {
			if other == c {
				return false // by another request, just now
			}
			out++
		}
	}
	// One may always go: a limit that lets nobody go would be none at all.
	if out >= max(1, len(b.entries)*b.maxEjected/100) {
		return false
	}
	c.gate.shut(c.settings.ejectionTime)
	return true
}

// circuit returns what watches a target for a route.
func (a *assembly) circuit(t *target, settings circuitSettings) *circuit {
	for _, known := range [][]*circuit{a.circuits[t], t.circuits} {
		for _, c := range known {
			if c.settings != settings {
				continue
			}
			if !slices.Contains(a.circuits[t], c) {
				a.circuits[t] = append(a.circuits[t], c)
			}
			return c
		}
	}
	c := &circuit{settings: settings}
	for _, other := range t.circuits {
		// What is known of a target holds when it is watched in another way.
		c.gate.until.Store(max(c.gate.until.Load(), other.gate.until.Load()))
	}
	a.circuits[t] = append(a.circuits[t], c)
	return c
}
