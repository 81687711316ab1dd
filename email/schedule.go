package email

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	defaultRetryDelay = 5 * time.Minute
	maxRetryDelay     = 4 * time.Hour
	// defaultMaxAge is RFC 5321 section 4.5.4.1's.
	defaultMaxAge      = 5 * 24 * time.Hour
	defaultDelayNotice = 4 * time.Hour
)

// schedule says when a message is tried again and for how long. It is that of
// the configuration when the message was accepted: what its sender was told then
// holds whatever is changed while it waits.
type schedule struct {
	RetryDelay time.Duration `json:"delay"`
	// MaxRetries is nil for as many as MaxAge has room for.
	MaxRetries *int          `json:"retries,omitempty"`
	MaxAge     time.Duration `json:"age"`
	// DelayNotice is 0 for none.
	DelayNotice time.Duration `json:"notice,omitempty"`
}

// schedule is what the configuration says now.
func (q *queue) schedule() schedule {
	cfg := &q.r.s.cfg.Queue
	return schedule{
		RetryDelay:  valueOr(cfg.RetryDelay, defaultRetryDelay),
		MaxRetries:  cfg.MaxRetries,
		MaxAge:      valueOr(cfg.MaxAge, defaultMaxAge),
		DelayNotice: max(0, valueOr(cfg.DelayNotice, defaultDelayNotice)),
	}
}

// delay is how long to wait after so many tries: twice as long each time, and a
// fifth more or less, so that what failed together does not come back together.
func (s *schedule) delay(tries int) time.Duration {
	d := valueOr(s.RetryDelay, defaultRetryDelay)
	for range tries - 1 {
		if d *= 2; d >= maxRetryDelay {
			d = maxRetryDelay
			break
		}
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// since is from when on the time counts that a message may take: when it arrived,
// or it was to be sent, or it was released.
func (q *queued) since(p *progress) time.Time {
	at := q.Arrived
	for _, t := range []time.Time{q.NotBefore, p.Since} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// look is when a message has to be looked at, though it is only put off: its
// sender is told that it is late, or it is given up.
func (q *queued) look(p *progress) time.Time {
	s := &q.Schedule
	age := valueOr(s.MaxAge, defaultMaxAge)
	untold := func(a state) bool { return a.State == "" && !a.Delayed }
	if s.DelayNotice > 0 && (len(p.Recipients) == 0 || slices.ContainsFunc(p.Recipients, untold)) {
		age = min(age, s.DelayNotice)
	}
	return q.since(p).Add(age)
}

// after is when a message is tried again that has been tried so often, and not
// before later; ok is false if it is given up. The last try is when the time that
// counts from since is up.
func (s *schedule) after(since, now, later time.Time, tries int) (next time.Time, ok bool) {
	end := since.Add(valueOr(s.MaxAge, defaultMaxAge))
	if s.MaxRetries != nil && tries > *s.MaxRetries || !now.Before(end) {
		return end, false
	}
	next = later
	if later.IsZero() {
		next = now.Add(s.delay(tries))
	}
	if next.After(end) {
		next = end
	}
	return next, true
}
