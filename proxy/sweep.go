package proxy

import "time"

// sweep ends streams in which nothing has moved for Timeouts.Idle. To look at
// all of them now and then costs less than a timer for each and a reading of
// the clock whenever something moves. It runs as long as the run does.
func (r *run) sweep() {
	pause, limit := r.times.looks()
	// Not a ticker: its ticks may follow each other faster after a delay.
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		}
		begin := time.Now()
		for _, c := range r.open() {
			c.sweep(limit)
		}
		// With a million connections the looking itself takes time.
		timer.Reset(max(pause, 20*time.Since(begin)))
	}
}

// looks returns how often to look, and how many looks in a row may find that
// nothing has moved. A stream ends after Idle and up to two pauses.
func (t *Timeouts) looks() (pause time.Duration, limit int) {
	pause = 500 * time.Millisecond
	if t.Idle <= 0 {
		return pause, 0
	}
	pause = min(max(t.Idle/8, time.Millisecond), pause)
	return pause, int((t.Idle + pause - 1) / pause)
}

// looksToDoze is how many looks in a row find nothing moved until a stream gives
// its goroutines back.
const looksToDoze = 1

// sweep looks once at what is in flight on the connection, and ends what has
// not changed in limit looks since the one that saw it move last; never if limit
// is 0.
func (c *conn) sweep(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sessions {
		if !s.watched {
			continue
		}
		if moved := s.moved.Load(); moved != s.seen {
			s.seen, s.still = moved, 0
			continue
		}
		s.still++
		switch {
		case limit > 0 && s.still >= limit:
			s.cancel()
		case s.still == looksToDoze && s.doze != nil:
			s.doze()
		}
	}
}
