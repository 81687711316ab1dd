package smtpd

import "time"

// deadline bounds how long one direction of a connection may wait. Hardly any wait
// lasts, and to set the deadline of a connection wakes up another processor for
// its timer: the connection gets it only if the wait is still on shortly before.
// The guard's mu protects it.
type deadline struct {
	by  time.Time // when the wait is over; zero while nobody waits
	set time.Time // what the connection has
}

// soon is how long before its end a wait gets the deadline: the server looks at it
// once at least in that time.
const soon = 2 * lookEvery

// begin is called before a wait. setDeadline is the connection's, here and below.
func (d *deadline) begin(by time.Time, setDeadline func(time.Time) error) {
	d.by = by
	switch {
	case time.Until(by) < soon:
		d.put(by, setDeadline)
	case !d.set.IsZero():
		d.put(time.Time{}, setDeadline)
	}
}

// end is called after it.
func (d *deadline) end() { d.by = time.Time{} }

// look is called while somebody may be waiting.
func (d *deadline) look(setDeadline func(time.Time) error) {
	if !d.by.IsZero() && d.by != d.set && time.Until(d.by) < soon {
		d.put(d.by, setDeadline)
	}
}

// put gives the connection a deadline.
func (d *deadline) put(at time.Time, setDeadline func(time.Time) error) {
	d.set = at
	setDeadline(at)
}

// past has a wait end at once.
func past() time.Time { return time.Unix(1, 0) }
