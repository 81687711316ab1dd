// Package upkeep does what is to be done from time to time, such as to store what
// has changed, until it is told to end.
package upkeep

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Upkeep has goroutines that do something again and again. Nil has none.
type Upkeep struct {
	ctx  context.Context
	stop context.CancelFunc
	done sync.WaitGroup
}

// New begins one, which does not end with ctx but has its values.
func New(ctx context.Context) *Upkeep {
	u := new(Upkeep)
	u.ctx, u.stop = context.WithCancel(context.WithoutCancel(ctx))
	return u
}

// Every calls do after each d. Its context ends with Close.
func (u *Upkeep) Every(d time.Duration, do func(context.Context)) {
	u.done.Go(func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-u.ctx.Done():
				return
			case <-tick.C:
				do(u.ctx)
			}
		}
	})
}

// Save calls save after each d. When it fails, log is told that what could not be
// stored: it is tried again.
func (u *Upkeep) Save(d time.Duration, log *slog.Logger, what string, save func(context.Context) error) {
	u.Every(d, func(ctx context.Context) {
		if err := save(ctx); err != nil && ctx.Err() == nil {
			log.Warn(what+" could not be stored; it is tried again", "err", err)
		}
	})
}

// Close ends all of it, and returns when nothing is under way. It may be called
// again.
func (u *Upkeep) Close() {
	if u == nil {
		return
	}
	u.stop()
	u.done.Wait()
}
