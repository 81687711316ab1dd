package dnsserver

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// rateLimiter limits responses to client networks by the generic cell rate
// algorithm (ITU-T I.371): of each network it keeps one number, the time at
// which the network will have its whole burst back. A response moves it on by
// the interval of the rate, and is held back if that takes it further ahead of
// the clock than the burst reaches.
//
// The table has a fixed size, a MiB, and forged addresses must not be a way out
// of the limit. So where there is no room the network goes that is nearest to
// its whole burst, and the newcomer begins with what that one has left: no
// flood frees anyone, it can only make newcomers wait. These get truncated
// responses, and come back over TCP.
type rateLimiter struct {
	interval int64 // ns between responses at the rate
	burst    int64 // ns that a network may get ahead
	slip     uint32
	began    time.Time // what times count from, so that clock changes do not matter
	seed     maphash.Seed
	shards   [rateShards]rateShard
}

const (
	rateShards = 64
	rateSets   = 64 // of each shard
	rateWays   = 16
)

type rateShard struct {
	mu   sync.Mutex
	held uint32
	sets [rateSets]rateSet
}

// rateSet holds the networks that fall into one place of the table.
type rateSet struct {
	keys [rateWays]uint64
	full [rateWays]int64 // when the network has its whole burst
}

// rateVerdict is what becomes of a response.
type rateVerdict int

const (
	rateSent    rateVerdict = iota
	rateHeld                // not sent
	rateSlipped             // sent truncated
)

func newRateLimiter(c *ResponseRateLimit) *rateLimiter {
	if c == nil {
		return nil
	}
	rate, burst, slip := c.ResponsesPerSecond, c.Burst, c.Slip
	if rate == 0 {
		rate = DefaultResponsesPerSecond
	}
	if burst == 0 {
		burst = rate
	}
	switch slip {
	case 0:
		slip = DefaultSlip
	case -1:
		slip = 0
	}
	l := &rateLimiter{interval: int64(time.Second) / int64(rate), slip: uint32(slip), began: time.Now(), seed: maphash.MakeSeed()}
	l.burst = l.interval * int64(burst)
	return l
}

// take counts a response to a client.
func (l *rateLimiter) take(client netip.Addr, now time.Time) rateVerdict {
	return l.takeAt(l.key(client), int64(now.Sub(l.began)))
}

// key tells networks apart.
func (l *rateLimiter) key(client netip.Addr) uint64 {
	addr := client.As16()
	network := addr[:15] // /24
	if client.Is6() {
		network = addr[:7] // /56
	}
	return maphash.Bytes(l.seed, network)
}

func (l *rateLimiter) takeAt(key uint64, now int64) rateVerdict {
	s := &l.shards[key%rateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.sets[key/rateShards%rateSets].find(key)
	full := max(*at, now) + l.interval
	if full-now <= l.burst {
		*at = full
		return rateSent
	}
	if l.slip == 0 {
		return rateHeld
	}
	if s.held++; s.held%l.slip != 0 {
		return rateHeld
	}
	return rateSlipped
}

// find returns the number of a network, which has a place in the set then.
func (s *rateSet) find(key uint64) *int64 {
	i := slices.Index(s.keys[:], key)
	if i < 0 {
		i = 0
		for j, full := range s.full {
			if full < s.full[i] {
				i = j
			}
		}
		s.keys[i] = key
	}
	return &s.full[i]
}
