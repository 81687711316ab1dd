// Package sched says which delivery goes next.
//
// Deliveries that go to the same servers, a site, wait in one line, behind those
// with priority. Sites take turns, so that one with a hundred thousand messages
// does not hold up one with a single message, and each has as many deliveries at
// once as it has shown to bear: one more for each row of successes, half as many
// after a failure of the site itself. A site that fails again and again has a
// rest, and what is for it is put off without a try. After the rest one delivery
// shows whether it is back.
//
// Deliveries that fail together, as when a server restarts, are one failure: what
// counts is an attempt that was begun when the failure before it was known.
//
// A delivery that takes long gives up its place in all to others, so that servers
// which answer slowly hold up those who send to them, and nobody else. When too many
// take long, each that joins them ends the one that has gone on longest.
//
// Nothing here knows about mail or waits until what is not due yet is: that is kept
// by the caller.
package sched

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Job is a delivery. One of its methods is called, once, from a goroutine of the
// Scheduler; Drop and Skip from Add too.
type Job interface {
	// Run makes the delivery. Where ctx ends with [ErrSlow], it has taken long, and
	// others need its place.
	Run(ctx context.Context) Outcome
	// Skip is called instead where the site has a rest until then, and says what
	// was wrong with it last; or where its line is full.
	Skip(until time.Time, why string)
	// Drop is called instead where the Scheduler is closed.
	Drop()
}

// ErrSlow is why the context of a Job ends that has gone on longest of too many.
var ErrSlow = errors.New("it took long, and others wait")

// Outcome is what a delivery has shown of its site.
type Outcome struct {
	// Trouble says that the site could not be reached or wants less.
	Trouble bool
	// Works says that the site has done what it is there for. It may be neither:
	// nothing was tried.
	Works bool
	// Why says what the trouble is, in words.
	Why string
}

// Config is what a Scheduler is told. All fields are required.
type Config struct {
	// Jobs is how many may run at once, in all, and SlowJobs how many more once they
	// have taken 30 seconds. So each has SlowJobs/Jobs times 30 seconds at least
	// after those.
	Jobs, SlowJobs int
	// JobsPerSite is how many a site can work its way up to, FirstJobs how many it
	// begins with.
	JobsPerSite, FirstJobs int
	// WaitingPerSite is how many may wait for their turn at a site. More are told
	// by Skip to come again, so that no site has all the room there is for jobs.
	WaitingPerSite int
	// Now is the clock.
	Now func() time.Time
}

const (
	// strikes is how many failures of a site in a row, without a success in
	// between, earn it a rest.
	strikes = 3
	// firstRest is how long that is; each one that follows without a success
	// between is twice as long, up to mostRest. It is short, since three refusals
	// take a server that restarts no more than some milliseconds.
	firstRest = 5 * time.Second
	mostRest  = 15 * time.Minute
	// slowAfter is when a job counts as slow.
	slowAfter = 30 * time.Second
	// fairTurn is the turn that goes to jobs without priority first, so that those
	// with it do not starve them.
	fairTurn = 8
	// leastWait and mostWait bound when what found a line full is to come again.
	leastWait = time.Second
	mostWait  = time.Minute
)

// Scheduler runs Jobs. Its methods may be called from several goroutines.
type Scheduler struct {
	cfg Config
	ctx context.Context
	wg  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	running int        // but those that are slow
	slow    []*attempt // the longest first
	ending  int        // attempts that were slow and are to end
	waiting int
	turn    int
	sites   map[string]*site
	swept   time.Time // when forget looked at all of them
	// ready are the sites that a job with priority, or one without, can run for.
	ready [2]fifo[*site]
}

// Classes of jobs, as indexes.
const (
	priority = iota
	normal
)

// site is where jobs go together.
type site struct {
	name   string
	lines  [2]fifo[Job]
	queued [2]bool // in Scheduler.ready
	active int
	limit  float64 // of active

	events   int // failures that were counted, ever
	failures int // in a row
	rests    int // in a row
	rest     time.Time
	why      string
	full     time.Time // since when its line is, and was not half empty
}

// New returns a Scheduler whose jobs have contexts below ctx.
func New(ctx context.Context, cfg Config) *Scheduler {
	return &Scheduler{cfg: cfg, ctx: ctx, sites: make(map[string]*site)}
}

func (st *site) waiting() int { return st.lines[priority].len() + st.lines[normal].len() }

// Add has a job run when its turn comes. One for no site, "", does not share a
// site's bounds.
func (s *Scheduler) Add(name string, first bool, j Job) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		j.Drop()
		return
	}
	st := s.sites[name]
	if st == nil {
		st = &site{name: name, limit: float64(s.cfg.FirstJobs)}
		if name == "" {
			st.limit = float64(s.cfg.Jobs)
		}
		s.sites[name] = st
	}
	class := normal
	if first {
		class = priority
	}
	if name != "" && st.lines[class].len() >= s.cfg.WaitingPerSite {
		until := s.comeAgain(st)
		s.mu.Unlock()
		j.Skip(until, "many wait for it")
		return
	}
	st.lines[class].push(j)
	s.waiting++
	s.offer(st)
	s.spawn()
	s.mu.Unlock()
}

