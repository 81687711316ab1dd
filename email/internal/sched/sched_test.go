package sched

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// job is a delivery of the tests.
type job struct {
	run  func() Outcome
	runs func(context.Context) Outcome // in place of run
	skip func(time.Time, string)
	drop func()
}

func (j job) Run(ctx context.Context) Outcome {
	if j.runs != nil {
		return j.runs(ctx)
	}
	if j.run == nil {
		return Outcome{Works: true}
	}
	return j.run()
}

func (j job) Skip(until time.Time, why string) {
	if j.skip != nil {
		j.skip(until, why)
	}
}

func (j job) Drop() {
	if j.drop != nil {
		j.drop()
	}
}

func config(jobs int) Config {
	return Config{Jobs: jobs, JobsPerSite: 20, FirstJobs: 2, WaitingPerSite: 10_000, Now: time.Now}
}

func TestEveryJobRunsOnce(t *testing.T) {
	s := New(t.Context(), config(10))
	var ran [5000]atomic.Int32
	var wg sync.WaitGroup
	for g := range 10 {
		wg.Go(func() {
			for i := g; i < len(ran); i += 10 {
				s.Add("site-"+strconv.Itoa(i%7), i%3 == 0, job{run: func() Outcome {
					ran[i].Add(1)
					return Outcome{Works: true}
				}})
			}
		})
	}
	wg.Wait()
	waitIdle(t, s)
	s.Close()
	for i := range ran {
		if n := ran[i].Load(); n != 1 {
			t.Fatalf("job %d ran %d times", i, n)
		}
	}
}

// A site with many jobs must not hold up one with a single job.
func TestSitesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(4))
		var slow atomic.Int32
		for range 1000 {
			s.Add("big", false, job{run: func() Outcome {
				slow.Add(1)
				time.Sleep(time.Second)
				return Outcome{Works: true}
			}})
		}
		done := make(chan struct{})
		s.Add("small", false, job{run: func() Outcome { close(done); return Outcome{Works: true} }})
		<-done
		if n := slow.Load(); n > 10 {
			t.Errorf("the small site's only job ran after %d of the big one's", n)
		}
		s.Close()
	})
}

func TestPriorityGoesFirstAndStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(1))
		var order []string
		add := func(name string, first bool) {
			s.Add(name, first, job{run: func() Outcome {
				order = append(order, name)
				time.Sleep(time.Second)
				return Outcome{Works: true}
			}})
		}
		add("begin", false)
		synctest.Wait()
		for range 20 {
			add("bulk", false)
			add("urgent", true)
		}
		time.Sleep(time.Hour)
		s.Close()
		if len(order) != 41 {
			t.Fatalf("%d jobs ran, 41 wanted", len(order))
		}
		if n := slices.Index(order[1:], "bulk"); n < 3 || n > fairTurn {
			t.Errorf("the first job without priority came at place %d", n)
		}
		urgent := 0
		for _, name := range order[1:21] {
			if name == "urgent" {
				urgent++
			}
		}
		if urgent < 15 {
			t.Errorf("only %d of the first 20 had priority", urgent)
		}
	})
}

func TestASiteWorksItsWayUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(100))
		var active, most atomic.Int32
		for range 2000 {
			s.Add("site", false, job{run: func() Outcome {
				n := active.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(time.Second)
				active.Add(-1)
				return Outcome{Works: true}
			}})
		}
		synctest.Wait()
		if n := active.Load(); n != 2 {
			t.Errorf("it began with %d jobs, 2 wanted", n)
		}
		time.Sleep(time.Hour)
		if n := most.Load(); n != 20 {
			t.Errorf("at most %d jobs at once, 20 wanted", n)
		}
		s.Close()
	})
}

func TestASiteInTroubleHasARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(100))
		var tried, skipped atomic.Int32
		var down atomic.Bool
		down.Store(true)
		add := func(n int) {
			for range n {
				s.Add("site", false, job{
					run: func() Outcome {
						tried.Add(1)
						time.Sleep(time.Second)
						if down.Load() {
							return Outcome{Trouble: true, Why: "connection refused"}
						}
						return Outcome{Works: true}
					},
					skip: func(until time.Time, why string) {
						if !until.After(time.Now()) || why != "connection refused" {
							t.Errorf("skipped until %v because of %q", until, why)
						}
						skipped.Add(1)
					},
				})
			}
		}
		add(100)
		time.Sleep(firstRest)
		if a, b := tried.Load(), skipped.Load(); a > 5 || a+b != 100 {
			t.Errorf("%d tried and %d skipped of 100", a, b)
		}
		if st := s.Stats().Sites; len(st) != 1 || st[0].Why != "connection refused" || st[0].Limit != 1 {
			t.Errorf("stats: %+v", st)
		}
		// It is tried once after the rest, and not by all that wait.
		time.Sleep(time.Minute)
		tried.Store(0)
		skipped.Store(0)
		add(50)
		time.Sleep(10 * time.Second)
		if a, b := tried.Load(), skipped.Load(); a != 1 || b != 49 {
			t.Errorf("after the rest %d tried and %d skipped of 50", a, b)
		}
		down.Store(false)
		time.Sleep(mostRest)
		tried.Store(0)
		add(50)
		time.Sleep(time.Minute)
		if n := tried.Load(); n != 50 {
			t.Errorf("%d of 50 tried when it was back", n)
		}
		s.Close()
	})
}

