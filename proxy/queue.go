package proxy

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

func (q Queue) withDefaults() Queue {
	q.Size = defaultTo(q.Size, 100)
	q.Timeout = defaultTo(q.Timeout, 5*time.Second)
	return q
}

// queue is where the requests and streams of a route wait for a target that has
// a place for them. It belongs to the route's identity and outlives routing
// tables: who waits during an update goes to a target of the new one.
//
// Nobody works for it. Who gives a place back, arrives or has waited for a
// while looks who is next.
type queue struct {
	proxy *Proxy
	all   atomic.Int64 // who wait
	easy  atomic.Int64 // those of them who would take any target

	mu       sync.Mutex
	balancer *balancer // of the latest table with the route
	waiters  list.List // of *waiter, in the order of arrival
}

// waiter is a request or stream in a queue.
type waiter struct {
	ch     choice
	choosy bool          // not any target would do
	place  *list.Element // nil once served
	ready  chan struct{} // closed then
	got    *entry        // nil: there is no target to wait for any more
}

// recheck is how often those who wait look whether a target has come back to
// which nobody is sent otherwise: when an ejection is over, nobody hears of it.
const recheck = time.Second

// next takes a place at once if that overtakes nobody, and else waits.
func (q *queue) next(ctx context.Context, b *balancer, ch *choice) (*entry, error) {
	choosy := len(ch.tried) > 0 || b.sticky != nil && ch.sticky != "" && b.sticky.entries[ch.sticky] != nil
	ahead := &q.easy
	if choosy {
		ahead = &q.all
	}
	if ahead.Load() == 0 {
		if e, full := b.take(ch); e != nil {
			return e, nil
		} else if !full {
			return nil, errNoTarget
		}
	}
	w := &waiter{ch: *ch, choosy: choosy, ready: make(chan struct{})}
	if !q.join(w, b.waiting.Size) {
		return b.elsewhere(ch)
	}
	end := time.Now().Add(b.waiting.Timeout)
	timer := time.NewTimer(min(b.waiting.Timeout, recheck))
	defer timer.Stop()
	for {
		select {
		case <-w.ready:
			if w.got == nil {
				return nil, errNoTarget
			}
			return w.got, nil
		case <-ctx.Done():
			if !q.quit(w) && w.got != nil { // it was served at the same moment
				w.got.abandon()
				w.got.release()
			}
			return nil, ctx.Err()
		case <-timer.C:
			left := time.Until(end)
			switch {
			case left > 0:
				q.serve()
				timer.Reset(min(left, recheck))
			case q.quit(w):
				return b.elsewhere(ch)
			}
		}
	}
}

// elsewhere is for who cannot wait any longer. One who waits for the target of
// his cookie takes another rather than none.
func (b *balancer) elsewhere(ch *choice) (*entry, error) {
	if b.sticky != nil && ch.sticky != "" {
		other := choice{client: ch.client, tried: ch.tried}
		if e, _ := b.take(&other); e != nil {
			return e, nil
		}
	}
	return nil, errBusy
}

// join puts w at the end of the queue, unless that is full.
func (q *queue) join(w *waiter, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiters.Len() >= size {
		return false
	}
	w.place = q.waiters.PushBack(w)
	q.count(w, 1)
	q.serveLocked() // a place may have become free before we were counted
	return true
}

// quit takes w out of the queue. It reports false if w has been served.
func (q *queue) quit(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place == nil {
		return false
	}
	q.remove(w)
	return true
}

func (q *queue) remove(w *waiter) {
	q.waiters.Remove(w.place)
	w.place = nil
	q.count(w, -1)
}

func (q *queue) count(w *waiter, n int64) {
	q.proxy.waiting.Add(n)
	q.all.Add(n)
	if !w.choosy {
		q.easy.Add(n)
	}
}

// serve gives places to those who have waited longest.
func (q *queue) serve() {
	if q.all.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.serveLocked()
}

func (q *queue) serveLocked() {
	for at := q.waiters.Front(); at != nil; {
		w := at.Value.(*waiter)
		at = at.Next()
		e, full := q.balancer.take(&w.ch)
		switch {
		case e != nil || !full:
			q.remove(w)
			w.got = e
			close(w.ready)
		case !w.choosy:
			return // nobody behind can have better luck
		}
	}
}

// use makes b the one to choose for those who wait.
func (q *queue) use(b *balancer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.balancer = b
	q.serveLocked()
}
