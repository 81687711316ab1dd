package email

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/spool"
)

const (
	defaultRetryDelay = 5 * time.Minute
	maxRetryDelay     = 4 * time.Hour
	// giveUpAfter is RFC 5321 section 4.5.4.1's.
	giveUpAfter        = 5 * 24 * time.Hour
	defaultConcurrency = 10
	defaultKeepHeld    = 30 * 24 * time.Hour
)

// queue has the messages of the spool on their way: what is due is tried, what
// was not taken is tried again later, and what is held back waits for somebody
// to release it.
type queue struct {
	r     *run
	store spool.Store
	slots chan struct{} // one for each delivery under way

	mu      sync.Mutex
	entries map[spool.ID]*entry
	due     dueList       // those that wait for their time
	wake    chan struct{} // has one when due has changed
	held    int64         // entries in quarantine
}

// entry is a message in the queue.
type entry struct {
	id    spool.ID
	next  time.Time
	place int // in due, -1 if it is not there
	busy  bool
	// quarantined messages wait for somebody to release them, and spent ones,
	// which nothing more is tried with, for somebody to look; until their time is
	// up.
	quarantined, spent bool
	arrived            time.Time
	stuck              bool        // no route took it
	routes             *routeTable // in force at the last attempt
	// unsaved is the progress that could not be stored, or nil. It holds as long
	// as the process lives, so that nobody gets a message at every attempt.
	unsaved *progress
}

// latest is the progress of the entry, given what is stored.
func (e *entry) latest(stored *progress) *progress {
	if e.unsaved == nil {
		return stored
	}
	p := *e.unsaved
	p.Recipients = slices.Clone(p.Recipients)
	return &p
}

// resting reports whether the entry is not to be tried.
func (e *entry) resting() bool { return e.quarantined || e.spent }

// openQueue takes up what an earlier run has left.
func openQueue(ctx context.Context, r *run, store spool.Store) (*queue, error) {
	q := &queue{
		r:       r,
		store:   store,
		slots:   make(chan struct{}, valueOr(r.s.cfg.Queue.Concurrency, defaultConcurrency)),
		entries: make(map[spool.ID]*entry),
		wake:    make(chan struct{}, 1),
	}
	for m, err := range store.All(ctx) {
		var env *queued
		var p *progress
		if err == nil {
			env, p, err = decodeMessage(m)
		}
		switch {
		case err != nil && m.ID == "":
			return nil, fmt.Errorf("email: reading the spool: %w", err)
		case err != nil:
			r.s.log.Error("a message in the spool cannot be read; it is left there", "msg_id", m.ID, "err", err)
			continue
		}
		q.insert(&entry{id: m.ID, arrived: env.Arrived, next: p.Next, quarantined: env.Quarantine != "" && !p.Released, spent: p.open() == 0 && !p.all(delivered)})
	}
	return q, nil
}

func decodeMessage(m spool.Message) (*queued, *progress, error) {
	env, err := decodeQueued(m.Envelope)
	if err != nil {
		return nil, nil, err
	}
	p, err := decodeProgress(m.State, len(env.Recipients))
	return env, p, err
}

// add makes a message durable and has it tried after that time.
func (q *queue) add(ctx context.Context, id spool.ID, env *queued, d *spool.Draft, after time.Duration) error {
	text, err := env.encode()
	if err != nil {
		d.Discard()
		return err
	}
	if err := q.store.Add(ctx, id, text, d); err != nil {
		return err
	}
	e := &entry{id: id, arrived: env.Arrived, next: q.r.s.now().Add(after), quarantined: env.Quarantine != ""}
	if after > 0 || e.quarantined || !q.tryNow(e, env) {
		q.insert(e)
	}
	return nil
}

// tryNow tries a new message at once, if that may be, without reading back what
// is known of it.
func (q *queue) tryNow(e *entry, env *queued) bool {
	select {
	case q.slots <- struct{}{}:
	default:
		return false // its turn comes
	}
	q.mu.Lock()
	e.place, e.busy = -1, true
	q.entries[e.id] = e
	q.mu.Unlock()
	q.start(e, env)
	return true
}

