package warmup

import "time"

// Outcome is what became of a message to a recipient.
type Outcome int

// The outcomes.
const (
	// Delivered: the other server took it.
	Delivered Outcome = iota
	// Deferred: it was put off and will be tried again.
	Deferred
	// HardBounce: there is no such recipient, now or in a later report.
	HardBounce
	// SoftBounce: given up for another reason, as a full mailbox.
	SoftBounce
	// Block: refused for policy or reputation, for now or for good.
	Block
	// Complaint: the reader calls it spam.
	Complaint
)

// Counts counts recipients of messages.
type Counts struct {
	Sent        int `json:"sent"` // tries
	Delivered   int `json:"delivered"`
	Deferred    int `json:"deferred"`
	HardBounces int `json:"hardBounces"`
	SoftBounces int `json:"softBounces"`
	Blocks      int `json:"blocks"`
	Complaints  int `json:"complaints"`
}

func (c *Counts) count(o Outcome, n int) {
	switch o {
	case Delivered:
		c.Delivered += n
	case Deferred:
		c.Deferred += n
	case HardBounce:
		c.HardBounces += n
	case SoftBounce:
		c.SoftBounces += n
	case Block:
		c.Blocks += n
	case Complaint:
		c.Complaints += n
	}
}

func (c *Counts) add(o Counts) {
	c.Sent += o.Sent
	c.Delivered += o.Delivered
	c.Deferred += o.Deferred
	c.HardBounces += o.HardBounces
	c.SoftBounces += o.SoftBounces
	c.Blocks += o.Blocks
	c.Complaints += o.Complaints
}

// Rates are parts of all answers but those that put off; Complaints is a part of
// what was delivered. They are 0 where there is nothing to be a part of.
type Rates struct {
	Delivered  float64 `json:"delivered"`
	Bounces    float64 `json:"bounces"` // hard ones
	Blocks     float64 `json:"blocks"`
	Complaints float64 `json:"complaints"`
}

func (c Counts) answers() int { return c.Delivered + c.HardBounces + c.SoftBounces + c.Blocks }

// Rates returns the counts as rates.
func (c Counts) Rates() Rates {
	return Rates{
		Delivered:  part(c.Delivered, c.answers()),
		Bounces:    part(c.HardBounces, c.answers()),
		Blocks:     part(c.Blocks, c.answers()),
		Complaints: part(c.Complaints, c.Delivered),
	}
}

// part of nothing is all, if there is any: complaints come days later.
func part(n, of int) float64 {
	if n <= 0 {
		return 0
	}
	return min(1, float64(n)/float64(max(of, 1)))
}

// Score rates the counts of a day from 0 to 100; the package comment has the
// formula.
func (c Counts) Score() int {
	const clean = 50 // messages without trouble that are added
	c.Delivered += clean
	r := c.Rates()
	return int(100 - 30*min(1, r.Bounces/0.1) - 30*min(1, r.Blocks/0.2) - 40*min(1, r.Complaints/0.003) + 0.5)
}

// recent counts in a span that slides, in slots of equal width.
type recent struct {
	width time.Duration
	slots []Counts // by their number, modulo how many there are
	last  int64    // number of the newest slot: time since 1970 in widths
}

func newRecent(span time.Duration, slots int) recent {
	return recent{width: span / time.Duration(slots), slots: make([]Counts, slots)}
}

func (r *recent) size() int64 { return int64(len(r.slots)) }

// at returns the slot of now. A clock that is set back leaves it where it is,
// unless by more than the span.
func (r *recent) at(now time.Time) *Counts {
	to := max(0, now.UnixNano()/int64(r.width))
	if to > r.last+r.size() || to < r.last-r.size() {
		clear(r.slots)
		r.last = to
	}
	for r.last < to {
		r.last++
		r.slots[r.last%r.size()] = Counts{}
	}
	return &r.slots[r.last%r.size()]
}

// sum is what the span has now.
func (r *recent) sum(now time.Time) Counts {
	r.at(now)
	var all Counts
	for _, c := range r.slots {
		all.add(c)
	}
	return all
}

// unsend takes tries back, from the newest slots that have some.
func (r *recent) unsend(now time.Time, n int) {
	r.at(now)
	for i := r.last; i > r.last-r.size() && i >= 0 && n > 0; i-- {
		c := &r.slots[i%r.size()]
		back := min(n, c.Sent)
		c.Sent -= back
		n -= back
	}
}
