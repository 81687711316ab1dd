package opsapi

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// writes are what is under way and may have to be stored, by name, for an error
// about a storage that hangs.
type writes struct {
	mu    sync.Mutex
	under map[string]int
}

// begin notes that something is under way until end is called.
func (w *writes) begin(what string) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under == nil {
		w.under = map[string]int{}
	}
	w.under[what]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.under[what]--; w.under[what] == 0 {
			delete(w.under, what)
		}
	}
}

func (w *writes) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.under) == 0 {
		return "nothing"
	}
	return strings.Join(slices.Sorted(maps.Keys(w.under)), ", ")
}

// lasting returns the context of something that goes on if its client does not wait
// for it, for applyTime at most, but ends a grace after over.
func lasting(ctx, over context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTime)
	stop := context.AfterFunc(over, func() { time.AfterFunc(grace, cancel) })
	return ctx, func() {
		stop()
		cancel()
	}
}
