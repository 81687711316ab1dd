package limit

import (
	"sync"
	"time"
)

// Rate allows N events in any span of Per.
type Rate struct {
	N   int
	Per time.Duration
}

// Limiter counts events by key in sliding windows: the events of the current
// span and, as far as it still counts, of the one before, taken to be spread
// evenly. That needs two numbers a key, and is exact when traffic is even.
type Limiter struct {
	now func() time.Time

	mu    sync.Mutex
	rates []Rate
	keys  *lru[string, []window]
}

// window counts the events of one key for one rate.
type window struct {
	start     time.Time // of the current span
	now, prev int       // events in it, and in the one before
}

// NewLimiter makes a Limiter for at most keys keys; 0 means [DefaultKeys]. Every
// one of the rates holds; none means no limit. Rates with N or Per of 0 or less
// are left out. A nil now means [time.Now].
func NewLimiter(keys int, now func() time.Time, rates ...Rate) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{now: now, keys: newLRU[string, []window](keys), rates: effective(rates)}
}

func effective(rates []Rate) []Rate {
	var list []Rate
	for _, r := range rates {
		if r.N > 0 && r.Per > 0 {
			list = append(list, r)
		}
	}
	return list
}

// SetRates changes the rates. What was counted is kept as long as the spans stay
// the same.
func (l *Limiter) SetRates(rates ...Rate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.rates
	l.rates = effective(rates)
	same := len(old) == len(l.rates)
	for i := 0; same && i < len(old); i++ {
		same = old[i].Per == l.rates[i].Per
	}
	if !same {
		l.keys = newLRU[string, []window](l.keys.max)
	}
}

// Allow counts n events for key if all rates allow them. If not, nothing is
// counted, and retryAfter says when they may be allowed; for more events than a
// rate ever allows that is its whole span.
func (l *Limiter) Allow(key string, n int) (ok bool, retryAfter time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rates) == 0 || n <= 0 {
		return true, 0
	}
	now := l.now()
	windows := l.keys.obtain(key)
	if *windows == nil {
		*windows = make([]window, len(l.rates))
	}
	for i, r := range l.rates {
		w := &(*windows)[i]
		w.advance(now, r.Per)
		retryAfter = max(retryAfter, w.wait(now, r, n))
	}
	if retryAfter > 0 {
		return false, retryAfter
	}
	for i := range *windows {
		(*windows)[i].now += n
	}
	return true, 0
}

// Refund takes back events that were allowed and then did not happen.
func (l *Limiter) Refund(key string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if windows := l.keys.get(key); windows != nil {
		for i := range *windows {
			w := &(*windows)[i]
			w.now = max(0, w.now-n)
		}
	}
}

// advance brings the window to the span that now is in.
func (w *window) advance(now time.Time, per time.Duration) {
	switch age := now.Sub(w.start); {
	case age < 0 || age >= 2*per: // also a clock that was set back
		*w = window{start: now}
	case age >= per:
		*w = window{start: w.start.Add(per), prev: w.now}
	}
}

// rounding is what floating point may be off by, in events.
const rounding = 1e-6

// wait says how long it takes until n more events are allowed, in whole
// milliseconds.
func (w *window) wait(now time.Time, r Rate, n int) time.Duration {
	age := now.Sub(w.start)
	old := float64(w.prev) * (1 - float64(age)/float64(r.Per))
	room := float64(r.N - n)
	var d time.Duration
	switch {
	case room < 0:
		return r.Per
	case old+float64(w.now) <= room+rounding:
		return 0
	case float64(w.now) <= room: // once enough of prev has slid out
		left := (room - float64(w.now)) / float64(w.prev)
		d = time.Duration((1-left)*float64(r.Per)) - age
	default: // once this span is prev, and enough of it has slid out
		left := room / float64(w.now)
		d = r.Per - age + time.Duration((1-left)*float64(r.Per))
	}
	return max(time.Millisecond, (d + time.Millisecond - 1).Truncate(time.Millisecond))
}
