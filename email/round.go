package email

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/dcrouter/dcrouter/email/internal/mx"
	"github.com/dcrouter/dcrouter/email/internal/sched"
	"github.com/dcrouter/dcrouter/email/internal/spool"
	"github.com/dcrouter/dcrouter/email/internal/transport"
)

// round is one attempt to bring a message to all who are to get it: a job for
// each place it goes to. When the last of them is through, the message goes, or
// waits for its next round. A job takes no more recipients on once the next round
// would be due.
type round struct {
	q     *queue
	e     *entry
	table *routeTable

	mu   sync.Mutex
	env  *queued // nil until it is read
	p    *progress
	body *spool.Body
	err  error // it cannot be read
	left int   // jobs under way or waiting

	tried   bool      // something was
	works   bool      // somebody has got it
	changed bool      // what is not noted yet
	stuck   bool      // no route takes one of the recipients
	dropped bool      // Stop has cut it short, or what holds it up
	later   time.Time // when to come back with what was put off without a try
	events  []Event   // to be told once the status of the message shows it

	signing   sync.Once
	signature []byte
	signErr   error
}

// place is where recipients of a message go together.
type place struct {
	route  *route // nil: the content has to be looked at to find it
	domain string // that of the recipients, where its MX hosts are asked for
}

// place finds where a destination leads now.
func (q *queue) place(t *routeTable, to destination) place {
	rt := t.named(to.route)
	if rt == nil {
		return place{}
	}
	return q.r.placeOf(rt, to.domain)
}

// placeOf is where a route takes mail to a domain.
func (r *run) placeOf(rt *route, domain string) place {
	if rt.Action.Type == Process && r.smartHost() == nil {
		return place{rt, domain}
	}
	return place{route: rt}
}

// begin begins a round of an entry that is busy. env is nil if it is to be read.
func (q *queue) begin(e *entry, env *queued) {
	if e.resting() {
		if q.claim(e) {
			q.sites.Add("", false, chore{q, e, "removing a message", q.expire})
		}
		return
	}
	if e.unread {
		if q.claim(e) {
			q.sites.Add("", false, chore{q, e, "reading a message", q.readAgain})
		}
		return
	}
	rd := &round{q: q, e: e, table: q.r.s.routes.Load()}
	if env != nil {
		rd.env = env
		rd.p, rd.err = decodeProgress(nil, len(env.Recipients))
	}
	q.mu.Lock()
	e.routes = rd.table
	q.mu.Unlock()
	var jobs []*job
	seen := make(map[place]bool, len(e.to))
	for _, h := range e.to {
		to := q.place(rd.table, h.Value())
		if !seen[to] {
			seen[to] = true
			jobs = append(jobs, &job{round: rd, to: to})
		}
	}
	rd.left = len(jobs)
	for _, j := range jobs {
		q.dispatch(j)
	}
}

// dispatch has a job wait for its turn, once it is known to which site it goes.
func (q *queue) dispatch(j *job) {
	if j.to.domain == "" {
		q.sites.Add(q.r.siteOf(j.to.route), j.first(), j)
		return
	}
	if d, err, ok := q.r.mx.Cached(j.to.domain); ok {
		j.mx, j.mxErr = d, err
		q.sites.Add(d.Site, j.first(), j)
		return
	}
	q.lookups.Add(ownerOf(j.to.domain), j.first(), mxLookup{j})
}

// ownerOf is the domain that somebody has registered to have this one.
func ownerOf(domain string) string {
	if owner, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return owner
	}
	return domain
}

// mxLookup is a job that still has to learn where its domain has its mail.
type mxLookup struct{ *job }

func (l mxLookup) Run(ctx context.Context) sched.Outcome {
	q := l.round.q
	l.lookUp(ctx)
	q.sites.Add(l.mx.Site, l.first(), l.job)
	return sched.Outcome{Works: true}
}

