// Package together runs functions beside each other for one who waits for them.
package together

import (
	"fmt"
	"runtime/debug"
	"sync"
)

// Group is a [sync.WaitGroup] for whose functions whoever waits answers: one that
// panics, over what a stranger has sent or in code of the host, panics there, where
// somebody may recover, and not in a goroutine of its own, where that would end the
// process. The zero value is ready.
type Group struct {
	running sync.WaitGroup

	mu       sync.Mutex
	panicked string
}

// Go runs f in a goroutine.
func (g *Group) Go(f func()) {
	g.running.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.panicked = fmt.Sprintf("%v, in a goroutine beside:\n%s", v, debug.Stack())
			}
		}()
		f()
	})
}

// Wait waits for all functions. It panics if one of them has.
func (g *Group) Wait() {
	g.running.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.panicked != "" {
		panic(g.panicked) // unreachable but by a mistake in f: it is passed on to who can recover
	}
}
