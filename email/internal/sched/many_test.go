package sched

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A site whose line is full has what follows come again, soon while it moves, so
// that it never runs dry, and does not keep the room of others.
func TestALineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(10)
		cfg.WaitingPerSite = 100
		s := New(t.Context(), cfg)
		var ran atomic.Int32
		var mu sync.Mutex
		var idle time.Duration
		last := time.Now()
		var add func()
		var skips, most atomic.Int32
		add = func() {
			s.Add("site", false, job{
				run: func() Outcome {
					time.Sleep(time.Second)
					mu.Lock()
					idle, last = max(idle, time.Since(last)), time.Now()
					mu.Unlock()
					ran.Add(1)
					return Outcome{Works: true}
				},
				skip: func(until time.Time, why string) {
					skips.Add(1)
					if wait := time.Until(until); wait <= 0 || wait > mostWait {
						t.Errorf("to come again after %v", wait)
					}
					time.AfterFunc(time.Until(until), add)
				},
			})
			most.Store(max(most.Load(), int32(s.Waiting())))
		}
		for range 1000 {
			add()
		}
		time.Sleep(time.Hour)
		if n := ran.Load(); n != 1000 {
			t.Errorf("%d of 1000 ran", n)
		}
		if n := most.Load(); n > 100 {
			t.Errorf("%d waited", n)
		}
		if n := skips.Load(); n > 20_000 {
			t.Errorf("jobs were sent away %d times", n)
		}
		if idle > 3*time.Second {
			t.Errorf("the site had nothing to do for %v", idle)
		}
		s.Close()
	})
}

// Work for a great many sites takes time in proportion.
func TestAGreatManySites(t *testing.T) {
	s := New(t.Context(), config(1))
	const sites = 50_000
	hold := make(chan struct{})
	s.Add("first", false, job{run: func() Outcome { <-hold; return Outcome{} }})
	for i := range sites {
		s.Add(strconv.Itoa(i), false, job{})
	}
	begin := time.Now()
	close(hold)
	waitIdle(t, s)
	s.Close()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("%d jobs of as many sites took %v", sites, took)
	}
	if n := len(s.sites); n > 2*mostIdle {
		t.Errorf("%d sites are remembered", n)
	}
}