// lookUp finds the servers of the job's domain.
func (j *job) lookUp(ctx context.Context) {
	r := j.round.q.r
	j.mxErr = r.s.guarded("looking up mail servers", func() (err error) {
		j.mx, err = r.mx.Lookup(ctx, j.to.domain)
		return err
	}, "domain", j.to.domain)
}

// chore is the job of an entry that is not to be delivered now.
type chore struct {
	q    *queue
	e    *entry
	what string
	do   func(context.Context, *entry)
}

func (c chore) Run(context.Context) sched.Outcome {
	if c.q.r.s.guarded(c.what, func() error { c.do(c.q.r.ctx, c.e); return nil }, "msg_id", c.e.id) != nil {
		c.q.putBack(c.e, c.q.r.s.now().Add(maxRetryDelay))
	}
	return sched.Outcome{}
}
func (chore) Skip(time.Time, string) {}
func (chore) Drop()                  {}

// job brings a message to the recipients that are at one place.
type job struct {
	round *round
	to    place
	mx    mx.Destination
	mxErr error
}

// first reports whether the job goes before others.
func (j *job) first() bool {
	return j.round.e.first || j.to.route.first()
}

// first reports whether a route's mail goes before other mail.
func (r *route) first() bool {
	return r != nil && r.Action.Type == Process && r.Action.Process != nil && r.Action.Process.Queue == PriorityQueue
}

// Skip puts off what is for a site that has a rest.
func (j *job) Skip(until time.Time, why string) {
	rd := j.round
	rd.mu.Lock()
	rd.putOff(until)
	conn := ""
	if rd.env != nil { // it has been read already
		conn = rd.env.ConnID
	}
	rd.mu.Unlock()
	rd.q.r.s.log.Debug("mail is put off, as its site has a rest", "conn_id", conn, "msg_id", rd.e.id, "until", until, "why", why)
	rd.done()
}

// Drop leaves the message in the spool: the Server stops, or the queue is paused.
func (j *job) Drop() {
	j.round.mu.Lock()
	j.round.dropped = true
	j.round.mu.Unlock()
	j.round.done()
}

// putOff has the round come back at that time for what was not tried. The caller
// holds mu.
func (rd *round) putOff(until time.Time) {
	if rd.later.IsZero() || until.Before(rd.later) {
		rd.later = until
	}
}

// load reads the message, unless that has been done. The caller holds mu.
func (rd *round) load(ctx context.Context) error {
	if rd.env == nil && rd.err == nil {
		rd.env, rd.p, rd.err = rd.q.read(ctx, rd.e.id)
	}
	if rd.err == nil && rd.p != nil && rd.e.unsaved != nil {
		rd.p = rd.e.latest(rd.p)
		rd.e.unsaved = nil // rd.p has it from here on
		rd.changed = true
	}
	return rd.err
}

// open opens the content, which many a message needs no look at.
func (rd *round) open() (*io.SectionReader, error) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.body == nil {
		body, err := rd.q.store.Body(rd.q.r.ctx, rd.e.id)
		if err != nil {
			return nil, err
		}
		rd.body = body
	}
	return rd.body.SectionReader, nil
}

// fail keeps the message from being handled in this round.
func (rd *round) fail(err error) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.err = err
}

// recipients reads the message, and finds those of a place that are still to get
// it.
func (rd *round) recipients(ctx context.Context, to place) ([]int, error) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if err := rd.load(ctx); err != nil {
		return nil, err
	}
	return rd.waiting(to), nil
}

// waiting finds the recipients of a place that are still to get the message. The
// caller holds mu.
func (rd *round) waiting(to place) (list []int) {
	for i := range rd.env.Recipients {
		rcpt := &rd.env.Recipients[i]
		if rd.p.Recipients[i].State == "" && rd.q.place(rd.table, destination{rcpt.Route, rcpt.domain()}) == to {
			list = append(list, i)
		}
	}
	return list
}

