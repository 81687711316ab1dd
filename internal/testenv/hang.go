package testenv

import (
	"sync"
	"sync/atomic"
)

// Hang is what a part of a test's world hangs in for a while, such as the writes of a
// storage, whatever their contexts say. The zero Hang does not hold anybody up.
type Hang struct {
	now  atomic.Bool
	init sync.Once
	once sync.Once
	hung chan struct{}
	end  chan struct{}
}

func (h *Hang) made() *Hang {
	h.init.Do(func() { h.hung, h.end = make(chan struct{}), make(chan struct{}) })
	return h
}

// Stick has Wait hold up whoever calls it from now on.
func (h *Hang) Stick() { h.made().now.Store(true) }

// Free lets everybody go on, for good.
func (h *Hang) Free() {
	if h.now.Swap(false) {
		close(h.end)
	}
}

// Hung is closed when somebody hangs.
func (h *Hang) Hung() <-chan struct{} { return h.made().hung }

// Wait is where the part hangs between Stick and Free.
func (h *Hang) Wait() {
	if h.now.Load() {
		h.once.Do(func() { close(h.hung) })
		<-h.end
	}
}
