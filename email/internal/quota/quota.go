package quota

import (
	"log/slog"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// Limits bounds what one key may have. 0 or less is no limit.
type Limits struct {
	Hour, Day int
}

func (l Limits) none() bool { return l.Hour <= 0 && l.Day <= 0 }

// Config of a [Quota].
type Config struct {
	// Limits by key; see [Quota.SetLimits].
	Limits map[string]Limits
	// Store keeps the counts. Nil means that they are forgotten with the Quota.
	Store *storage.Store
	// SaveEvery is how often changes are stored; default 5s.
	SaveEvery time.Duration
	// Log is told when storing fails. Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// Usage is what a key has used of its limits, 0 being no limit.
type Usage struct {
	Hour      int `json:"hour"`
	HourLimit int `json:"hourLimit"`
	Day       int `json:"day"`
	DayLimit  int `json:"dayLimit"`
}

// Quota counts by key. Make one with [Open]. It is safe for concurrent use.
type Quota struct {
	cfg Config

	mu     sync.Mutex
	counts map[string]*count // of keys with limits only
	dirty  [shards]bool

	saving sync.Mutex     // so that an older state never replaces a newer one
	upkeep *upkeep.Upkeep // nil without a Store
}

// count is what one key has used.
type count struct {
	limits    Limits
	hour, day ring
}

func newCount() *count {
	return &count{hour: newRing(time.Hour, 60), day: newRing(24*time.Hour, 96)}
}

func (c *count) advance(now time.Time) {
	c.hour.advance(now)
	c.day.advance(now)
}

// room returns when n more are within both limits, the zero time if they are now.
func (c *count) room(n int) time.Time {
	var next time.Time
	if c.limits.Hour > 0 {
		next = c.hour.room(n, c.limits.Hour)
	}
	if c.limits.Day > 0 {
		if at := c.day.room(n, c.limits.Day); at.After(next) {
			next = at
		}
	}
	return next
}

// SetLimits replaces the limits. What was counted for a key stays as long as it
// has limits; a key without limits is let through and not counted, so the map
// bounds what is held.
func (q *Quota) SetLimits(limits map[string]Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.counts {
		if limits[key].none() {
			delete(q.counts, key)
			q.dirty[shardOf(key)] = true
		}
	}
	for key, l := range limits {
		if l.none() {
			continue
		}
		if q.counts[key] == nil {
			q.counts[key] = newCount()
		}
		q.counts[key].limits = l
	}
}

// Take counts n messages for each of the keys, if the limits of all of them allow
// it. If not, nothing is counted, and next says when it may be allowed. More than
// a limit ever allows at once goes when nothing else is in the window, and what
// follows waits the longer. An n of 0 or less is free.
func (q *Quota) Take(n int, keys ...string) (next time.Time, ok bool) {
	if n <= 0 {
		return time.Time{}, true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Now()
	for _, key := range keys {
		if c := q.counts[key]; c != nil {
			c.advance(now)
			if at := c.room(n); at.After(next) {
				next = at
			}
		}
	}
	if !next.IsZero() {
		return next, false
	}
	for _, key := range keys {
		if c := q.counts[key]; c != nil {
			c.hour.add(n)
			c.day.add(n)
			q.dirty[shardOf(key)] = true
		}
	}
	return time.Time{}, true
}

// Return takes back n messages that were counted and then not sent.
func (q *Quota) Return(n int, keys ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Now()
	for _, key := range keys {
		if c := q.counts[key]; c != nil {
			c.advance(now)
			c.hour.remove(n)
			c.day.remove(n)
			q.dirty[shardOf(key)] = true
		}
	}
}

// Stats returns what each key with limits has used.
func (q *Quota) Stats() map[string]Usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Now()
	all := make(map[string]Usage, len(q.counts))
	for key, c := range q.counts {
		c.advance(now)
		all[key] = Usage{Hour: c.hour.sum, HourLimit: max(0, c.limits.Hour), Day: c.day.sum, DayLimit: max(0, c.limits.Day)}
	}
	return all
}