// Run makes the attempt.
func (j *job) Run(ctx context.Context) (site sched.Outcome) {
	rd := j.round
	if rd.q.holds(rd) {
		j.Drop()
		return sched.Outcome{}
	}
	defer rd.done()
	if !rd.q.claim(rd.e) {
		return sched.Outcome{}
	}
	if err := rd.q.r.s.guarded("a delivery", func() error { site = j.attempt(ctx); return nil }, "msg_id", rd.e.id); err != nil {
		j.panicked(err)
	}
	return site
}

// panicked counts as a try, or the message would come back for ever. Where it could
// not even be read, there is none to count for.
func (j *job) panicked(err error) {
	rd := j.round
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.env == nil {
		rd.err = err
		return
	}
	rd.tried, rd.changed = true, true
	list := rd.waiting(j.to)
	for _, i := range list {
		a := &rd.p.Recipients[i]
		a.Reply = valueOr(a.Reply, err.Error())
	}
	if len(list) > 0 {
		rd.p.note(step{At: rd.q.r.s.now(), Kind: EventDeferred, Recipients: list, Text: err.Error()})
	}
}

func (j *job) attempt(ctx context.Context) sched.Outcome {
	rd := j.round
	list, err := rd.recipients(rd.q.r.ctx, j.to)
	if err != nil || len(list) == 0 {
		return sched.Outcome{}
	}
	d := &delivery{id: string(rd.e.id), env: rd.env, open: rd.open, round: rd}
	if j.to.domain != "" && j.mxErr == nil {
		if now, err := rd.q.r.mx.Lookup(ctx, j.to.domain); err == nil {
			j.mx = now // it may have waited for hours
		}
	}
	if j.to.route == nil || slices.ContainsFunc(list, func(i int) bool { return !rd.q.r.mayStill(j.to.route, d.env, i) }) {
		return rd.bringByContent(ctx, d, list)
	}
	return rd.bring(ctx, d, j.to, j, list)
}

// bringByContent takes the message to recipients whose routes have to be found
// by what is in it.
func (rd *round) bringByContent(ctx context.Context, d *delivery, list []int) sched.Outcome {
	groups := make(map[place][]int)
	for _, i := range list {
		rt, err := rd.q.r.routeOf(rd.table, d, i)
		if err != nil {
			rd.fail(err)
			return sched.Outcome{}
		}
		if rt == nil && d.env.Own && d.env.From == "" {
			rd.record(d, place{route: rd.table.named(outgoing)}, []int{i},
				all(result{permanent: true, status: "5.1.1", said: "no route takes mail to the sender whom this bounce is for"}, []int{i}), false)
			continue
		}
		if rt == nil {
			rd.mu.Lock()
			rd.stuck = true
			rd.mu.Unlock()
			continue
		}
		to := rd.q.r.placeOf(rt, d.env.Recipients[i].domain())
		groups[to] = append(groups[to], i)
	}
	for to, list := range groups {
		j := &job{round: rd, to: to}
		if to.domain != "" {
			j.lookUp(ctx)
		}
		rd.bring(ctx, d, to, j, list)
	}
	return sched.Outcome{}
}

