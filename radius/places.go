package radius

import "context"

// defaultConcurrent is Limits.MaxConcurrent where it is not set.
const defaultConcurrent = 256

// places are for requests that wait for one thing, one each. Whatever can be slow
// or down by itself has its own: the Authorizer, accounting, and each port of each
// realm's home servers. So it holds up nobody who does not need it. No place is kept
// while an answer is written, since a client may not read.
type places chan struct{}

func newPlaces(l *Limits) places { return make(places, valueOr(l.MaxConcurrent, defaultConcurrent)) }

// enter takes a place, and reports whether it has got one. With wait it does not
// give up before ctx ends.
func (p places) enter(ctx context.Context, wait bool) bool {
	select {
	case p <- struct{}{}:
		return true
	default:
	}
	if !wait {
		return false
	}
	select {
	case p <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p places) leave() { <-p }
