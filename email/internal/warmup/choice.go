package warmup

import "time"

// choice is the search for an address of a pool.
type choice struct {
	p        *Pools
	provider string
	today    day

	best *address
	room int       // how many recipients it may take
	next time.Time // when there will be room, if there is none; zero: never
}

// choose finds the address for a message. Those that warm up come first: the
// number of their day is meant to be used.
func (p *Pools) choose(q *pool, provider string, today day, usable func(*address) bool) choice {
	c := choice{p: p, provider: provider, today: today}
	var warming, warm, foreign []*address
	for _, a := range q.addresses {
		switch {
		case !usable(a):
		case a.since > today:
			c.wait(a.since)
		case c.limited(a):
			warming = append(warming, a)
		default:
			warm = append(warm, a)
		}
	}
	if c.leastUsed(warming); c.best != nil {
		return c
	}
	if len(warming) > 0 {
		c.wait(today + 1)
		if q.overflow == OverflowDefer {
			return c
		}
	}
	if c.leastBusy(warm, unlimited); c.best != nil || q.overflow != OverflowAny {
		return c
	}
	for _, other := range p.pools {
		for _, a := range other.addresses {
			if other != q && usable(a) && a.since <= today && !c.limited(a) {
				foreign = append(foreign, a)
			}
		}
	}
	if c.leastBusy(foreign, unlimited); c.best == nil {
		c.leastBusy(warming, unlimited)
	}
	return c
}

func (c *choice) wait(until day) {
	if at := until.begin(); c.next.IsZero() || at.Before(c.next) {
		c.next = at
	}
}

// limited reports whether an address is not warm for the provider.
func (c *choice) limited(a *address) bool {
	if a.warm {
		return false
	}
	l := c.p.lane(a, c.provider)
	return l.number(c.p.schedule) != unlimited || a.total.number(c.p.schedule) != unlimited
}

// leastUsed chooses the address that has used the smallest part of its number.
func (c *choice) leastUsed(list []*address) {
	least := 1.0
	for _, a := range list {
		l := c.p.lane(a, c.provider)
		room := min(l.room(c.p.schedule), a.total.room(c.p.schedule))
		used := max(usedOf(l, c.p.schedule), usedOf(a.total, c.p.schedule))
		if room > 0 && used < least {
			c.best, c.room, least = a, room, used
		}
	}
}

func usedOf(l *lane, schedule []int) float64 {
	return float64(l.counts.Sent) / float64(l.number(schedule))
}

// leastBusy chooses the address that has sent least today, of those that are in
// no trouble if there are any.
func (c *choice) leastBusy(list []*address, room int) {
	var best *lane
	for _, a := range list {
		l := c.p.lane(a, c.provider)
		if best == nil || (l.held == "") && best.held != "" || (l.held == "") == (best.held == "") && l.counts.Sent < best.counts.Sent {
			best = l
			c.best, c.room = a, room
		}
	}
}