// comeAgain says when there may be room in a site's line. As that is no later than
// the line has been full by now, and it would have been half empty before, it does
// not run dry.
func (s *Scheduler) comeAgain(st *site) time.Time {
	now := s.cfg.Now()
	if st.full.IsZero() {
		st.full = now
	}
	return now.Add(min(max(now.Sub(st.full), leastWait), mostWait))
}

// offer puts a site up for its turn, if it has something to run and may.
func (s *Scheduler) offer(st *site) {
	if st.active >= max(1, int(st.limit)) {
		return
	}
	for class := range st.lines {
		if st.lines[class].len() > 0 && !st.queued[class] {
			st.queued[class] = true
			s.ready[class].push(st)
		}
	}
}

// spawn starts as many workers as there is work and room for.
func (s *Scheduler) spawn() {
	for s.running < s.cfg.Jobs {
		st, j := s.next()
		if j == nil {
			return
		}
		s.running++
		s.wg.Go(func() { s.work(st, j) })
	}
}

// work runs one job after the other until there is none.
func (s *Scheduler) work(st *site, j Job) {
	ctx, end := context.WithCancelCause(s.ctx) // a job that is ended is the last one
	defer end(nil)
	late := new(atomic.Bool)
	ctx = context.WithValue(ctx, lateKey{}, late)
	for j != nil {
		now := s.cfg.Now()
		s.mu.Lock()
		rest, why, closed, known := st.rest, st.why, s.closed, st.events
		s.mu.Unlock()
		var o Outcome
		var a *attempt
		switch {
		case closed:
			j.Drop()
		case now.Before(rest):
			j.Skip(rest, why)
		default:
			a = s.watch(end, late)
			o = j.Run(ctx)
		}
		s.mu.Lock()
		gone := s.over(a)
		if a != nil && a.state == ending {
			o = Outcome{} // the site was not let show anything
		}
		st.active--
		s.learn(st, o, known)
		s.offer(st)
		s.forget(st)
		if gone { // another has its place
			j = nil
		} else if st, j = s.next(); j == nil {
			s.running--
		}
		s.spawn() // the site may have worked its way up
		s.mu.Unlock()
	}
}

// attempt is a job that runs. It is guarded by Scheduler.mu.
type attempt struct {
	end   context.CancelCauseFunc // ends the job
	late  *atomic.Bool            // see SetLate
	timer *time.Timer
	over  bool
	state pace
}

// pace is which of the bounds an attempt counts for.
type pace int

const (
	ordinary pace = iota // Config.Jobs
	slow                 // Config.SlowJobs
	ending               // neither any more: its context ends
)

// watch sees to that a job which begins now holds up others for no more than
// slowAfter. Where there is no room for one more that is slow, and its place is
// needed, the one that has gone on longest ends: to see who has most of them does not
// help, as a stranger has as many sites as he likes.
func (s *Scheduler) watch(end context.CancelCauseFunc, late *atomic.Bool) *attempt {
	a := &attempt{end: end, late: late}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.timer = time.AfterFunc(slowAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case a.over:
		case len(s.slow) >= s.cfg.SlowJobs && (s.running < s.cfg.Jobs || !s.endLongest()):
			a.timer.Reset(slowAfter)
		default:
			a.state = slow
			s.slow = append(s.slow, a)
			s.running--
			s.spawn()
		}
	})
	return a
}

type lateKey struct{}

// SetLate says of the job that has a context from Run that it is too late to end it,
// or not so any more: a server may have the message and has not said so yet, which
// would then get it again. Such a job is ended only where all are like that.
func SetLate(ctx context.Context, yes bool) {
	if late, ok := ctx.Value(lateKey{}).(*atomic.Bool); ok {
		late.Store(yes)
	}
}

// endLongest has the slow job end that has gone on longest, unless there are many
// already that do not end though they are to.
func (s *Scheduler) endLongest() bool {
	if len(s.slow) == 0 || s.ending >= s.cfg.SlowJobs {
		return false
	}
	i := max(0, slices.IndexFunc(s.slow, func(a *attempt) bool { return !a.late.Load() }))
	a := s.slow[i]
	s.slow = slices.Delete(s.slow, i, i+1)
	a.state = ending
	s.ending++
	a.end(ErrSlow)
	return true
}

// over notes that a job has ended, and reports whether it had given up its place;
// nil was none.
func (s *Scheduler) over(a *attempt) bool {
	if a == nil {
		return false
	}
	a.timer.Stop()
	a.over = true
	switch a.state {
	case slow:
		i := slices.Index(s.slow, a)
		s.slow = slices.Delete(s.slow, i, i+1)
	case ending:
		s.ending--
	}
	return a.state != ordinary
}

