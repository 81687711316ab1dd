package proxy

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

var errNoTarget = errors.New("no healthy target")

// balancer chooses among the targets of a route.
type balancer struct {
	algorithm string
	entries   []entry
	// order is a sequence of indices in which each entry appears according to
	// its weight, spread out evenly.
	order []uint16
	next  atomic.Uint32
}

// entry is a target as one route uses it.
type entry struct {
	target   *target
	health   *health // nil: not checked
	weight   int
	portFunc func(ConnInfo) int
}

// healthy reports whether health checks have nothing against the target.
func (e *entry) healthy() bool { return e.health == nil || !e.health.bad.Load() }

// port returns the port to connect to for a connection.
func (e *entry) port(info *ConnInfo) (int, error) {
	port := e.target.key.port
	switch {
	case e.portFunc != nil:
		port = e.portFunc(*info)
	case port == PreservePort:
		port = int(info.Local.Port())
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("%d, chosen for target %s, is not a port", port, e.target.name)
	}
	return port, nil
}

func newBalancer(algorithm string, entries []entry) *balancer {
	b := &balancer{algorithm: algorithm, entries: entries, order: spread(entries)}
	// Routes made together should not all begin with their first target.
	b.next.Store(rand.Uint32())
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

// pick returns the target for a client, other than those tried before, or nil.
// Targets that health checks found dead are never chosen; those that just now
// could not be reached only if there is no other.
func (b *balancer) pick(client netip.Addr, tried []*target) *entry {
	now := time.Now().UnixNano()
	fresh := func(e *entry) bool {
		return e.healthy() && !e.target.paused(now) && !slices.Contains(tried, e.target)
	}
	if e := b.choose(client, fresh); e != nil {
		return e
	}
	return b.choose(client, func(e *entry) bool {
		return e.healthy() && !slices.Contains(tried, e.target)
	})
}

func (b *balancer) choose(client netip.Addr, usable func(*entry) bool) *entry {
	if len(b.entries) == 1 {
		if e := &b.entries[0]; usable(e) {
			return e
		}
		return nil
	}
	switch b.algorithm {
	case LeastConnections:
		return b.leastLoaded(usable)
	case PowerOfTwo:
		return b.powerOfTwo(usable)
	case IPHash:
		return b.byHash(client, usable)
	}
	start := b.next.Add(1)
	for i := range b.order {
		if e := &b.entries[b.order[(uint64(start)+uint64(i))%uint64(len(b.order))]]; usable(e) {
			return e
		}
	}
	return nil
}

// lessLoaded compares active connections in proportion to weights.
func lessLoaded(a, b *entry) bool {
	return a.target.active.Load()*int64(b.weight) < b.target.active.Load()*int64(a.weight)
}

// leastLoaded begins at a rotating place, so that equals take turns.
func (b *balancer) leastLoaded(usable func(*entry) bool) *entry {
	start := int(b.next.Add(1) % uint32(len(b.entries)))
	var best *entry
	for i := range b.entries {
		e := &b.entries[(start+i)%len(b.entries)]
		if usable(e) && (best == nil || lessLoaded(e, best)) {
			best = e
		}
	}
	return best
}

func (b *balancer) powerOfTwo(usable func(*entry) bool) *entry {
	// Two draws by weight; if one is of no use, any that is will do.
	x := &b.entries[b.order[rand.IntN(len(b.order))]]
	y := &b.entries[b.order[rand.IntN(len(b.order))]]
	switch {
	case !usable(x) && !usable(y):
		return b.leastLoaded(usable)
	case !usable(x):
		return y
	case usable(y) && lessLoaded(y, x):
		return y
	}
	return x
}

// byHash is weighted rendezvous hashing: when a target comes or goes, only
// its own clients move.
func (b *balancer) byHash(client netip.Addr, usable func(*entry) bool) *entry {
	var best *entry
	highest := math.Inf(-1)
	addr := client.As16()
	for i := range b.entries {
		e := &b.entries[i]
		if !usable(e) {
			continue
		}
		h := hash(addr[:], e.target.name)
		// Uniform in (0,1); see Schindelhauer and Schomaker, "Weighted
		// distributed hash tables", for why this honours weights.
		u := (float64(h>>11) + 0.5) / (1 << 53)
		if score := -float64(e.weight) / math.Log(u); score > highest {
			best, highest = e, score
		}
	}
	return best
}

// hash is FNV-1a with a final mix (that of MurmurHash3), without which short
// inputs that differ in one byte stay close. It must not change between
// processes: two gateways side by side send a client to the same target.
func hash(addr []byte, name string) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range addr {
		h = (h ^ uint64(c)) * 1099511628211
	}
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
