package dnsserver

import (
	"net/netip"
	"sync/atomic"
)

// booked is a connection that is on the books of a run.
type booked interface {
	seat() *place
	// waiting is since when nothing has come that could be answered, in Unix time
	// in ns; 0 while busy.
	waiting() int64
	// hurry has it end as soon as what has been read is answered, cut at once.
	hurry()
	cut()
}

// place is what a connection takes of the limits.
type place struct {
	addr     netip.Addr // of the client
	released atomic.Bool
}

func (p *place) seat() *place { return p }

// admit puts a connection on the books if the limits allow it.
func (r *run) admit(c booked) bool {
	if !r.takePlace(c.seat().addr) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		c.hurry() // it had been accepted before
	}
	r.conns[c] = struct{}{}
	return true
}

// takePlace takes a place for a connection of a client, if need be that of
// another one.
func (r *run) takePlace(addr netip.Addr) bool {
	v := r.s.limits.take(addr)
	for v == full {
		victim := r.idlest()
		if victim == nil {
			break
		}
		victim.cut()
		if victim.seat().released.Swap(true) { // it was at its end
			v = r.s.limits.take(addr)
		} else {
			v = r.s.limits.replace(victim.seat().addr, addr)
		}
	}
	return v == admitted
}

// idlest takes a connection off the books that waits for its client, be it in
// the middle of a message or handshake, of several that it meets the one that
// does so for the longest time.
func (r *run) idlest() booked {
	r.mu.Lock()
	defer r.mu.Unlock()
	var victim booked
	var oldest int64
	looks := 0
	for c := range r.conns { // in an order that nobody can foretell
		if since := c.waiting(); since != 0 && (victim == nil || since < oldest) {
			victim, oldest = c, since
		}
		if looks++; looks == 64 {
			break
		}
	}
	delete(r.conns, victim)
	return victim
}

// forget takes a connection off the books, and gives its place back.
func (r *run) forget(c booked) {
	if !c.seat().released.Swap(true) {
		r.s.limits.release(c.seat().addr)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}