// bring takes the message to some recipients, and notes how that went.
func (rd *round) bring(ctx context.Context, d *delivery, to place, j *job, list []int) (site sched.Outcome) {
	if err := d.load(); err != nil {
		rd.fail(err)
		return sched.Outcome{}
	}
	begun, turn := rd.q.r.s.now(), d.env.Schedule.delay(rd.p.Tries+1)
	for len(list) > 0 {
		some := list[:min(len(list), atOnce(d.env, to.route))]
		list = list[len(some):]
		var out outcome
		err := rd.q.r.s.guarded("a delivery", func() error { out = rd.q.r.deliver(ctx, d, to, j, some); return nil }, "conn_id", d.env.ConnID, "msg_id", d.id)
		if err != nil {
			out = all(localError(err), some)
		}
		if out.site.Trouble && len(list) > 0 { // the others would have the same
			some = append(some[:len(some):len(some)], list...)
			out.results = append(out.results, slices.Repeat([]result{troubled(out.site)}, len(list))...)
			list = nil
		}
		rd.record(d, to, some, out, len(list) > 0)
		site.Works = site.Works || out.site.Works
		if out.site.Trouble {
			site = out.site
		}
		if !out.later.IsZero() {
			break // nor would the others be let through
		}
		if len(list) > 0 && rd.q.r.stopping.Load() != 0 {
			rd.mu.Lock()
			rd.dropped = true
			rd.mu.Unlock()
			break
		}
		if err := context.Cause(ctx); len(list) > 0 && err != nil { // nor would the others get far
			if site.Works { // it is only that they are many
				rd.mu.Lock()
				rd.putOff(rd.q.r.s.now().Add(turn))
				rd.mu.Unlock()
				break
			}
			rd.record(d, to, list, all(result{said: err.Error(), reply: unreachable()}, list), false)
			break
		}
		if now := rd.q.r.s.now(); len(list) > 0 && now.Sub(begun) > turn && rd.another(now) {
			// Others are due, who are not to wait for a place that is slow.
			rd.mu.Lock()
			rd.putOff(now)
			rd.mu.Unlock()
			break
		}
	}
	return site
}

// another reports whether there may be a round after this one, for those whom this
// one does not come to.
func (rd *round) another(now time.Time) bool {
	_, ok := rd.env.Schedule.after(rd.env.since(rd.p), now, now, rd.p.Tries+1)
	return ok
}

// atOnce is how many recipients are delivered to before that is noted: those of one
// transaction. If the process ends meanwhile, nobody else gets the message twice.
func atOnce(env *queued, rt *route) int {
	a := &rt.Action
	switch {
	case a.Type == Process && env.Bounces == bounceHere: // each has a sender address of its own
		return 1
	case a.Type == takesBack, a.Type == Deliver && (a.Deliver == nil || a.Deliver.LMTP == ""):
		return 1
	}
	return transport.MaxRecipients
}

// record notes what came of an attempt. If there are more to come, or others are
// still under way, perhaps for long, it is made durable.
func (rd *round) record(d *delivery, to place, list []int, out outcome, more bool) {
	defer rd.announce() // without mu
	rd.mu.Lock()
	defer rd.mu.Unlock()
	for _, s := range out.steps {
		rd.p.note(s)
	}
	if !out.later.IsZero() {
		rd.putOff(out.later)
	}
	cut := rd.q.r.ctx.Err() != nil
	for n, res := range out.results {
		if res.putOff || cut && !res.ok && !res.permanent {
			continue // says nothing about the recipient
		}
		rd.tried, rd.changed = true, true
		rd.works = rd.works || res.ok
		rd.events = append(rd.events, rd.q.r.settle(d, rd.p, list[n], to.route, res))
	}
	if rd.changed && (more || rd.left > 1) {
		rd.q.note(rd.e, rd.p)
		rd.changed = false
	}
}

// announce tells of what has happened. Whoever is told finds it in the status of
// the message, also if it is not noted yet.
func (rd *round) announce() {
	rd.mu.Lock()
	events := rd.events
	rd.events = nil
	if rd.changed && len(events) > 0 {
		rd.q.show(rd.e, rd.p.clone())
	}
	rd.mu.Unlock()
	for _, e := range events {
		rd.q.r.s.event(e)
	}
}

// done ends a job, and with the last one the round.
func (rd *round) done() {
	rd.mu.Lock()
	rd.left--
	last := rd.left == 0
	rd.mu.Unlock()
	if !last {
		return
	}
	if rd.q.r.s.guarded("the end of a delivery", func() error { rd.finish(); return nil }, "msg_id", rd.e.id) != nil {
		if rd.changed { // or who has the message would get it again
			_ = rd.q.r.s.guarded("the end of a delivery", func() error { rd.q.note(rd.e, rd.p); return nil }, "msg_id", rd.e.id)
		}
		rd.q.putBack(rd.e, rd.q.r.s.now().Add(maxRetryDelay))
	}
}

