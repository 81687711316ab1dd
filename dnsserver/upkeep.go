package dnsserver

import (
	"context"
	"math"
	"time"
)

// upkeep does what zones need with time until ctx ends: it replaces signatures
// and keys, folds journals that have become long, and changes the key of
// cookies.
func (zs *zones) upkeep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	looked := zs.now()
	rotated := looked
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-zs.wake:
		}
		now := zs.now()
		back := now.Before(looked) // the clock was ahead, so what is due may be put down for too late
		if looked = now; back {
			rotated = now
		}
		next := now.Add(lookEvery)
		for _, z := range zs.unsorted() {
			if back {
				z.retryAt = time.Time{}
			}
			if at := z.nextLook.Load(); back || at <= zs.now().UnixNano() {
				z.nextLook.Store(never)
				// A change meanwhile has it looked at again.
				z.nextLook.CompareAndSwap(never, z.keepUp(ctx))
			}
			if at := time.Unix(0, z.nextLook.Load()); at.Before(next) {
				next = at
			}
		}
		if c := zs.responder.cookies; c != nil && zs.now().Sub(rotated) >= cookieLasts {
			c.rotate()
			rotated = zs.now()
		}
		timer.Reset(max(next.Sub(zs.now()), 10*time.Millisecond))
	}
}

// lookEvery is at least how often there is a look at the clock: timers know
// nothing of its steps, and stand still while the machine is suspended.
const lookEvery = time.Minute

// never is a time that does not come, in nanoseconds.
const never = math.MaxInt64

// keepUp does what is due at one zone, and returns when to look again.
func (z *servedZone) keepUp(ctx context.Context) (nanos int64) {
	log := z.all.logger()
	if err := z.foldLong(ctx); err != nil {
		log.Error("the changes of a zone could not be folded; they go on growing", "zone", nameText(z.name), "err", err)
	}
	if z.signer == nil {
		return never
	}
	const patience = time.Minute // until what has failed is tried again
	now := z.all.now()
	if now.Before(z.retryAt) {
		return z.retryAt.UnixNano()
	}
	resign, err := z.signer.maintain(ctx, z.ref.current.Load(), now)
	if err == nil && resign {
		_, err = z.renew(ctx)
	}
	if err != nil {
		if ctx.Err() == nil {
			log.Error("a zone could not be signed anew; it will be tried again", "zone", nameText(z.name), "in", patience, "err", err)
		}
		z.retryAt = now.Add(patience)
		return z.retryAt.UnixNano()
	}
	return z.signer.due(z.all.now()).UnixNano()
}

// foldLong folds the journal when it is long.
func (z *servedZone) foldLong(ctx context.Context) error {
	folded, err := z.tryFold(ctx)
	if err != nil || folded == nil {
		return err
	}
	return folded.tidy(ctx) // which takes the longest, and changes need not wait for it
}

// tryFold returns the journal as it is if it has folded it.
func (z *servedZone) tryFold(ctx context.Context) (*journal, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	now := z.ref.current.Load()
	if z.journal.store == nil || now == nil || z.journal.next-z.journal.state.Folded <= foldAfter {
		return nil, nil
	}
	base := z.journal.state.Base
	if z.journal.unkept {
		base = ""
	}
	if err := z.journal.fold(ctx, base, now.serial()); err != nil {
		return nil, err
	}
	folded := z.journal
	return &folded, nil
}

// look has the upkeep look at the zone now.
func (z *servedZone) look() {
	z.nextLook.Store(0)
	select {
	case z.all.wake <- struct{}{}:
	default: // it will
	}
}
