package proxy

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var errNoTarget = errors.New("no healthy target")

// balancer chooses among the targets of a route. What changes while it serves
// is in its targets and in the route's state, which outlive it.
type balancer struct {
	algorithm string
	entries   []entry
	// order is a sequence of indices in which each entry appears according to
	// its weight, spread out evenly.
	order []uint16
	turn  atomic.Uint32

	sticky     *sticky       // nil: no cookie
	limit      int64         // streams and requests of a target at once, 0: no limit
	slowStart  time.Duration // 0: none
	maxEjected int           // percent of the entries
	retry      Retry
	waiting    Queue
	state      *routeState

	ejecting sync.Mutex // while counting who is ejected
}

// entry is a target as one route uses it.
type entry struct {
	balancer *balancer
	target   *target
	health   *health  // nil: not checked
	circuit  *circuit // nil: not watched
	weight   int
	seed     uint64 // for hashing clients
	cookie   string // what stands for it in the sticky cookie
	portFunc func(ConnInfo) int
}

// healthy reports whether health checks have nothing against the target.
func (e *entry) healthy() bool { return e.health == nil || !e.health.bad.Load() }

// port returns the port to connect to for a connection. If there is none, it
// gives the entry's place back.
func (e *entry) port(info *ConnInfo) (port int, err error) {
	defer func() {
		if port == 0 { // also if the function of the host panics
			e.done(givenUp, nil)
		}
	}()
	n := e.target.key.port
	switch {
	case e.portFunc != nil:
		n = e.portFunc(*info)
	case n == PreservePort:
		n = int(info.Local.Port())
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("%d, chosen for target %s, is not a port", n, e.target.name)
	}
	return n, nil
}

// newBalancer makes the balancer of a route with this state.
func newBalancer(cfg *LoadBalancing, entries []entry, state *routeState) *balancer {
	b := &balancer{
		algorithm: cfg.Algorithm,
		entries:   entries,
		order:     spread(entries),
		limit:     int64(cfg.MaxConnectionsPerTarget),
		slowStart: cfg.SlowStart,
		retry:     cfg.Retry.withDefaults(),
		waiting:   cfg.Queue.withDefaults(),
		state:     state,
	}
	if cfg.CircuitBreaker != nil {
		b.maxEjected = cfg.CircuitBreaker.withDefaults().MaxEjectedPercent
	}
	for i := range entries {
		entries[i].balancer = b
		entries[i].seed = hash([]byte(entries[i].target.name))
	}
	if cfg.Sticky != nil {
		b.sticky = newSticky(cfg.Sticky, entries)
	}
	// Routes made together should not all begin with their first target.
	b.turn.Store(rand.Uint32())
	return b
}