// start tries an entry that is busy and has a slot. env is nil if it is to be
// read.
func (q *queue) start(e *entry, env *queued) {
	q.r.working.Go(func() {
		defer func() { <-q.slots }()
		q.attempt(q.r.ctx, e, env)
	})
}

func (q *queue) insert(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.place = -1
	q.entries[e.id] = e
	if e.quarantined {
		q.held++
	}
	q.schedule(e)
}

// schedule puts an entry where it waits for its time. The caller holds mu.
func (q *queue) schedule(e *entry) {
	if e.resting() {
		e.next = e.arrived.Add(valueOr(q.r.s.cfg.Queue.KeepHeld, defaultKeepHeld))
	}
	heap.Push(&q.due, e)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// serve tries what is due until the run quits.
func (q *queue) serve() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-q.r.quit:
			return
		case <-q.wake:
		case <-timer.C:
		}
		for e := q.nextDue(); e != nil; e = q.nextDue() {
			select {
			case <-q.r.quit:
				return // it is in the spool
			case q.slots <- struct{}{}:
			}
			q.start(e, nil)
		}
		timer.Reset(q.untilNext())
	}
}

// nextDue takes the entry that has waited longest out of due, if its time has
// come.
func (q *queue) nextDue() *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due) == 0 || q.due[0].next.After(q.r.s.now()) {
		return nil
	}
	e := heap.Pop(&q.due).(*entry)
	e.busy = true
	return e
}

func (q *queue) untilNext() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due) == 0 {
		return time.Hour
	}
	return max(0, min(q.due[0].next.Sub(q.r.s.now()), time.Hour))
}

// attempt tries to deliver a message to whom it has not been delivered yet. env
// is nil if it is to be read.
func (q *queue) attempt(ctx context.Context, e *entry, env *queued) {
	if e.resting() {
		q.expire(ctx, e)
		return
	}
	e.routes = q.r.s.routes.Load()
	log := q.r.s.log.With("msg_id", e.id)
	var p *progress
	var err error
	if env != nil {
		p, err = decodeProgress(nil, len(env.Recipients))
	} else {
		env, p, err = q.read(ctx, e.id)
	}
	if errors.Is(err, spool.ErrNotFound) {
		q.forget(e)
		return
	}
	var body *spool.Body
	stuck, open := false, 0
	if err == nil {
		p = e.latest(p)
		open = p.open()
		stuck, err = q.r.tryDelivery(ctx, e.routes, &delivery{id: string(e.id), env: env, open: func() (*io.SectionReader, error) {
			var err error
			if body, err = q.store.Body(ctx, e.id); err != nil {
				return nil, err
			}
			return body.SectionReader, nil
		}}, p)
	}
	if body != nil {
		defer body.Close()
	}
	switch {
	case ctx.Err() != nil:
		// Stop has cut it short, which says nothing about those that are left.
		switch {
		case p == nil || p.open() == open:
		case p.all(delivered):
			q.finish(e, env, p, false)
		default:
			q.note(e, p)
		}
	case err != nil:
		log.Error("a message in the spool cannot be read; it is left there", "err", err)
		q.putBack(e, q.r.s.now().Add(maxRetryDelay))
	case stuck && p.open() == open:
		// Nothing was tried, so there is nothing to note.
		q.mu.Lock()
		e.stuck = true
		q.mu.Unlock()
		q.putBack(e, q.r.s.now().Add(maxRetryDelay))
	default:
		q.finish(e, env, p, stuck)
	}
}

// expire removes a message that nobody has looked after. Otherwise whoever sends
// us enough that is held back would fill the disk.
func (q *queue) expire(ctx context.Context, e *entry) {
	env, _, err := q.read(ctx, e.id)
	if err == nil {
		err = q.store.Remove(ctx, e.id)
	}
	switch {
	case err == nil:
		q.r.expired(string(e.id), env)
	case errors.Is(err, spool.ErrNotFound):
	case ctx.Err() != nil:
		return
	default:
		q.r.s.log.Error("a message that was kept long enough could not be removed from the spool", "msg_id", e.id, "err", err)
	}
	q.forget(e)
}

// read reads what is known of a message.
func (q *queue) read(ctx context.Context, id spool.ID) (*queued, *progress, error) {
	m, err := q.store.Get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	return decodeMessage(m)
}

