package storagetest

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// A Store checks before it asks the backend and lets one caller at a time
// through, so what a backend does natively is checked without one, too.

func backendConditional(t *testing.T, b storage.Backend) {
	c, ok := b.(storage.Conditional)
	if !ok {
		t.Skip("not a Conditional; the Store does it")
	}
	openBackend(t, b)
	_, _, err := c.GetRevision(t.Context(), "k")
	wantErr(t, "GetRevision of nothing", err, storage.ErrNotFound)
	_, err = c.CompareAndSwap(t.Context(), "k", "", []byte("x"))
	wantErr(t, "CompareAndSwap of nothing", err, storage.ErrConflict)
	first, err := c.Create(t.Context(), "k", []byte("A"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Create(t.Context(), "k", []byte("B"))
	wantErr(t, "Create of what exists", err, storage.ErrExists)
	if v, rev, err := c.GetRevision(t.Context(), "k"); string(v) != "A" || rev != first || err != nil {
		t.Errorf("GetRevision = %q, %q, %v; want A, %q", v, rev, err, first)
	}
	backendPut(t, b, "k", "A")
	_, err = c.CompareAndSwap(t.Context(), "k", first, []byte("B"))
	wantErr(t, "CompareAndSwap after the same bytes were put again", err, storage.ErrConflict)
	_, second, err := c.GetRevision(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	del(t, b, "k")
	backendPut(t, b, "k", "A")
	_, err = c.CompareAndSwap(t.Context(), "k", second, []byte("B"))
	wantErr(t, "CompareAndSwap after Delete and Put", err, storage.ErrConflict)
	wantValue(t, b, "k", "A")

	const workers, rounds = 4, 10
	var wins atomic.Int32
	var wg sync.WaitGroup
	backendPut(t, b, "counter", "0")
	for range workers {
		wg.Go(func() {
			switch _, err := c.Create(t.Context(), "once", nil); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, storage.ErrExists):
				t.Errorf("Create: %v", err)
			}
			for done := 0; done < rounds; {
				v, rev, err := c.GetRevision(t.Context(), "counter")
				n, convErr := strconv.Atoi(string(v))
				if err == nil && convErr == nil {
					_, err = c.CompareAndSwap(t.Context(), "counter", rev, strconv.AppendInt(nil, int64(n+1), 10))
				}
				switch {
				case convErr == nil && err == nil:
					done++
				case convErr != nil || !errors.Is(err, storage.ErrConflict):
					t.Errorf("counting: %v, %v", err, convErr)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := wins.Load(); n != 1 {
		t.Errorf("%d of %d concurrent Creates succeeded, want 1", n, workers)
	}
	wantValue(t, b, "counter", strconv.Itoa(workers*rounds))
}

func backendExpirer(t *testing.T, b storage.Backend) {
	e, ok := b.(storage.Expirer)
	if !ok {
		t.Skip("not an Expirer; the Store does it")
	}
	openBackend(t, b)
	backendPut(t, b, "stays", "x")
	for k, ttl := range map[string]time.Duration{"short": shortTTL, "long": time.Hour, "replaced": shortTTL} {
		if err := e.PutTTL(t.Context(), k, []byte("x"), ttl); err != nil {
			t.Fatal(err)
		}
	}
	backendPut(t, b, "replaced", "x")
	for k, want := range map[string]time.Duration{"stays": 0, "replaced": 0, "long": time.Hour} {
		at, err := e.Expiry(t.Context(), k)
		if err != nil || at.IsZero() != (want == 0) || want > 0 && (time.Until(at) > want+patience || time.Until(at) < want-time.Minute) {
			t.Errorf("Expiry(%q) = %v, %v; want %v from now", k, at, err, want)
		}
	}
	sleepUntil(time.Now().Add(shortTTL))
	wantMissing(t, b, "short")
	for _, k := range list(t, b, "") {
		if k == "short" {
			t.Error("List yields an expired key")
		}
	}
	for _, k := range []string{"stays", "long", "replaced"} {
		wantValue(t, b, k, "x")
	}
}

func backendLeaser(t *testing.T, b storage.Backend) {
	l, ok := b.(storage.Leaser)
	if !ok {
		t.Skip("not a Leaser; the Store does it")
	}
	openBackend(t, b)
	take := func(name string, ttl time.Duration) uint64 {
		t.Helper()
		token, err := l.AcquireLease(t.Context(), name, ttl)
		if err != nil {
			t.Fatalf("AcquireLease(%q): %v", name, err)
		}
		return token
	}
	locked := func() {
		t.Helper()
		_, err := l.AcquireLease(t.Context(), "l", time.Minute)
		wantErr(t, "AcquireLease of what is held", err, storage.ErrLocked)
	}
	give := func(token uint64) {
		t.Helper()
		if err := l.ReleaseLease(t.Context(), "l", token); err != nil {
			t.Fatalf("ReleaseLease: %v", err)
		}
	}
	first := take("l", time.Minute)
	take("other", time.Minute)
	locked()
	give(first)
	give(first)
	second := take("l", shortTTL)
	if second <= first {
		t.Errorf("token %d after token %d", second, first)
	}
	wantErr(t, "RenewLease with an old token", l.RenewLease(t.Context(), "l", first, time.Minute), storage.ErrLeaseLost)
	give(first) // not held by it: nothing happens
	locked()
	if err := l.RenewLease(t.Context(), "l", second, 2*shortTTL); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	sleepUntil(start.Add(shortTTL))
	if _, err := l.AcquireLease(t.Context(), "l", time.Millisecond); time.Since(start) < 2*shortTTL {
		wantErr(t, "AcquireLease of what was renewed", err, storage.ErrLocked)
	}
	sleepUntil(start.Add(2 * shortTTL))
	if third := take("l", time.Minute); third <= second {
		t.Errorf("token %d after token %d", third, second)
	}
	wantErr(t, "RenewLease of what another has by now", l.RenewLease(t.Context(), "l", second, time.Minute), storage.ErrLeaseLost)
}
