package storage

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// leaseTable is a [Leaser] for one process.
type leaseTable struct {
	next  func(context.Context) (uint64, error) // makes tokens
	grant chan struct{}                         // one at a time, so that tokens are granted in their order

	mu   sync.Mutex
	held map[string]holder
}

type holder struct {
	token   uint64
	expires time.Time
}

func newLeaseTable(next func(context.Context) (uint64, error)) *leaseTable {
	return &leaseTable{next: next, grant: make(chan struct{}, 1), held: make(map[string]holder)}
}

func (t *leaseTable) AcquireLease(ctx context.Context, name string, ttl time.Duration) (uint64, error) {
	select {
	case t.grant <- struct{}{}:
		defer func() { <-t.grant }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if t.isHeld(name) {
		return 0, ErrLocked
	}
	token, err := t.next(ctx)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[name] = holder{token: token, expires: time.Now().Add(ttl)}
	return token, nil
}

func (t *leaseTable) isHeld(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.held[name]
	return ok && time.Now().Before(h.expires)
}

// RenewLease also renews what is over if nobody has had it since: a process that
// stood still for longer than the time to live has lost nothing to others of its
// own.
func (t *leaseTable) RenewLease(_ context.Context, name string, token uint64, ttl time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.held[name]
	if !ok || h.token != token {
		return ErrLeaseLost
	}
	t.held[name] = holder{token: token, expires: time.Now().Add(ttl)}
	return nil
}

func (t *leaseTable) ReleaseLease(_ context.Context, name string, token uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.held[name]; ok && h.token == token {
		delete(t.held, name)
	}
	return nil
}

// fenceBlock is how many tokens one durable write pays for.
const fenceBlock = 100

// fence makes tokens that always increase, also after a restart: before a
// token is given out, a number that is at least as great is durable. One
// counter serves all names.
type fence struct {
	backend Backend

	mu     sync.Mutex
	loaded bool
	last   uint64 // given out last
	limit  uint64 // durable
}

func (f *fence) next(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(ctx); err != nil {
		return 0, err
	}
	if f.last == f.limit {
		if err := f.reserve(ctx, f.limit+fenceBlock); err != nil {
			return 0, err
		}
	}
	f.last++
	return f.last, nil
}

// raise makes all tokens from now on greater than floor.
func (f *fence) raise(ctx context.Context, floor uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(ctx); err != nil || f.last >= floor {
		return err
	}
	if err := f.reserve(ctx, max(f.limit, floor)); err != nil {
		return err
	}
	f.last = floor
	return nil
}

// durable returns the number that no token given out so far exceeds.
func (f *fence) durable(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.load(ctx)
	return f.limit, err
}

func (f *fence) load(ctx context.Context) error {
	if f.loaded {
		return nil
	}
	v, err := f.backend.Get(ctx, fenceKey)
	switch {
	case isNotFound(err):
	case err != nil:
		return fmt.Errorf("%q: %w", fenceKey, err)
	default:
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return fmt.Errorf("%q: %w: %w", fenceKey, ErrCorrupt, err)
		}
		f.last, f.limit = n, n
	}
	f.loaded = true
	return nil
}

func (f *fence) reserve(ctx context.Context, limit uint64) error {
	if err := f.backend.Put(ctx, fenceKey, strconv.AppendUint(nil, limit, 10)); err != nil {
		return fmt.Errorf("%q: %w", fenceKey, err)
	}
	f.limit = limit
	return nil
}
