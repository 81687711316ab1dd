package smtpd

import "time"

// lookEvery is how often the server looks at its connections. One timer for all of
// them does what several for each would have to be set for at each command, which
// would be among the most that a command costs.
const lookEvery = 500 * time.Millisecond

// keepLooking is called with mu held when a connection comes.
func (s *Server) keepLooking() {
	switch {
	case s.looking:
		return
	case s.looker == nil:
		s.looker = time.AfterFunc(lookEvery, s.lookAround)
	default:
		s.looker.Reset(lookEvery)
	}
	s.looking = true
}

// lookAround looks at all connections, and again later while there are any.
func (s *Server) lookAround() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.guards {
		g.look()
	}
	if s.looking = len(s.guards) > 0; s.looking {
		s.looker.Reset(lookEvery)
	}
}

// look does what is due by now.
func (g *guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading.look(g.raw.SetReadDeadline)
	g.writing.look(g.raw.SetWriteDeadline)
	g.beginWatch()
}
