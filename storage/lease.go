package storage

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// DefaultLeaseTTL is for how long a lease outlives a holder that vanished,
// unless the caller gives another time: 30 s.
const DefaultLeaseTTL = 30 * time.Second

// Lease is the right, held by one at a time, to do something. It renews
// itself until it is released, lost, or the Store is closed. A holder must
// stop when Done is closed.
//
// A holder that does not notice in time, because its machine stood still,
// may act after it lost the lease. What must not suffer from that should
// compare tokens: a later holder has a greater one.
type Lease struct {
	store *Store
	name  string
	token uint64
	ttl   time.Duration

	stop chan struct{} // closed to end the renewal
	done chan struct{} // closed by the renewal when it ends

	mu       sync.Mutex
	stopped  bool
	err      error // why it is not held any more
	released error // what giving it back brought
}

// Acquire takes the lease called name, and waits for it as long as ctx lives.
// The lease outlives a holder that vanished by ttl at most; if ttl is not
// positive [DefaultLeaseTTL] is taken. Names follow the rules of keys, but
// are not keys. There is no queue: of several who wait, any may be next.
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	pause := 5 * time.Millisecond
	for {
		released := s.leases.wait(name)
		l, err := s.acquire(ctx, name, ttl)
		if !errors.Is(err, ErrLocked) {
			s.leases.unwait(name)
			return l, keyErr("acquire", name, err)
		}
		// A holder in this process tells when it is done; for others, look
		// again from time to time, not all at the same moment.
		timer := time.NewTimer(pause + rand.N(pause))
		select {
		case <-released:
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		case <-s.ctx.Done():
			err = ErrClosed
		}
		timer.Stop()
		s.leases.unwait(name)
		if !errors.Is(err, ErrLocked) {
			return nil, keyErr("acquire", name, err)
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// TryAcquire is Acquire that does not wait: it fails with [ErrLocked] if
// somebody holds the lease.
func (s *Store) TryAcquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	l, err := s.acquire(ctx, name, ttl)
	return l, keyErr("acquire", name, err)
}

func (s *Store) acquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	k, err := CanonicalKey(name)
	if err != nil {
		return nil, err
	}
	if ttl <= 0 {
		ttl = DefaultLeaseTTL
	}
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	start := time.Now()
	token, err := s.leaser.AcquireLease(ctx, k, ttl)
	if err != nil {
		return nil, err
	}
	l := &Lease{
		store: s, name: k, token: token, ttl: ttl,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	s.wg.Go(func() { l.renew(start) })
	return l, nil
}

// Name returns the canonical name of the lease.
func (l *Lease) Name() string { return l.name }

// Token returns the fencing token: greater than that of every earlier holder
// of a lease of this name, also before a restart.
func (l *Lease) Token() uint64 { return l.token }

// Done is closed when the lease is not held any more: released, lost, or
// ended because the Store is being closed.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Err returns nil while the lease is held, and then why it is not: an error
// that wraps [ErrLeaseLost], or [ErrClosed] after Release or [Store.Close].
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Release gives the lease back and waits until that is done. If the lease was
// lost before, the error wraps [ErrLeaseLost]. If the backend cannot be
// reached the lease ends by its time to live. It may be called more than once.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		close(l.stop)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		return keyErr("release", l.name, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.err, ErrLeaseLost) {
		return l.err
	}
	return keyErr("release", l.name, l.released)
}

// renew keeps the lease until it is given back or lost. The lease is held
// for ttl from the start of the last renewal that succeeded: counting from
// its end would trust an answer that was long under way.
func (l *Lease) renew(start time.Time) {
	deadline := start.Add(l.ttl)
	next := time.NewTimer(l.ttl / 3)
	defer next.Stop()
	for {
		select {
		case <-l.stop:
			l.end(ErrClosed, true)
			return
		case <-l.store.ctx.Done():
			l.end(ErrClosed, true)
			return
		case <-next.C:
		}
		at := time.Now()
		ctx, cancel := context.WithDeadline(l.store.ctx, deadline)
		err := l.store.leaser.RenewLease(ctx, l.name, l.token, l.ttl)
		cancel()
		switch {
		case err == nil:
			deadline = at.Add(l.ttl)
			next.Reset(l.ttl / 3)
		case errors.Is(err, ErrLeaseLost):
			l.end(keyErr("renew", l.name, err), false)
			return
		case l.store.ctx.Err() != nil:
			next.Reset(0) // ends above
		case !time.Now().Before(deadline):
			l.end(keyErr("renew", l.name, errors.Join(ErrLeaseLost, err)), true)
			return
		default: // perhaps it works in time
			next.Reset(min(l.ttl/10, time.Until(deadline)))
		}
	}
}

// end notes why the lease ended, gives it back if it may still be ours, and
// tells whoever waits.
func (l *Lease) end(why error, giveBack bool) {
	var err error
	if giveBack {
		// Not the Store's context: that may be over already.
		ctx, cancel := context.WithTimeout(context.Background(), min(l.ttl, 5*time.Second))
		err = l.store.leaser.ReleaseLease(ctx, l.name, l.token)
		cancel()
	}
	l.mu.Lock()
	l.err, l.released = why, err
	l.mu.Unlock()
	close(l.done)
	l.store.leases.announce(l.name)
}

// releaseNotice wakes those who wait in this process for a lease.
type releaseNotice struct {
	mu    sync.Mutex
	names map[string]*noticeChan
}

type noticeChan struct {
	ch   chan struct{}
	refs int
}

func newReleaseNotice() *releaseNotice { return &releaseNotice{names: make(map[string]*noticeChan)} }

// wait returns a channel that the next announce closes; call unwait after it.
func (r *releaseNotice) wait(name string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[name]
	if n == nil {
		n = &noticeChan{ch: make(chan struct{})}
		r.names[name] = n
	}
	n.refs++
	return n.ch
}

func (r *releaseNotice) unwait(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.names[name]; n != nil {
		if n.refs--; n.refs <= 0 {
			delete(r.names, name)
		}
	}
}

func (r *releaseNotice) announce(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.names[name]; n != nil {
		close(n.ch)
		n.ch = make(chan struct{})
	}
}
