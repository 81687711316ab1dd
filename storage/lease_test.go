package storage

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// leaseHost is a backend with leases that can be made to fail.
type leaseHost struct {
	Backend
	*leaseTable
	renewErr func(ctx context.Context) error
}

func newLeaseHost() *leaseHost {
	m := Memory().(*memory)
	return &leaseHost{Backend: m, leaseTable: m.leaseTable}
}

func (h *leaseHost) RenewLease(ctx context.Context, name string, token uint64, ttl time.Duration) error {
	if h.renewErr != nil {
		if err := h.renewErr(ctx); err != nil {
			return err
		}
	}
	return h.leaseTable.RenewLease(ctx, name, token, ttl)
}

func TestLeaseLost(t *testing.T) {
	const ttl = 30 * time.Second
	for what, c := range map[string]struct {
		renew  func(ctx context.Context) error
		lostAt time.Duration // after it was acquired; at the latest
	}{
		"taken away":    {func(context.Context) error { return ErrLeaseLost }, ttl / 3},
		"backend down":  {func(context.Context) error { return errDied }, ttl},
		"backend hangs": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, ttl},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newLeaseHost()
				s := mustOpen(t, h)
				h.renewErr = c.renew
				l, err := s.Acquire(t.Context(), "l", ttl)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				<-l.Done()
				if d := time.Since(start); d > c.lostAt || d < c.lostAt-time.Second {
					t.Errorf("the loss was noticed after %v, want %v", d, c.lostAt)
				}
				if !errors.Is(l.Err(), ErrLeaseLost) {
					t.Errorf("Err = %v", l.Err())
				}
				if err := l.Release(t.Context()); !errors.Is(err, ErrLeaseLost) {
					t.Errorf("Release = %v", err)
				}
			})
		})
	}
}

// TestLeaseHiccup: a renewal that fails once is tried again in time.
func TestLeaseHiccup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newLeaseHost()
		fails := 0
		h.renewErr = func(context.Context) error {
			if fails++; fails%3 != 0 {
				return errDied
			}
			return nil
		}
		s := mustOpen(t, h)
		l, err := s.Acquire(t.Context(), "l", 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(5 * time.Second)
			if _, err := s.TryAcquire(t.Context(), "l", 0); !errors.Is(err, ErrLocked) {
				t.Fatalf("TryAcquire of what is held: %v", err)
			}
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaseStandstill: a process that stood still for longer than its lease keeps
// it, unless somebody took it meanwhile.
func TestLeaseStandstill(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newLeaseHost()
			h.renewErr = func(context.Context) error {
				time.Sleep(time.Minute)
				if taken {
					if _, err := h.AcquireLease(t.Context(), "l", time.Hour); err != nil {
						t.Error(err)
					}
				}
				return nil
			}
			s := mustOpen(t, h)
			l, err := s.Acquire(t.Context(), "l", 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
			if err := l.Err(); errors.Is(err, ErrLeaseLost) != taken || (err != nil) != taken {
				t.Errorf("taken by another: %v; Err = %v", taken, err)
			}
		})
	}
}

// TestLeaseOfTheDead: a holder that vanished is waited for, but not for ever.
func TestLeaseOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := Memory()
		s := mustOpen(t, m)
		dead, err := m.(Leaser).AcquireLease(t.Context(), "l", time.Minute) // and never renewed
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		l, err := s.Acquire(t.Context(), "l", 0)
		if err != nil || l.Token() <= dead {
			t.Fatalf("Acquire: %v", err)
		}
		if d := time.Since(start); d < time.Minute || d > time.Minute+2*time.Second {
			t.Errorf("acquired after %v, want a little more than a minute", d)
		}
		s.leases.mu.Lock()
		defer s.leases.mu.Unlock()
		if len(s.leases.names) != 0 {
			t.Errorf("%d are still noted as waiting", len(s.leases.names))
		}
	})
}

// TestFence: tokens increase over many restarts, with few writes.
func TestFence(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	var last uint64
	for range 5 {
		s := mustOpen(t, four{h})
		before := h.writes
		for range fenceBlock + 10 {
			l, err := s.Acquire(t.Context(), "l", 0)
			if err != nil {
				t.Fatal(err)
			}
			if l.Token() <= last {
				t.Fatalf("token %d after token %d", l.Token(), last)
			}
			last = l.Token()
			if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := h.writes - before; n != 2 {
			t.Errorf("%d writes for %d tokens, want 2", n, fenceBlock+10)
		}
		s.Close()
	}
	h.values[fenceKey] = []byte("many")
	s := mustOpen(t, four{h})
	if _, err := s.Acquire(t.Context(), "l", 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Acquire with a broken fence: %v", err)
	}
}
