package proxy

import (
	"hash/maphash"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// Values of [RateLimit.By]. A header is written as "header:X-Api-Key".
const (
	ByClient = "client"
	ByRoute  = "route"

	byHeader = "header:"
)

// rateLimiter is the generic cell rate algorithm (ITU-T I.371): of each client
// it keeps one number, the time at which the client will have its whole burst
// back. A request moves it on by the interval of the rate, and is refused if
// that takes it further ahead of the clock than the burst reaches.
//
// The table is of fixed size once it has grown, and must not be a way out of
// the limit: who comes with ever new addresses or header values pushes others
// out of it. So whoever is dropped is the one that is nearest to its whole
// burst, and the newcomer in its place begins with what that one has left. As
// these times never go back, a client that was dropped and returns finds
// itself no better off: no flood frees anyone, it can only make newcomers wait.
type rateLimiter struct {
	interval int64 // nanoseconds between requests at the rate
	burst    int64 // how far ahead a client may get, nanoseconds
	whole    bool  // one limit for the whole route
	header   string
	began    time.Time // what times count from, so that clock changes do not matter

	// A header value must not be able to pass for an address.
	clientSeed, valueSeed maphash.Seed

	shards [rateShards]rateShard
}

// A limiter takes 1 MiB at most. Clients that have their whole burst need no
// place; of others there is room for 20,000 before any two have to share.
const (
	rateShards  = 64
	maxRateSets = 64 // of each shard
	rateWays    = 16
)

type rateShard struct {
	mu   sync.Mutex
	sets []rateSet // as many as a power of two
	_    [32]byte  // no two shards in one cache line
}

// rateSet holds the clients that fall into one place of the table.
type rateSet struct {
	keys [rateWays]uint64
	full [rateWays]int64 // when the client has its whole burst
}

// rateLimiterKey is the identity of a limiter: it lasts as long as the route
// and the setting do.
type rateLimiterKey struct {
	route string
	limit RateLimit
}

func newRateLimiter(cfg RateLimit) *rateLimiter {
	l := &rateLimiter{
		interval:   int64(float64(time.Second) / cfg.RequestsPerSecond),
		whole:      cfg.By == ByRoute,
		began:      time.Now(),
		clientSeed: maphash.MakeSeed(),
		valueSeed:  maphash.MakeSeed(),
	}
	l.burst = l.interval * int64(defaultTo(cfg.Burst, int(math.Ceil(cfg.RequestsPerSecond))))
	if name, ok := strings.CutPrefix(cfg.By, byHeader); ok {
		l.header = http.CanonicalHeaderKey(name)
	}
	return l
}

// take counts a request. It returns 0, or if the request is one too many how
// long to wait for the next.
func (l *rateLimiter) take(q *query) time.Duration {
	return l.takeAt(l.key(q), int64(time.Since(l.began)))
}

// key tells whom a request counts for.
func (l *rateLimiter) key(q *query) uint64 {
	value := ""
	switch {
	case l.whole:
		return 0
	case l.header == "Host":
		value = q.host
	case l.header != "":
		// Of two values nobody knows which the target goes by.
		if values := q.header.Values(l.header); len(values) == 1 {
			value = values[0]
		}
	}
	if value != "" {
		return maphash.String(l.valueSeed, value)
	}
	addr := q.client.As16()
	if q.client.Is6() {
		// A host has at least 2^64 addresses to choose from.
		return maphash.Bytes(l.clientSeed, addr[:8])
	}
	return maphash.Bytes(l.clientSeed, addr[:])
}

func (l *rateLimiter) takeAt(key uint64, now int64) time.Duration {
	s := &l.shards[key%rateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.find(key, now)
	full := max(*at, now) + l.interval
	if wait := full - now - l.burst; wait > 0 {
		return time.Duration(wait)
	}
	*at = full
	return 0
}

// find returns the number of a client, which has a place in the table then.
func (s *rateShard) find(key uint64, now int64) *int64 {
	if s.sets == nil {
		s.sets = make([]rateSet, 1)
	}
	for {
		set := s.set(key)
		if i := slices.Index(set.keys[:], key); i >= 0 {
			return &set.full[i]
		}
		first := 0
		for i, full := range set.full {
			if full < set.full[first] {
				first = i
			}
		}
		if set.full[first] <= now || len(s.sets) == maxRateSets {
			set.keys[first] = key
			return &set.full[first]
		}
		s.grow()
	}
}

func (s *rateShard) set(key uint64) *rateSet {
	return &s.sets[key/rateShards%uint64(len(s.sets))]
}

// grow doubles the sets. Each falls into two, so there is room for all.
func (s *rateShard) grow() {
	old := s.sets
	s.sets = make([]rateSet, 2*len(old))
	for i := range old {
		for j, key := range old[i].keys {
			set := s.set(key)
			k := slices.Index(set.full[:], 0)
			set.keys[k], set.full[k] = key, old[i].full[j]
		}
	}
}

func (l *RateLimit) validate(check *conf.Checker) {
	const day = 24 * 60 * 60 // seconds
	switch rate := check.Field("requestsPerSecond"); {
	case !(l.RequestsPerSecond > 0):
		rate.Errorf("must be more than 0")
	case l.RequestsPerSecond > 1e6:
		rate.Errorf("%v is more than 1000000, which is no limit", l.RequestsPerSecond)
	case max(float64(l.Burst), 1)/l.RequestsPerSecond > day:
		rate.Errorf("%v is too slow: the burst would take more than a day to come back", l.RequestsPerSecond)
	}
	check.Field("burst").NotNegative(l.Burst)
	if name, ok := strings.CutPrefix(l.By, byHeader); ok {
		if !httpguts.ValidHeaderFieldName(name) {
			check.Field("by").Errorf("%q is not a header name", name)
		}
	} else if l.By != "" && l.By != ByClient && l.By != ByRoute {
		check.Field("by").Errorf("%q is not known; use %q, %q or %q and a header name", l.By, ByClient, ByRoute, byHeader)
	}
}