// Deliveries that fail together, however many, are one failure, and what fails
// while the site has its rest makes that no longer.
func TestFailuresOfOneEventCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(100)
		cfg.FirstJobs, cfg.JobsPerSite = 100, 100
		s := New(t.Context(), cfg)
		down := Outcome{Trouble: true, Why: "connection reset"}
		var rested atomic.Int32
		add := func(n int, o Outcome) {
			for i := range n {
				s.Add("site", false, job{
					run:  func() Outcome { time.Sleep(time.Second + time.Duration(i)*time.Millisecond); return o },
					skip: func(time.Time, string) { rested.Add(1) },
				})
			}
		}
		add(20, down)
		time.Sleep(2 * time.Second)
		add(5, Outcome{Works: true})
		time.Sleep(time.Minute)
		if n := rested.Load(); n > 0 {
			t.Errorf("a site whose connections broke once has a rest: %d were put off", n)
		}

		// Three that are one after the other, while others take their time to fail.
		slow := func(d time.Duration) {
			s.Add("slow", false, job{run: func() Outcome { time.Sleep(d); return down }})
		}
		for _, d := range []time.Duration{30, 31, 32} {
			slow(d * time.Second)
		}
		for range strikes {
			slow(time.Second)
			time.Sleep(2 * time.Second)
		}
		begin := time.Now()
		time.Sleep(time.Minute)
		s.mu.Lock()
		rest, rests := s.sites["slow"].rest, s.sites["slow"].rests
		s.mu.Unlock()
		if rest.Sub(begin) > firstRest || rests != 1 {
			t.Errorf("%d rests, the last until %v after the failures", rests, rest.Sub(begin))
		}
		s.Close()
	})
}

// A server that restarts within a second has what waited soon after.
func TestABlip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(100))
		begin := time.Now()
		var done, tried atomic.Int32
		var last atomic.Int64
		var add func()
		add = func() {
			s.Add("site", false, job{
				run: func() Outcome {
					if time.Since(begin) < time.Second {
						tried.Add(1)
						return Outcome{Trouble: true, Why: "connection refused"}
					}
					time.Sleep(10 * time.Millisecond)
					done.Add(1)
					last.Store(int64(time.Since(begin)))
					return Outcome{Works: true}
				},
				skip: func(until time.Time, _ string) { time.AfterFunc(time.Until(until), add) },
			})
		}
		for range 200 {
			add()
		}
		time.Sleep(time.Hour)
		if a, b, d := tried.Load(), done.Load(), time.Duration(last.Load()); a > 2*strikes || a+b != 200 || d > 15*time.Second {
			t.Errorf("%d failed and %d were delivered, the last after %v", a, b, d)
		}
		s.Close()
	})
}

// Jobs that take long hold up those of other sites for no more than slowAfter. Where
// there are too many of them, those that have gone on longest end.
func TestSlowJobsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(3)
		cfg.SlowJobs = 12
		s := New(t.Context(), cfg)
		const slow = 100
		var wrong, ended, fast atomic.Int32
		begin := time.Now()
		for i := range slow {
			s.Add("slow-"+strconv.Itoa(i), false, job{runs: func(ctx context.Context) Outcome {
				begin := time.Now()
				select {
				case <-ctx.Done():
					// It had its time: SlowJobs/Jobs times slowAfter, after the first.
					if context.Cause(ctx) != ErrSlow || time.Since(begin) < 5*slowAfter {
						wrong.Add(1)
					}
				case <-time.After(time.Hour):
				}
				ended.Add(1)
				return Outcome{Works: true}
			}})
		}
		s.Add("fast", false, job{run: func() Outcome { fast.Store(int32(time.Since(begin) / time.Second)); return Outcome{Works: true} }})
		for range 20 {
			time.Sleep(slowAfter)
			synctest.Wait()
			if n := s.Stats().Running; n > 15 {
				t.Errorf("%d run after %v", n, time.Since(begin))
			}
		}
		time.Sleep(2 * time.Hour)
		if turns := fast.Load() / int32(slowAfter/time.Second); turns == 0 || turns > slow/3 || wrong.Load() > 0 || ended.Load() != slow {
			t.Errorf("the fast one ran after %d seconds, %d of %d ended, %d wrongly", fast.Load(), ended.Load(), slow, wrong.Load())
		}
		s.Close()
	})
}