// spread orders the entries by smooth weighted round-robin: the one furthest
// behind its share is next.
func spread(entries []entry) []uint16 {
	divisor, total := 0, 0
	for _, e := range entries {
		divisor = gcd(divisor, e.weight)
		total += e.weight
	}
	order := make([]uint16, 0, total/divisor)
	credit := make([]int, len(entries))
	for range total / divisor {
		best := 0
		for i, e := range entries {
			credit[i] += e.weight
			if credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		order = append(order, uint16(best))
	}
	return order
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// pick is one search for a target.
type pick struct {
	*balancer
	ch    *choice
	clock int64 // Unix nanoseconds, 0: not looked at yet
	// last also takes what just now could not be reached.
	last bool
	// full is set when a target is left out only because it is at its limit.
	full bool
}

// now reads the clock once, and not at all where all is well.
func (k *pick) now() int64 {
	if k.clock == 0 {
		k.clock = time.Now().UnixNano()
	}
	return k.clock
}

// usable reports whether an entry may be chosen.
func (k *pick) usable(e *entry) bool {
	t := e.target
	switch {
	case !e.healthy(),
		e.circuit != nil && e.circuit.gate.isShut(k),
		!k.last && t.pause.isShut(k),
		slices.Contains(k.ch.tried, t):
		return false
	case k.limit > 0 && t.active.Load() >= k.limit:
		k.full = true
		return false
	}
	return true
}

// share is how much of its weight an entry has, which is less than all of it
// while it starts slowly.
func (k *pick) share(e *entry) float64 {
	if k.slowStart == 0 {
		return 1
	}
	back := e.target.back.Load()
	if back == 0 {
		return 1
	}
	return min(1, max(leastShare, float64(k.now()-back)/float64(k.slowStart)))
}

// leastShare is what a target begins a slow start with: with nothing it would
// never warm up.
const leastShare = 0.1

// takesPart draws whether an entry takes part in this choice, which one that
// starts slowly does according to its share.
func (k *pick) takesPart(e *entry) bool {
	share := k.share(e)
	return share == 1 || rand.Float64() < share
}

// choose returns the target for a client, or nil. Targets that are ejected or
// that health checks found dead are never chosen; those that just now could not
// be reached only if there is no other, not even one to wait for.
func (k *pick) choose() *entry {
	for {
		e := k.among()
		if e != nil || k.full || k.last {
			return e
		}
		k.last = true
	}
}

func (k *pick) among() *entry {
	if k.sticky != nil && k.ch.sticky != "" {
		if e := k.sticky.entries[k.ch.sticky]; e != nil && (k.usable(e) || k.full) {
			if k.full {
				return nil // its client waits for it
			}
			return e
		}
	}
	if len(k.entries) == 1 {
		if e := &k.entries[0]; k.usable(e) {
			return e
		}
		return nil
	}
	switch k.algorithm {
	case LeastConnections:
		return k.leastLoaded()
	case PowerOfTwo:
		return k.powerOfTwo()
	case IPHash:
		return k.byHash()
	}
	return k.roundRobin()
}

// roundRobin passes over what is of no use, so that the others share its turns
// evenly.
func (k *pick) roundRobin() *entry {
	n := uint32(len(k.order))
	var spare *entry
	for range n {
		e := &k.entries[k.order[k.turn.Add(1)%n]]
		if !k.usable(e) {
			continue
		}
		if k.takesPart(e) {
			return e
		}
		spare = e
	}
	if spare == nil {
		return k.leastLoaded() // others may have had the turns that would have been of use
	}
	return spare
}

// lessLoaded compares active connections in proportion to weights.
func (k *pick) lessLoaded(a, b *entry) bool {
	return float64(a.target.active.Load())*float64(b.weight)*k.share(b) < float64(b.target.active.Load())*float64(a.weight)*k.share(a)
}

// leastLoaded begins at a rotating place, so that equals take turns.
func (k *pick) leastLoaded() *entry {
	start := int(k.turn.Add(1) % uint32(len(k.entries)))
	var best, spare *entry
	for i := range k.entries {
		e := &k.entries[(start+i)%len(k.entries)]
		if !k.usable(e) {
			continue
		}
		which := &best
		if !k.takesPart(e) {
			which = &spare
		}
		if *which == nil || k.lessLoaded(e, *which) {
			*which = e
		}
	}
	if best == nil {
		return spare
	}
	return best
}

// powerOfTwo draws two different targets by weight and takes the less loaded.
func (k *pick) powerOfTwo() *entry {
	// Where most are of no use, drawing takes too long.
	const draws = 6
	var x, y *entry
	for range draws {
		if e := k.draw(); k.usable(e) && k.takesPart(e) {
			x = e
			break
		}
	}
	if x == nil {
		return k.leastLoaded()
	}
	for range draws {
		if e := k.draw(); e.target != x.target && k.usable(e) {
			y = e
			break
		}
	}
	if y != nil && k.takesPart(y) && k.lessLoaded(y, x) {
		return y
	}
	return x
}

func (k *pick) draw() *entry { return &k.entries[k.order[rand.IntN(len(k.order))]] }

// byHash is weighted rendezvous hashing: when a target comes or goes, only
// its own clients move.
func (k *pick) byHash() *entry {
	var best *entry
	highest := math.Inf(-1)
	addr := k.ch.client.As16()
	client := hash(addr[:])
	for i := range k.entries {
		e := &k.entries[i]
		if !k.usable(e) {
			continue
		}
		h := mix(client ^ e.seed)
		// Uniform in (0,1); see Schindelhauer and Schomaker, "Weighted
		// distributed hash tables", for why this honours weights.
		u := (float64(h>>11) + 0.5) / (1 << 53)
		if score := -float64(e.weight) * k.share(e) / math.Log(u); score > highest {
			best, highest = e, score
		}
	}
	return best
}

// hash is FNV-1a with a final mix, without which short inputs that differ in
// one byte stay close. It must not change between processes: two gateways side
// by side send a client to the same target.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return mix(h)
}

// mix is the last step of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
