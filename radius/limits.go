package radius

import (
	"net/netip"
	"sync"
	"time"
)

// maxTracked bounds the tables below. When one is full it forgets what is out
// of date; if that is nothing, newcomers are not tracked.
const maxTracked = 1 << 16

// rateLimiter has a token bucket for each address.
type rateLimiter struct {
	rate, burst float64 // tokens a second, and at most
	mu          sync.Mutex
	buckets     map[netip.Addr]*bucket
	swept       time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newRateLimiter(l *RateLimit) *rateLimiter {
	if l == nil {
		return nil
	}
	return &rateLimiter{rate: float64(l.RequestsPerSecond), burst: float64(valueOr(l.Burst, l.RequestsPerSecond)), buckets: make(map[netip.Addr]*bucket)}
}

// allow takes a token.
func (l *rateLimiter) allow(addr netip.Addr, now time.Time) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[addr]
	if b == nil {
		if len(l.buckets) >= maxTracked && !l.sweep(now) {
			return false // more addresses than any network has switches: only a flood does that
		}
		b = &bucket{l.burst, now}
		l.buckets[addr] = b
	}
	b.tokens = min(l.burst, b.tokens+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// sweep forgets buckets that are full again, once a second at most.
func (l *rateLimiter) sweep(now time.Time) bool {
	if now.Sub(l.swept) < time.Second {
		return false
	}
	l.swept = now
	for addr, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*l.rate >= l.burst {
			delete(l.buckets, addr)
		}
	}
	return len(l.buckets) < maxTracked
}

// subject is who is let in or not: a device or user at a client.
type subject struct {
	client netip.Addr
	who    string
}

// failureLimiter counts how often someone was rejected.
type failureLimiter struct {
	most   int // negative: no limit
	window time.Duration
	mu     sync.Mutex
	counts map[subject]failures
	swept  time.Time
}

type failures struct {
	count int
	since time.Time
}

func newFailureLimiter(l *Limits) *failureLimiter {
	return &failureLimiter{most: valueOr(l.MaxFailures, 10), window: valueOr(l.FailureWindow, time.Minute), counts: make(map[subject]failures)}
}

// exceeded reports whether someone has failed too often: the limit times so many.
func (l *failureLimiter) exceeded(s subject, times int, now time.Time) bool {
	if l.most < 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.counts[s]
	if ok && now.Sub(f.since) >= l.window {
		delete(l.counts, s)
		return false
	}
	return f.count >= times*l.most
}

// failed counts a rejection.
func (l *failureLimiter) failed(s subject, now time.Time) {
	if l.most < 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.counts[s]
	if !ok || now.Sub(f.since) >= l.window {
		if !ok && len(l.counts) >= maxTracked && !l.sweep(now) {
			return
		}
		f = failures{since: now}
	}
	f.count++
	l.counts[s] = f
}

func (l *failureLimiter) sweep(now time.Time) bool {
	if now.Sub(l.swept) < time.Second {
		return false
	}
	l.swept = now
	for s, f := range l.counts {
		if now.Sub(f.since) >= l.window {
			delete(l.counts, s)
		}
	}
	return len(l.counts) < maxTracked
}

// forget gives everybody a new start: the rules have changed.
func (l *failureLimiter) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.counts)
}

// notices bounds what clients and strangers can have written to the log: a line
// a minute for each address and reason.
type notices struct {
	mu      sync.Mutex
	last    map[notice]time.Time
	swept   time.Time
	skipped uint64
}

type notice struct {
	addr   netip.Addr
	reason reason
}

// maxNotices bounds the lines of a minute.
const maxNotices = 1 << 10

// first reports whether a line is due, and how many were left out since the
// last one.
func (n *notices) first(addr netip.Addr, why reason, now time.Time) (skipped uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := notice{addr, why}
	if at, ok := n.last[key]; ok && now.Sub(at) < time.Minute || !ok && len(n.last) >= maxNotices && !n.sweep(now) {
		n.skipped++
		return 0, false
	}
	if n.last == nil {
		n.last = make(map[notice]time.Time)
	}
	n.last[key] = now
	skipped, n.skipped = n.skipped, 0
	return skipped, true
}

// sweep forgets lines that are a minute old, once a second at most.
func (n *notices) sweep(now time.Time) bool {
	if now.Sub(n.swept) < time.Second {
		return false
	}
	n.swept = now
	for key, at := range n.last {
		if now.Sub(at) >= time.Minute {
			delete(n.last, key)
		}
	}
	return len(n.last) < maxNotices
}
