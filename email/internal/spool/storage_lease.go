package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// A lease is lost when the storage cannot be reached for as long as it lasts. That
// alone changes nothing of what is stored, so the store goes on with a new one. But
// somebody else may have had it in between, with every message in its own queue.
// Whoever opens the spool writes a name of its own to it first; by that we see it.

func (s *stored) holderKey() string { return s.prefix + "/holder" }

// keepLease takes the lease again whenever it is lost, until ctx ends or somebody
// else has had it, of which lost is told.
func (s *stored) keepLease(ctx context.Context, lost func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lease.Done(): // nobody else replaces it
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Error("the spool is out of use until its lease, which was lost, is taken again", "err", s.lease.Err())
		lease, err := s.retake(ctx)
		switch {
		case ctx.Err() != nil && err != nil:
			return
		case err != nil:
			if lost != nil {
				lost(fmt.Errorf("spool: %q: %w", s.prefix, err))
			}
			return
		}
		s.mu.Lock()
		s.lease = lease
		s.mu.Unlock()
		s.log.Info("the lease of the spool is taken again, and the spool in use")
	}
}

// retake returns the new lease, or ErrInUse if somebody else has had it. It tries
// each second as long as ctx lives.
func (s *stored) retake(ctx context.Context) (*storage.Lease, error) {
	for {
		lease, err := s.st.TryAcquire(ctx, s.prefix+"/lock", 0)
		if err == nil || errors.Is(err, storage.ErrLocked) { // the old one may not be over yet
			holder, getErr := s.st.Get(ctx, s.holderKey())
			taken := getErr == nil && string(holder) != s.holder || errors.Is(getErr, storage.ErrNotFound)
			if lease != nil && getErr == nil && !taken {
				return lease, nil
			}
			if lease != nil {
				_ = lease.Release(context.WithoutCancel(ctx)) // or it ends by itself
			}
			if taken {
				return nil, fmt.Errorf("%w: it was opened elsewhere while the storage could not be reached from here; start again", ErrInUse)
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
