package email

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unique"

	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

const (
	defaultConcurrency        = 50
	defaultConcurrencyPerSite = 20
	// firstPerSite is how many deliveries to a site there are at once before it has
	// shown what it bears.
	firstPerSite    = 5
	defaultKeepHeld = 30 * 24 * time.Hour
	// mostWaiting bounds the deliveries that wait for their turn, and
	// mostWaitingPerSite those of one site; more messages that are due wait in due.
	mostWaiting        = 50_000
	mostWaitingPerSite = 5_000
	// mostAtHand is how many of them wait with their envelope in memory.
	mostAtHand = 100
	// slowPerJob is how many deliveries may take long for each that may go on.
	slowPerJob = 10
	// lookupsAtOnce is how many domains are looked up at once, and lookupsPerOwner
	// how many that one owner may have made up.
	lookupsAtOnce   = 200
	lookupsPerOwner = 10
	// fairTurn is the turn that goes to what is due without priority first.
	fairTurn = 8
	// spoolDelay is how long to wait where the spool did not do what it should.
	spoolDelay = time.Minute
)

// queue has the messages of the spool on their way: what is due is tried, what
// was not taken is tried again later, and what is held back waits for somebody
// to release it.
type queue struct {
	r       *run
	store   spool.Store
	sites   *sched.Scheduler // of deliveries
	lookups *sched.Scheduler // of where domains have their mail

	mu      sync.Mutex
	entries map[spool.ID]*entry
	due     [2]dueList    // those that wait for their time, with priority and without
	turn    int           // counts what was taken out of due
	wake    chan struct{} // has one when due has changed
	held    int64         // entries in quarantine
	paused  bool
}

// entry is a message in the queue. There may be a great many.
type entry struct {
	id    spool.ID
	next  time.Time
	place int // in due, -1 if it is not there
	// busy ones have a round. begun says that it does something; before that its
	// jobs wait for their turn, and off tells them that another entry has taken
	// this one's place.
	busy, begun, off bool
	// quarantined messages wait for somebody to release them, and spent ones,
	// which nothing more is tried with, for somebody to look; until their time is
	// up.
	quarantined, spent bool
	unread             bool        // it could not be read at the start; nothing else is known of it
	stuck              bool        // no route took it
	first              bool        // it goes before others
	since              time.Time   // see queued.since
	look               time.Time   // when a message that is put off has to be looked at
	routes             *routeTable // in force at the last attempt
	to                 []unique.Handle[destination]
	// unsaved is the progress that could not be stored, or nil. It holds as long
	// as the process lives, so that nobody gets a message at every attempt.
	unsaved *progress
	// shown is the progress that somebody was told of and that is not stored yet,
	// or nil. It does not change.
	shown *progress
}

// destination is where some recipients of a message go, as far as its envelope
// tells: the route that took them, and their domain.
type destination struct{ route, domain string }

// latest is the progress of the entry, given what is stored.
func (e *entry) latest(stored *progress) *progress {
	if e.unsaved == nil {
		return stored
	}
	return e.unsaved.clone()
}

// resting reports whether the entry is not to be tried.
func (e *entry) resting() bool { return e.quarantined || e.spent }

func (q *queue) newEntry(id spool.ID, env *queued, p *progress) *entry {
	e := &entry{id: id, place: -1, since: env.since(p), look: env.look(p), first: env.Priority}
	t := q.r.s.routes.Load()
	for i := range env.Recipients {
		rcpt := &env.Recipients[i]
		e.first = e.first || t.named(rcpt.Route).first()
		h := unique.Make(destination{rcpt.Route, rcpt.domain()})
		if len(e.to) > 0 && e.to[len(e.to)-1] == h {
			continue
		}
		e.to = append(e.to, h)
	}
	return e
}

func newQueue(r *run, store spool.Store) *queue {
	cfg := &r.s.cfg.Queue
	jobs := valueOr(cfg.Concurrency, defaultConcurrency)
	perSite := min(jobs, valueOr(cfg.ConcurrencyPerSite, defaultConcurrencyPerSite))
	return &queue{
		r:       r,
		store:   store,
		sites:   sched.New(r.ctx, sched.Config{Jobs: jobs, SlowJobs: slowPerJob * jobs, JobsPerSite: perSite, FirstJobs: min(perSite, firstPerSite), WaitingPerSite: mostWaitingPerSite, Now: r.s.now}),
		lookups: sched.New(r.ctx, sched.Config{Jobs: lookupsAtOnce, SlowJobs: lookupsAtOnce, JobsPerSite: lookupsPerOwner, FirstJobs: lookupsPerOwner, WaitingPerSite: mostWaitingPerSite, Now: r.s.now}),
		entries: make(map[spool.ID]*entry),
		wake:    make(chan struct{}, 1),
		paused:  cfg.Paused,
	}
}

// openQueue takes up what an earlier run has left.
func openQueue(ctx context.Context, r *run, store spool.Store) (*queue, error) {
	q := newQueue(r, store)
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
			r.s.log.Error("a message in the spool cannot be read; that is tried again", "msg_id", m.ID, "err", err)
			q.insert(&entry{id: m.ID, place: -1, unread: true, next: r.s.now().Add(spoolDelay)})
			continue
		}
		q.takeUp(m.ID, env, p)
	}
	return q, nil
}

