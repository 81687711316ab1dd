package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
)

// underWay is a Start or Handover. Router.mu guards what changes.
type underWay struct {
	giveUp context.CancelCauseFunc // has it fail
	at     string                  // what a Start is at; "" for a Handover, which has limits of its own
	left   bool                    // a Stop has not waited for its end: it has to stop what it has started
}

// errStopCalled is in the error of a Start that a Stop has ended.
var errStopCalled = errors.New("dcrouter: Stop was called meanwhile")

// begin waits until nothing else is under way. The context it returns ends with a
// Stop, too.
func (r *Router) begin(ctx context.Context) (context.Context, *underWay, error) {
	select {
	case r.lifecycle <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	u := &underWay{giveUp: giveUp}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay = u
	if r.stops > 0 {
		giveUp(errStopCalled)
	}
	return ctx, u, nil
}

// note says what a Start is at.
func (r *Router) note(u *underWay, at string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.at = at
}

// finish ends what begin began. It fails, and lets nothing else begin, if a Stop has
// not waited for it: then it is to be followed by end.
func (r *Router) finish(u *underWay) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.giveUp(nil)
	if !u.left {
		r.letGo()
	}
	return !u.left
}

// release lets others begin.
func (r *Router) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.letGo()
}

// letGo is release where mu is held.
func (r *Router) letGo() {
	r.underWay = nil
	<-r.lifecycle
}

// interrupt has what is under way fail, and waits for its end. A Start that does not
// end in time is left to stop by itself what it has started.
func (r *Router) interrupt(ctx context.Context) error {
	r.mu.Lock()
	r.stops++
	if r.underWay != nil {
		r.underWay.giveUp(errStopCalled)
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stops--
	}()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeToAnswer)
		defer cancel()
	}
	select {
	case r.lifecycle <- struct{}{}:
		return nil
	case <-ctx.Done():
	}
	for {
		select {
		case r.lifecycle <- struct{}{}:
			return nil
		case <-time.After(momentToStop):
		}
		if at := r.leave(); at != "" {
			return fmt.Errorf("dcrouter: %s: %w; Start takes everything back when it goes on", at, grace.ErrHangs)
		}
	}
}

// leave has a Start under way stop by itself what it has started, and returns what
// it is at. Without one it returns "".
func (r *Router) leave() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.underWay
	if u == nil || u.at == "" {
		return ""
	}
	u.left = true
	return u.at
}