// finish notes what an attempt has brought: the message goes, or waits.
func (q *queue) finish(e *entry, env *queued, p *progress, stuck bool) {
	if p.all(delivered) {
		ctx, cancel := q.r.lasting()
		defer cancel()
		if err := q.store.Remove(ctx, e.id); err != nil && !errors.Is(err, spool.ErrNotFound) {
			// It is delivered again after a restart, which is better than lost.
			q.r.s.log.Error("a delivered message could not be removed from the spool", "msg_id", e.id, "err", err)
		}
		q.forget(e)
		return
	}
	p.Tries++
	p.Next = q.r.s.now().Add(q.delay(p.Tries))
	if !stuck && q.givesUp(env, p) {
		for i := range p.Recipients {
			if a := &p.Recipients[i]; a.State == "" {
				a.State = failed
				q.r.gaveUp(string(e.id), env, i, a.Reply)
			}
		}
	}
	q.note(e, p)
	q.mu.Lock()
	e.stuck, e.spent = stuck, p.open() == 0
	q.mu.Unlock()
	q.putBack(e, p.Next)
}

// note makes the progress of a message durable.
func (q *queue) note(e *entry, p *progress) {
	ctx, cancel := q.r.lasting()
	defer cancel()
	text, err := p.encode()
	if err == nil {
		err = q.store.SetState(ctx, e.id, text)
	}
	e.unsaved = nil
	if err != nil {
		e.unsaved = p
		q.r.s.log.Error("the state of a message could not be stored; after a restart it may be delivered twice", "msg_id", e.id, "err", err)
	}
}

// take gets hold of an entry, so that nobody else tries it.
func (q *queue) take(id spool.ID) (*entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[id]
	switch {
	case e == nil:
		return nil, ErrNotFound
	case e.busy:
		return nil, fmt.Errorf("email: message %q is being delivered", id)
	}
	e.busy = true
	if e.place >= 0 {
		heap.Remove(&q.due, e.place)
	}
	return e, nil
}

// putBack gives an entry back, to be tried at next if it waits for a time.
func (q *queue) putBack(e *entry, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy = false
	e.next = next
	if e.stuck && e.routes != q.r.s.routes.Load() {
		e.next = q.r.s.now() // retryAll could not have it meanwhile
	}
	q.schedule(e)
}

func (q *queue) forget(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.entries[e.id] != e {
		return
	}
	delete(q.entries, e.id)
	if e.quarantined {
		q.held--
	}
	if e.place >= 0 {
		heap.Remove(&q.due, e.place)
	}
}

// retryAll has messages that no route took tried again.
func (q *queue) retryAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		if e.stuck && e.place >= 0 {
			heap.Remove(&q.due, e.place)
			e.next = q.r.s.now()
			q.schedule(e)
		}
	}
}

// delay is how long to wait after so many tries: twice as long each time, and a
// fifth more or less, so that what failed together does not come back together.
func (q *queue) delay(tries int) time.Duration {
	d := q.r.s.cfg.Queue.RetryDelay
	if d <= 0 {
		d = defaultRetryDelay
	}
	for range tries - 1 {
		if d *= 2; d >= maxRetryDelay {
			d = maxRetryDelay
			break
		}
	}
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

func (q *queue) givesUp(env *queued, p *progress) bool {
	if most := q.r.s.cfg.Queue.MaxRetries; most != nil {
		return p.Tries > *most
	}
	return p.Next.Sub(env.Arrived) > giveUpAfter
}

func (q *queue) stats() SpoolStats {
	st := q.store.Stats()
	q.mu.Lock()
	defer q.mu.Unlock()
	return SpoolStats{Messages: st.Messages, Bytes: st.Bytes, Quarantined: q.held}
}

// dueList is a heap of entries, the next due first.
type dueList []*entry

func (d dueList) Len() int           { return len(d) }
func (d dueList) Less(i, j int) bool { return d[i].next.Before(d[j].next) }
func (d dueList) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}

func (d *dueList) Push(x any) {
	e := x.(*entry)
	e.place = len(*d)
	*d = append(*d, e)
}

func (d *dueList) Pop() any {
	old := *d
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	e.place = -1
	return e
}