// takeUp takes up a message that an earlier run has left.
func (q *queue) takeUp(id spool.ID, env *queued, p *progress) {
	e := q.newEntry(id, env, p)
	if e.next = p.Next; e.next.IsZero() {
		e.next = env.NotBefore
	}
	e.quarantined = env.quarantine(p) != ""
	e.spent = p.open() == 0 && !p.settled()
	if e.resting() {
		e.next = time.Time{} // its time to be kept counts
	}
	q.insert(e)
}

// readAgain takes up a message that could not be read at the start. One that is
// damaged stays, for somebody to look at or drop.
func (q *queue) readAgain(ctx context.Context, e *entry) {
	env, p, err := q.read(ctx, e.id)
	switch {
	case err == nil:
		q.takeUp(e.id, env, p) // in place of e
	case errors.Is(err, spool.ErrNotFound):
		q.forget(e)
	case ctx.Err() == nil:
		q.r.s.log.Error("a message in the spool cannot be read; it is left there", "msg_id", e.id, "err", err)
		q.putBack(e, q.r.s.now().Add(maxRetryDelay))
	}
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
	env.Schedule = q.schedule()
	if after > 0 {
		env.NotBefore = q.r.s.now().Add(after).UTC()
	}
	text, err := env.encode()
	if err != nil {
		d.Discard()
		return err
	}
	if err := q.store.Add(ctx, id, text, d); err != nil {
		return err
	}
	e := q.newEntry(id, env, &progress{})
	e.next, e.quarantined = q.r.s.now().Add(after), env.Quarantine != ""
	if after > 0 || e.quarantined || !q.tryNow(e, env) {
		q.insert(e)
	}
	return nil
}

// tryNow has a new message tried without a way through due, unless there are many
// before it.
func (q *queue) tryNow(e *entry, env *queued) bool {
	waiting := q.waiting()
	if waiting >= q.room(e.first) {
		return false
	}
	if waiting >= mostAtHand {
		env = nil // it is read when its turn comes
	}
	q.mu.Lock()
	if q.paused {
		q.mu.Unlock()
		return false
	}
	e.busy = true
	q.entries[e.id] = e
	q.mu.Unlock()
	q.begin(e, env)
	return true
}

func (q *queue) insert(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.entries[e.id] = e
	if e.quarantined {
		q.held++
	}
	q.wait(e)
}

// wait puts an entry where it waits for its time, which is that to be kept if it
// rests, or later. The caller holds mu.
func (q *queue) wait(e *entry) {
	if e.resting() {
		if until := e.since.Add(valueOr(q.r.s.cfg.Queue.KeepHeld, defaultKeepHeld)); until.After(e.next) {
			e.next = until
		}
	}
	heap.Push(q.line(e), e)
	if e.place == 0 {
		q.ring()
	}
}

// Classes of entries, as indexes of due.
const (
	dueFirst = iota
	dueNormal
)

// line is where an entry waits for its time.
func (q *queue) line(e *entry) *dueList {
	if e.first {
		return &q.due[dueFirst]
	}
	return &q.due[dueNormal]
}

// waiting is how many deliveries wait for their turn.
func (q *queue) waiting() int { return q.sites.Waiting() + q.lookups.Waiting() }

// room is how many of them there may be before one more is begun. What has
// priority has room of its own.
func (q *queue) room(first bool) int {
	if first {
		return 2 * mostWaiting
	}
	return mostWaiting
}

// ring has serve look at due again.
func (q *queue) ring() {
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
		case <-q.r.ctx.Done(): // Stop still waits for a session
			return
		case <-q.wake:
		case <-timer.C:
		}
		for {
			e, wait := q.nextDue()
			if e == nil {
				timer.Reset(wait)
				break
			}
			q.begin(e, nil)
			select {
			case <-q.r.quit:
				return // what is left is in the spool
			case <-q.r.ctx.Done():
				return
			default:
			}
		}
	}
}

// nextDue takes an entry out of due whose time has come, or else says how long to
// wait.
func (q *queue) nextDue() (*entry, time.Duration) {
	waiting, now := q.waiting(), q.r.s.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := time.Hour
	if q.paused {
		return nil, wait
	}
	q.turn++
	for i := range q.due {
		class := i
		if q.turn%fairTurn == 0 { // what has priority starves nobody
			class = len(q.due) - 1 - i
		}
		line := &q.due[class]
		switch {
		case len(*line) == 0:
		case (*line)[0].next.After(now):
			wait = min(wait, (*line)[0].next.Sub(now))
		case waiting >= q.room(class == dueFirst):
			wait = min(wait, time.Second)
		default:
			e := heap.Pop(line).(*entry)
			e.busy = true
			return e, 0
		}
	}
	return nil, wait
}

// pause keeps what is due from being tried, or no longer.
func (q *queue) pause(yes bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paused = yes
	q.ring()
}

