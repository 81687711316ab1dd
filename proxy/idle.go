package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// idleTimer calls a function once when nothing has moved for a while. It costs
// one timer an HTTP exchange, and a clock reading each time something moves;
// deadlines would have to be set on both connections all the time. Nil never
// fires. Streams have the sweep instead.
type idleTimer struct {
	idle   time.Duration
	expire func()
	last   atomic.Int64 // when something moved, Unix nanoseconds; 0: nothing needs to

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// newIdleTimer starts a timer, or returns nil if idle is no limit.
func newIdleTimer(idle time.Duration, expire func()) *idleTimer {
	if idle <= 0 {
		return nil
	}
	t := &idleTimer{idle: idle, expire: expire}
	t.moved()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(idle, t.check)
	return t
}

// moved notes that something has moved.
func (t *idleTimer) moved() {
	if t != nil {
		t.last.Store(time.Now().UnixNano())
	}
}

// rest says that nothing needs to move until moved is called.
func (t *idleTimer) rest() {
	if t != nil {
		t.last.Store(0)
	}
}

func (t *idleTimer) check() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	left := t.idle
	if last := t.last.Load(); last != 0 {
		left -= time.Since(time.Unix(0, last))
	}
	if left > 0 {
		t.timer.Reset(left)
		return
	}
	t.stopped = true
	t.expire()
}

// stop ends the timer.
func (t *idleTimer) stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	t.timer.Stop()
}
