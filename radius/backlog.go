package radius

import (
	"context"
	"sync"
)

// Bounds of what logins, and as much again of what records, a connection can have
// under way: a client has no more identifiers (RFC 6613 section 2.6.4), and few
// requests are longer than 512 octets.
const (
	maxPending       = 256
	maxPendingOctets = 128 << 10
)

// backlog counts the logins, or the records, of a connection that are under way.
type backlog struct {
	mu            sync.Mutex
	count, octets int
	left          chan struct{} // has an element when one has left
}

func newBacklog() *backlog { return &backlog{left: make(chan struct{}, 1)} }

// enter puts a request of n octets on the books, and reports whether it has. With
// wait, which is for one goroutine at a time, it does not give up before ctx ends.
func (b *backlog) enter(ctx context.Context, n int, wait bool) bool {
	for {
		b.mu.Lock()
		ok := b.count < maxPending && b.octets+n <= maxPendingOctets
		if ok {
			b.count++
			b.octets += n
		}
		b.mu.Unlock()
		if ok || !wait {
			return ok
		}
		select {
		case <-b.left:
		case <-ctx.Done():
			return false
		}
	}
}

func (b *backlog) leave(n int) {
	b.mu.Lock()
	b.count--
	b.octets -= n
	b.mu.Unlock()
	select {
	case b.left <- struct{}{}:
	default:
	}
}

// later has a request done when there is a place for it, or undone if it is not to
// wait for one or cannot. Only the first of those that wait for the same places
// stands in line with other connections: so these take turns, however much one of
// them sends. The next packet is not read before there is room for a login. There
// may be none for a record: logins behind it do not wait for that.
func (c *radSecConn) later(in *arrival, p places, wait bool, do func(entered bool)) {
	b, login := c.records, !in.isRecord()
	if login {
		b = c.logins
	}
	if !b.enter(c.ctx, len(in.d), login) {
		do(false)
		return
	}
	in.backlog = b
	run := func(entered bool) {
		c.working.Go(func() {
			defer in.leave()
			do(entered)
		})
	}
	c.waitingMu.Lock()
	defer c.waitingMu.Unlock()
	queue, others := c.waiting[p]
	switch {
	case !others && p.enter(c.ctx, false):
		run(true)
	case !wait:
		run(false)
	default:
		c.waiting[p] = append(queue, run)
		if !others {
			c.working.Go(func() { c.takeTurns(p) })
		}
	}
}

// takeTurns starts what waits for places until nothing does. After the end of the
// connection nobody waits for an answer, and it is given up.
func (c *radSecConn) takeTurns(p places) {
	for more := true; more; {
		entered := c.ctx.Err() == nil && p.enter(c.ctx, true)
		c.waitingMu.Lock()
		queue := c.waiting[p]
		run := queue[0]
		queue[0] = nil
		if c.waiting[p] = queue[1:]; len(queue) == 1 {
			delete(c.waiting, p)
			more = false
		}
		c.waitingMu.Unlock()
		run(entered)
	}
}

// leave takes a request off the books of its connection.
func (in *arrival) leave() {
	if in.backlog != nil {
		in.backlog.leave(len(in.d))
		in.backlog = nil
	}
}