// next takes the job whose turn it is. The caller holds mu.
func (s *Scheduler) next() (*site, Job) {
	s.turn++
	classes := [2]int{priority, normal}
	if s.turn%fairTurn == 0 {
		classes = [2]int{normal, priority}
	}
	for _, class := range classes {
		for s.ready[class].len() > 0 {
			st := s.ready[class].pop()
			st.queued[class] = false
			if st.lines[class].len() == 0 || st.active >= max(1, int(st.limit)) {
				continue // offered again when that changes
			}
			j := st.lines[class].pop()
			s.waiting--
			st.active++
			if st.waiting() < s.cfg.WaitingPerSite/2 {
				st.full = time.Time{}
			}
			s.offer(st)
			return st, j
		}
	}
	return nil, nil
}

// learn fits a site's bound to what it bears. known is how many of its failures
// were known when the attempt was begun.
func (s *Scheduler) learn(st *site, o Outcome, known int) {
	switch {
	case st.name == "":
	case o.Trouble && known < st.events: // it failed together with others
		st.why = o.Why
	case o.Trouble:
		st.events++
		st.limit = max(1, st.limit/2)
		st.why = o.Why
		if st.failures++; st.failures >= strikes || st.rests > 0 {
			st.failures = 0
			rest := min(firstRest<<min(st.rests, 10), mostRest)
			st.rest = s.cfg.Now().Add(rest)
			st.rests++
			st.limit = 1 // one to see whether it is back
		}
	case o.Works:
		if st.rests > 0 { // it is back
			st.limit = max(st.limit, float64(s.cfg.FirstJobs))
		}
		st.failures, st.rests, st.rest, st.why = 0, 0, time.Time{}, ""
		if float64(st.active+1) >= st.limit-1 { // it was put to the test
			st.limit = min(float64(s.cfg.JobsPerSite), st.limit+1/st.limit)
		}
	}
}

// mostIdle is how many sites without a job are remembered for what they bear.
const mostIdle = 1000

func (st *site) idle() bool {
	return st.active == 0 && st.waiting() == 0 && !st.queued[priority] && !st.queued[normal]
}

// forget drops what is known of sites that have nothing to do, when there are
// many. It is called for each that has done a job, so it rarely looks at all.
func (s *Scheduler) forget(st *site) {
	if len(s.sites) <= mostIdle || !st.idle() {
		return
	}
	if len(s.sites) > 2*mostIdle {
		delete(s.sites, st.name)
		return
	}
	now := s.cfg.Now()
	if now.Sub(s.swept).Abs() < time.Second {
		return
	}
	s.swept = now
	for name, st := range s.sites {
		if st.idle() && !now.Before(st.rest) {
			delete(s.sites, name)
		}
	}
}

// Close runs no further jobs, has those dropped that wait, and returns when those
// under way have ended.
func (s *Scheduler) Close() {
	s.mu.Lock()
	s.closed = true
	var left []Job
	for _, st := range s.sites {
		for class := range st.lines {
			for st.lines[class].len() > 0 {
				left = append(left, st.lines[class].pop())
			}
		}
	}
	s.waiting = 0
	s.mu.Unlock()
	for _, j := range left {
		j.Drop()
	}
	s.wg.Wait()
}

// Site is what is known of a site.
type Site struct {
	Name            string
	Active, Waiting int
	// Limit is how many jobs it may have at once.
	Limit int
	// Rest is until when it has a rest, the zero time if it has none; Why says why.
	Rest time.Time
	Why  string
}

// Stats is a snapshot of a Scheduler.
type Stats struct {
	Running, Waiting int
	// Sites are those with jobs or with a rest, the busiest first, at most a
	// hundred.
	Sites []Site
}

// Waiting returns how many jobs wait for their turn.
func (s *Scheduler) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// Stats returns a snapshot.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	out := Stats{Running: s.running + len(s.slow) + s.ending, Waiting: s.waiting}
	for _, st := range s.sites {
		v := Site{Name: st.name, Active: st.active, Waiting: st.waiting(), Limit: int(st.limit)}
		if now.Before(st.rest) {
			v.Rest, v.Why = st.rest, st.why
		}
		if v.Name != "" && (v.Active > 0 || v.Waiting > 0 || !v.Rest.IsZero()) {
			out.Sites = append(out.Sites, v)
		}
	}
	slices.SortFunc(out.Sites, func(a, b Site) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.Active, a.Active), cmp.Compare(a.Name, b.Name))
	})
	out.Sites = out.Sites[:min(len(out.Sites), 100)]
	return out
}

// Wake ends the rest of a site: somebody knows better.
func (s *Scheduler) Wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.sites[name]; st != nil {
		st.rest, st.rests, st.failures = time.Time{}, 0, 0
	}
}