// expire removes a message that nobody has looked after. Otherwise whoever sends
// us enough that is held back would fill the disk.
func (q *queue) expire(ctx context.Context, e *entry) {
	env, p, err := q.read(ctx, e.id)
	if err == nil {
		err = q.store.Remove(ctx, e.id)
	}
	switch {
	case err == nil:
		q.r.discarded(e.id, env, e.latest(p), EventExpired, "kept long enough")
	case errors.Is(err, spool.ErrNotFound):
	case ctx.Err() != nil:
		return
	default:
		q.r.s.log.Error("a message that was kept long enough could not be removed from the spool; that is tried again", "msg_id", e.id, "err", err)
		q.putBack(e, q.r.s.now().Add(maxRetryDelay))
		return
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

// remove forgets a message with which all is done. Where the spool does not do
// that now it has another round, in which nothing is left but this.
func (q *queue) remove(e *entry, env *queued, p *progress) {
	ctx, cancel := q.r.lasting()
	defer cancel()
	q.r.remember(e.id, env, p)
	if err := q.store.Remove(ctx, e.id); err != nil && !errors.Is(err, spool.ErrNotFound) {
		q.r.s.log.Error("a message with which all is done could not be removed from the spool; that is tried again", "conn_id", env.ConnID, "msg_id", e.id, "err", err)
		p.Next = q.r.s.now().Add(spoolDelay)
		q.note(e, p) // or it would be delivered again after a restart
		e.look = time.Time{}
		q.putBack(e, p.Next)
		return
	}
	q.forget(e)
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
		e.unsaved = p.clone()
		q.r.s.log.Error("the state of a message could not be stored; after a restart it may be delivered twice", "msg_id", e.id, "err", err)
	}
	q.show(e, e.unsaved)
}

// show has p be seen of a message in place of what is stored; nil ends that.
func (q *queue) show(e *entry, p *progress) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.shown = p
}

// shownOf is what somebody was told of a message and is not stored yet, or nil.
// Who asks before he reads what is stored misses nothing that was told.
func (q *queue) shownOf(id spool.ID) *progress {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[id]; e != nil {
		return e.shown
	}
	return nil
}

// take gets hold of an entry, so that nobody else tries it. If it has a round whose
// jobs still wait for their turn, that comes to nothing.
func (q *queue) take(id spool.ID) (*entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[id]
	switch {
	case e == nil:
		return nil, ErrNotFound
	case e.busy && e.begun:
		return nil, fmt.Errorf("email: message %q is being delivered", id)
	case e.busy:
		c := *e
		e.off = true
		q.entries[id] = &c
		e = &c
	}
	e.busy, e.begun = true, true
	if e.place >= 0 {
		heap.Remove(q.line(e), e.place)
	}
	return e, nil
}

// claim begins to do something with an entry, unless another has taken its place.
func (q *queue) claim(e *entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.begun = e.begun || !e.off
	return !e.off
}

// holds reports whether a job whose turn has come is to wait after all: the queue
// is paused, or there are other routes by now.
func (q *queue) holds(rd *round) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.paused || rd.table != q.r.s.routes.Load()
}

// putBack gives an entry back, to be tried at next if it waits for a time.
func (q *queue) putBack(e *entry, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy, e.begun = false, false
	e.next = next
	if e.stuck && e.routes != q.r.s.routes.Load() {
		e.next = q.r.s.now() // retryAll could not have it meanwhile
	}
	q.wait(e)
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
		heap.Remove(q.line(e), e.place)
	}
}

// retryAll has messages that no route took tried again.
func (q *queue) retryAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		if e.stuck && e.place >= 0 {
			heap.Remove(q.line(e), e.place)
			e.next = q.r.s.now()
			q.wait(e)
		}
	}
}

// close gives up what waits, and waits for what is under way. What could not be
// stored is tried a last time, as nobody knows of it after that.
func (q *queue) close() {
	q.lookups.Close()
	q.sites.Close()
	ctx, cancel := q.r.lasting()
	defer cancel()
	for _, e := range q.takeUnsaved() {
		text, err := e.unsaved.encode()
		switch {
		case err != nil:
		case e.unsaved.settled():
			err = q.store.Remove(ctx, e.id)
		default:
			err = q.store.SetState(ctx, e.id, text)
		}
		if err != nil && !errors.Is(err, spool.ErrNotFound) {
			q.r.s.log.Error("the state of a message is lost; it may be delivered twice", "msg_id", e.id, "err", err)
		}
	}
}

// takeUnsaved gets hold of the entries whose progress could not be stored.
func (q *queue) takeUnsaved() []*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []*entry
	for _, e := range q.entries {
		if !e.busy && e.unsaved != nil {
			e.busy, e.begun = true, true
			list = append(list, e)
		}
	}
	return list
}

func (q *queue) stats() SpoolStats {
	st := q.store.Stats()
	q.mu.Lock()
	defer q.mu.Unlock()
	return SpoolStats{Messages: st.Messages, Bytes: st.Bytes, Quarantined: q.held, Paused: q.paused, Unusable: st.Unusable != nil}
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
