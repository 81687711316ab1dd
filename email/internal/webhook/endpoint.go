package webhook

import (
	"container/heap"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// item is an event on its way to one endpoint. The fields with names in JSON are
// stored.
type item struct {
	ID       string          `json:"id"`
	Created  time.Time       `json:"created"`
	Attempts int             `json:"attempts,omitempty"`
	Payload  json.RawMessage `json:"payload"`

	next    time.Time // when to try
	seq     uint64
	segment *segment // nil: not stored
}

// endpoint is a receiver with its queue.
type endpoint struct {
	cfg    *Config
	log    *slog.Logger
	id     string // in the storage
	name   string // to be shown
	url    string
	keys   [][]byte
	wanted []string
	wake   chan struct{}

	mu       sync.Mutex
	waiting  queue
	underWay map[*item]bool
	seq      uint64
	failures int       // in a row
	resume   time.Time // no request before
	stats    Stats
	segments map[*segment]bool
	stale    []string // keys to be deleted

	saving sync.Mutex // one writes to storage at a time
}

// queue is a heap by the time of the next try, and by age.
type queue []*item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].next.Equal(q[j].next) {
		return q[i].next.Before(q[j].next)
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*item)) }
func (q *queue) Pop() any {
	n := len(*q) - 1
	it := (*q)[n]
	(*q)[n] = nil
	*q = (*q)[:n]
	return it
}

// add queues an event, in place of the oldest if there is no room.
func (e *endpoint) add(it *item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stats.Disabled {
		e.stats.Dropped++
		return
	}
	if len(e.waiting)+len(e.underWay) >= e.cfg.MaxQueue && len(e.waiting) > 0 {
		oldest := 0
		for i, other := range e.waiting {
			if other.seq < e.waiting[oldest].seq {
				oldest = i
			}
		}
		e.finish(heap.Remove(&e.waiting, oldest).(*item))
		if e.stats.Dropped++; e.stats.Dropped%1000 == 1 {
			e.log.Warn("events for a webhook were dropped, as too many wait", "dropped", e.stats.Dropped)
		}
	}
	e.seq++
	it.seq, it.next = e.seq, it.Created
	heap.Push(&e.waiting, it)
	e.signal()
}

func (e *endpoint) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run posts until quit is closed; ctx ends what is under way then.
func (e *endpoint) run(ctx context.Context, quit <-chan struct{}) {
	var requests sync.WaitGroup
	defer requests.Wait()
	for {
		it, wait := e.take()
		if it != nil {
			requests.Go(func() { e.deliver(ctx, it) })
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-quit:
			timer.Stop()
			return
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// take returns what is to be posted now, or how long there is nothing to do.
func (e *endpoint) take() (*item, time.Duration) {
	const idle = time.Hour // until it is woken up
	e.mu.Lock()
	defer e.mu.Unlock()
	limit := e.cfg.Concurrency
	if e.failures > 0 {
		limit = 1
	}
	if len(e.waiting) == 0 || len(e.underWay) >= limit {
		return nil, idle
	}
	now := e.cfg.Now()
	at := e.waiting[0].next
	if e.resume.After(at) {
		at = e.resume
	}
	if at.After(now) {
		return nil, min(idle, at.Sub(now))
	}
	it := heap.Pop(&e.waiting).(*item)
	if e.underWay == nil {
		e.underWay = make(map[*item]bool)
	}
	e.underWay[it] = true
	return it, 0
}

// deliver makes one try.
func (e *endpoint) deliver(ctx context.Context, it *item) {
	res := e.post(ctx, it)
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.signal()
	delete(e.underWay, it)
	if res.err != nil && ctx.Err() != nil { // we have hung up
		heap.Push(&e.waiting, it)
		return
	}
	if res.err == nil {
		e.stats.Sent++
		if e.failures > 0 {
			e.log.Info("a webhook works again", "failures", e.failures)
		}
		e.failures, e.resume, e.stats.LastError = 0, time.Time{}, ""
		e.finish(it)
		return
	}
	now := e.cfg.Now()
	it.Attempts++
	e.failures++
	e.stats.LastError = res.err.Error()
	if e.failures == 1 {
		e.log.Warn("a webhook fails", "event", it.ID, "err", res.err)
	}
	if res.gone || e.stats.Disabled {
		e.disable()
		e.stats.Dropped++
		e.finish(it)
		return
	}
	if pause := max(res.retryAfter, endpointPause(e.failures)); pause > 0 {
		e.resume = now.Add(pause)
	}
	it.next = now.Add(backoff(it.Attempts))
	if it.next.Sub(it.Created) > e.cfg.MaxAge {
		e.stats.Failed++
		e.log.Warn("an event is given up", "event", it.ID, "attempts", it.Attempts, "err", res.err)
		e.finish(it)
		return
	}
	heap.Push(&e.waiting, it)
}

// disable ends an endpoint that is gone, and drops what waits for it.
func (e *endpoint) disable() {
	if e.stats.Disabled {
		return // another request was told the same
	}
	e.stats.Disabled = true
	e.log.Error("a webhook is gone (410), and is told no more until the next start", "dropped", len(e.waiting))
	for _, it := range e.waiting {
		e.stats.Dropped++
		e.finish(it)
	}
	e.waiting = nil
}

// finish lets go of an event.
func (e *endpoint) finish(it *item) {
	if it.segment == nil {
		return
	}
	if it.segment.left--; it.segment.left == 0 {
		delete(e.segments, it.segment)
		e.stale = append(e.stale, it.segment.key)
	}
	it.segment = nil
}

// backoff is how long an event waits for its next try, with some jitter.
func backoff(attempts int) time.Duration {
	d := 4 * time.Hour
	switch attempts {
	case 1:
		d = 5 * time.Second
	case 2:
		d = 30 * time.Second
	case 3:
		d = 2 * time.Minute
	case 4:
		d = 10 * time.Minute
	case 5:
		d = 30 * time.Minute
	case 6:
		d = time.Hour
	case 7:
		d = 2 * time.Hour
	}
	return d*9/10 + rand.N(d/5)
}

// endpointPause is how long an endpoint is left alone that has failed several times
// in a row: 1 s, 2 s, ... 5 minutes.
func endpointPause(failures int) time.Duration {
	if failures < 3 {
		return 0
	}
	return min(5*time.Minute, time.Second<<min(failures-3, 9))
}
