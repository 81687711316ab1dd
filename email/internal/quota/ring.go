package quota

import "time"

// A ring counts what happened in a span that slides, in slots of equal width.
// One slot more than the span has makes sure that all of it is covered.
type ring struct {
	width time.Duration
	slots []int // by their number, modulo how many there are
	last  int64 // number of the newest slot: time since 1970 in widths
	sum   int
}

func newRing(span time.Duration, slots int) ring {
	return ring{width: span / time.Duration(slots), slots: make([]int, slots+1)}
}

func (r *ring) size() int64 { return int64(len(r.slots)) }

func (r *ring) slot(number int64) *int { return &r.slots[number%r.size()] }

func (r *ring) number(now time.Time) int64 { return max(0, now.UnixNano()/int64(r.width)) }

// advance forgets what has left the span. A clock that is set back a little does
// not move the ring; one that is set back by more than the span begins it anew,
// as otherwise nothing would ever leave it.
func (r *ring) advance(now time.Time) {
	to := r.number(now)
	if to > r.last+r.size() || to < r.last-r.size() {
		clear(r.slots)
		r.last, r.sum = to, 0
		return
	}
	for r.last < to {
		r.last++
		r.sum -= *r.slot(r.last)
		*r.slot(r.last) = 0
	}
}

func (r *ring) add(n int) {
	*r.slot(r.last) += n
	r.sum += n
}

// remove takes n back, from the newest slots that have some.
func (r *ring) remove(n int) {
	for i := r.last; i > r.last-r.size() && i >= 0 && n > 0; i-- {
		back := min(n, *r.slot(i))
		*r.slot(i) -= back
		r.sum -= back
		n -= back
	}
}

// room returns when n more are within the limit, the zero time if they are now.
// More than the limit ever allows has to wait until nothing else counts: it would
// wait for ever otherwise.
func (r *ring) room(n, limit int) time.Time {
	excess := r.sum - max(0, limit-n)
	if excess <= 0 {
		return time.Time{}
	}
	number := r.last - r.size()
	for excess > 0 && number < r.last {
		number++
		if number >= 0 {
			excess -= *r.slot(number)
		}
	}
	return time.Unix(0, (number+r.size())*int64(r.width)).UTC()
}