// Jobs that do not end when they are to are bounded all the same, and are waited for.
func TestSlowJobsThatGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(3)
		cfg.SlowJobs = 4
		s := New(t.Context(), cfg)
		var active, ended atomic.Int32
		var fast atomic.Bool
		begin := time.Now()
		for i := range 20 {
			s.Add("slow-"+strconv.Itoa(i), false, job{run: func() Outcome {
				active.Add(1)
				time.Sleep(time.Hour)
				active.Add(-1)
				ended.Add(1)
				return Outcome{Works: true}
			}})
		}
		s.Add("fast", false, job{run: func() Outcome { fast.Store(true); return Outcome{Works: true} }})
		for _, step := range []struct {
			after time.Duration
			want  int32 // active
		}{{time.Second, 3}, {slowAfter, 6}, {slowAfter, 9}, {slowAfter, 11}, {30 * time.Minute, 11}} {
			time.Sleep(step.after)
			if n := active.Load(); n != step.want {
				t.Errorf("after %v %d jobs run, not %d", time.Since(begin), n, step.want)
			}
			if n := s.Stats().Running; n != int(step.want) {
				t.Errorf("after %v %d jobs are told of, not %d", time.Since(begin), n, step.want)
			}
		}
		time.Sleep(3 * time.Hour)
		if ended.Load() != 20 || !fast.Load() {
			t.Errorf("%d of 20 ended, the fast one ran: %v", ended.Load(), fast.Load())
		}
		s.mu.Lock()
		if s.running != 0 || len(s.slow) != 0 || s.ending != 0 {
			t.Errorf("%d, %d and %d are left", s.running, len(s.slow), s.ending)
		}
		s.mu.Unlock()
		// There is room again, and Close waits for slow jobs too.
		for i := range 4 {
			s.Add("late-"+strconv.Itoa(i), false, job{run: func() Outcome { time.Sleep(time.Minute); ended.Add(1); return Outcome{} }})
		}
		time.Sleep(slowAfter + time.Second)
		if n := s.Stats().Running; n != 4 {
			t.Errorf("%d jobs run, 4 wanted", n)
		}
		s.Close()
		if n := ended.Load(); n != 24 {
			t.Errorf("%d of 24 ended", n)
		}
	})
}

func TestCloseDropsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(t.Context(), config(2))
		var ran, dropped atomic.Int32
		for range 100 {
			s.Add("site", false, job{run: func() Outcome {
				time.Sleep(time.Second)
				ran.Add(1)
				return Outcome{Works: true}
			}, drop: func() { dropped.Add(1) }})
		}
		synctest.Wait()
		s.Close()
		s.Add("site", false, job{drop: func() { dropped.Add(1) }})
		synctest.Wait()
		if a, b := ran.Load(), dropped.Load(); a != 2 || b != 99 {
			t.Errorf("%d ran and %d dropped, 2 and 99 wanted", a, b)
		}
	})
}

func TestSitesAreForgotten(t *testing.T) {
	s := New(t.Context(), config(10))
	for i := range 5 * mostIdle {
		s.Add(strconv.Itoa(i), false, job{})
	}
	waitIdle(t, s)
	s.mu.Lock()
	n := len(s.sites)
	s.mu.Unlock()
	if n > 2*mostIdle {
		t.Errorf("%d sites are remembered", n)
	}
	s.Close()
}

func BenchmarkAdd(b *testing.B) {
	s := New(b.Context(), Config{Jobs: 20, JobsPerSite: 20, FirstJobs: 20, WaitingPerSite: 1 << 30, Now: time.Now})
	b.ReportAllocs()
	for b.Loop() {
		s.Add("site", false, job{})
	}
	s.Close()
}

func waitIdle(t *testing.T, s *Scheduler) {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() error {
		if st := s.Stats(); st.Running > 0 || st.Waiting > 0 {
			return fmt.Errorf("%d jobs run and %d wait", st.Running, st.Waiting)
		}
		return nil
	})
}
