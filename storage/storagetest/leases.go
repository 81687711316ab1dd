package storagetest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

func acquire(t *testing.T, s *storage.Store, name string, ttl time.Duration) *storage.Lease {
	t.Helper()
	l, err := s.Acquire(t.Context(), name, ttl)
	if err != nil {
		t.Fatalf("Acquire(%q): %v", name, err)
	}
	return l
}

func release(t *testing.T, l *storage.Lease) {
	t.Helper()
	if err := l.Release(t.Context()); err != nil {
		t.Fatalf("Release(%q): %v", l.Name(), err)
	}
}

func storeLease(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	l := acquire(t, s, "/certs/example.org", time.Minute)
	if l.Name() != "certs/example.org" || l.Token() == 0 || l.Err() != nil {
		t.Errorf("lease %q, token %d, error %v", l.Name(), l.Token(), l.Err())
	}
	_, err := s.TryAcquire(t.Context(), "certs/example.org", time.Minute)
	wantErr(t, "TryAcquire of what is held", err, storage.ErrLocked)
	other := acquire(t, s, "certs/example.net", time.Minute) // another name is another lease
	release(t, other)
	wantList(t, s, "") // a lease is no key

	// Waiting ends with the context, or when the lease is released.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Acquire(ctx, "certs/example.org", time.Minute)
	wantErr(t, "Acquire of what is held", err, context.DeadlineExceeded)
	got := make(chan *storage.Lease)
	go func() {
		l, err := s.Acquire(t.Context(), "certs/example.org", time.Minute)
		if err != nil {
			t.Errorf("Acquire: %v", err)
		}
		got <- l
	}()
	time.Sleep(20 * time.Millisecond)
	release(t, l)
	select {
	case <-l.Done():
	default:
		t.Error("Done is not closed after Release")
	}
	if l.Err() == nil {
		t.Error("Err is nil after Release")
	}
	release(t, l) // again is fine
	next := <-got
	if next == nil {
		return
	}
	if next.Token() <= l.Token() {
		t.Errorf("token %d after token %d", next.Token(), l.Token())
	}
	// The old holder cannot take it from the new one.
	release(t, l)
	_, err = s.TryAcquire(t.Context(), "certs/example.org", time.Minute)
	wantErr(t, "TryAcquire of what is held", err, storage.ErrLocked)
	release(t, next)

	_, err = s.Acquire(t.Context(), "a//b", 0)
	wantErr(t, "Acquire of a bad name", err, storage.ErrInvalidKey)
}

func storeLeaseRenewal(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	l := acquire(t, s, "l", 1500*time.Millisecond)
	for end := time.Now().Add(3500 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := s.TryAcquire(t.Context(), "l", time.Minute); !errors.Is(err, storage.ErrLocked) {
			t.Fatalf("TryAcquire while the lease should renew itself: %v", err)
		}
	}
	if err := l.Err(); err != nil {
		t.Errorf("the lease was lost: %v", err)
	}
	release(t, l)
}

func storeLeaseContention(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	var holders atomic.Int32
	var last atomic.Uint64
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 4 {
				l, err := s.Acquire(t.Context(), "l", time.Minute)
				if err != nil {
					t.Errorf("Acquire: %v", err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold the lease at once", n)
				}
				if before := last.Swap(l.Token()); before >= l.Token() {
					t.Errorf("token %d after token %d", l.Token(), before)
				}
				time.Sleep(time.Millisecond)
				holders.Add(-1)
				if err := l.Release(t.Context()); err != nil {
					t.Errorf("Release: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func storeLeaseReopen(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	var last uint64
	for range 3 {
		l := acquire(t, s, "l", time.Minute)
		if l.Token() <= last {
			t.Errorf("token %d after token %d", l.Token(), last)
		}
		last = l.Token()
		s = reopen(t, s, b) // gives the lease back
		if l.Err() == nil {
			t.Error("the lease is still held after Close")
		}
	}
}
