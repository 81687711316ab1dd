package proxy

import "time"

// drain ends requests and streams whose route or target an update has removed,
// each Timeouts.Drain after that, unless it has come back by then. It runs as
// long as the run does.
func (r *run) drain() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.drainer:
		case <-timer.C:
		}
		if next, ok := r.drainOnce(time.Now()); ok {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// drainOnce looks at everything in flight. It returns when to look again, if
// anything is left to end.
func (r *run) drainOnce(now time.Time) (next time.Time, again bool) {
	t := r.table.Load()
	look := func(s *session) {
		rt := t.byKey[s.route.key]
		if rt != nil && rt.hasTarget(s.target.Load()) {
			s.orphaned = time.Time{}
			return
		}
		if s.orphaned.IsZero() {
			s.orphaned = now
		}
		end := s.orphaned.Add(r.times.Drain)
		if !now.Before(end) {
			s.cancel()
		} else if !again || end.Before(next) {
			next, again = end, true
		}
	}
	for _, c := range r.open() {
		c.mu.Lock()
		for _, s := range c.sessions {
			look(s)
		}
		c.mu.Unlock()
	}
	for _, u := range r.udpPorts() {
		for _, s := range u.list() {
			look(&s.session)
		}
	}
	return next, again
}

// checkDrain is called when something has been put on the books that a table of
// this version routed: if there is another by now, nobody may have noticed that
// its route or target is gone.
func (r *run) checkDrain(version uint64) {
	if r.table.Load().version != version {
		r.wakeDrainer()
	}
}

func (r *run) wakeDrainer() {
	select {
	case r.drainer <- struct{}{}:
	default:
	}
}