// finish notes what the round has brought: the message goes, or waits.
func (rd *round) finish() {
	q, e, now := rd.q, rd.e, rd.q.r.s.now()
	if rd.body != nil {
		defer rd.body.Close()
	}
	if !q.claim(e) {
		return
	}
	if rd.err != nil && rd.changed { // by another job
		q.note(e, rd.p)
	}
	switch {
	case errors.Is(rd.err, spool.ErrNotFound):
		q.forget(e)
		return
	case rd.err != nil && !rd.dropped && q.r.ctx.Err() == nil:
		q.r.s.log.Error("a message in the spool cannot be handled; it is left there", "msg_id", e.id, "err", rd.err)
		q.putBack(e, now.Add(maxRetryDelay))
		return
	case rd.env == nil && (rd.dropped || q.r.ctx.Err() != nil):
		q.putBack(e, e.next)
		return
	case rd.env == nil:
		// All was put off without a look at the message.
		if rd.later.Before(e.look) {
			q.putBack(e, spread(rd.later, now))
			return
		}
		if rd.load(q.r.ctx) != nil {
			q.putBack(e, now.Add(maxRetryDelay))
			return
		}
	}
	p, env := rd.p, rd.env
	if rd.tried {
		if !rd.works || rd.later.IsZero() { // else it gets ahead, and it is not the turn of some yet
			p.Tries++
		}
		rd.changed = true
	}
	if p.open() == 0 {
		rd.end()
		return
	}
	if rd.dropped || q.r.ctx.Err() != nil {
		// Stop has cut it short, which says nothing about those that are left.
		if rd.changed {
			q.note(e, p)
		}
		q.putBack(e, e.next)
		return
	}
	q.mu.Lock()
	e.stuck = rd.stuck
	q.mu.Unlock()
	if rd.stuck && !rd.tried && rd.later.IsZero() { // there is nothing to note
		q.putBack(e, now.Add(maxRetryDelay))
		return
	}
	later := rd.later
	if rd.tried {
		if retry := now.Add(env.Schedule.delay(p.Tries)); later.After(retry) {
			later = time.Time{}
		}
	}
	next, ok := env.Schedule.after(env.since(p), now, later, p.Tries)
	p.Next = next
	if !ok && !rd.stuck {
		for i := range p.Recipients {
			if a := &p.Recipients[i]; a.State == "" {
				rd.giveUp(i, a)
				rd.changed = true
			}
		}
		rd.announce()
		rd.end()
		return
	}
	rd.tellDelay()
	if rd.tried {
		// Those who have failed are not kept secret until the last one is decided. An
		// error is of no consequence: it is told again.
		if err := rd.tellOutcome(); err != nil {
			q.r.s.log.Error("the sender of a message could not be told what became of it so far", "conn_id", env.ConnID, "msg_id", e.id, "err", err)
		}
	}
	if rd.changed {
		q.note(e, p)
	}
	e.look = env.look(p)
	q.putBack(e, next)
}

// end is for a message with which nothing more is tried: the sender is told of
// what has failed, and then it goes; or it stays for somebody to look at, where
// nobody can be told.
func (rd *round) end() {
	q, e, p := rd.q, rd.e, rd.p
	if err := rd.tellOutcome(); err != nil {
		// It has to be told another time.
		q.r.s.log.Error("the sender of a message could not be told that it failed", "conn_id", rd.env.ConnID, "msg_id", e.id, "err", err)
		p.Next = q.r.s.now().Add(defaultRetryDelay)
		q.note(e, p)
		q.putBack(e, p.Next)
		return
	}
	if p.settled() {
		q.remove(e, rd.env, p)
		return
	}
	q.note(e, p)
	q.mu.Lock()
	e.spent = true
	q.mu.Unlock()
	q.putBack(e, q.r.s.now())
}

// spread keeps what was put off until the same time from coming back at once.
func spread(until, now time.Time) time.Time {
	return until.Add(time.Duration(float64(until.Sub(now)) * 0.1 * rand.Float64()))
}
