package proxy

import "time"

// sweep ends streams in which nothing has moved for Timeouts.Idle. To look at
// all of them now and then costs less than a timer for each and a reading of
// the clock whenever something moves. It runs as long as the run does.
func (r *run) sweep() {
	const looks = 8 // a stream ends after idle and up to an eighth more
	pause := min(max(r.times.Idle/looks, time.Millisecond), time.Minute)
	limit := int((r.times.Idle + pause - 1) / pause)
	// Not a ticker: its ticks may follow each other faster after a delay.
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		}
		for _, c := range r.open() {
			c.sweep(limit)
		}
		timer.Reset(pause)
	}
}

// sweep looks once at what is in flight on the connection, and ends what has
// not changed in limit looks since the one that saw it move last.
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
		if s.still++; s.still >= limit {
			s.cancel()
		}
	}
}
