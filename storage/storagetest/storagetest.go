// Package storagetest checks that a [storage.Backend] keeps its contract. A
// host that wrote one runs it in a test of its own:
//
//	func TestBackend(t *testing.T) {
//		storagetest.Run(t, func(t *testing.T) storage.Backend {
//			return newBackend(t) // empty, and only this test's
//		})
//	}
//
// It checks the backend by itself and then everything that a [storage.Store]
// offers on it, with what the backend brings natively and what the Store adds.
package storagetest

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// patience is how long the tests wait for what must happen at some time.
const patience = 10 * time.Second

// Run runs all checks as subtests, one after another. open is called once in
// each and returns an empty backend that nothing else uses; what must be
// cleaned up it registers with t.Cleanup. The same backend is opened and
// closed several times within a subtest, and keeps its data meanwhile.
func Run(t *testing.T, open func(t *testing.T) storage.Backend) {
	checks := []struct {
		name string
		run  func(t *testing.T, b storage.Backend)
	}{
		{"Backend/Missing", backendMissing},
		{"Backend/Values", backendValues},
		{"Backend/Delete", backendDelete},
		{"Backend/Keys", backendKeys},
		{"Backend/List", backendList},
		{"Backend/Atomic", backendAtomic},
		{"Backend/Conditional", backendConditional},
		{"Backend/Expirer", backendExpirer},
		{"Backend/Leaser", backendLeaser},
		{"Store/Values", storeValues},
		{"Store/Keys", storeKeys},
		{"Store/List", storeList},
		{"Store/ListWhileWriting", storeListWhileWriting},
		{"Store/DeletePrefix", storeDeletePrefix},
		{"Store/Cancel", storeCancel},
		{"Store/Reopen", storeReopen},
		{"Store/Close", storeClose},
		{"Store/Create", storeCreate},
		{"Store/CompareAndSwap", storeCompareAndSwap},
		{"Store/Contention", storeContention},
		{"Store/TTL", storeTTL},
		{"Store/TTLReplaced", storeTTLReplaced},
		{"Store/TTLReopen", storeTTLReopen},
		{"Store/Lease", storeLease},
		{"Store/LeaseRenewal", storeLeaseRenewal},
		{"Store/LeaseContention", storeLeaseContention},
		{"Store/LeaseReopen", storeLeaseReopen},
		{"Store/Watch", storeWatch},
		{"Store/WatchSlow", storeWatchSlow},
		{"Store/Migrate", storeMigrate},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// openBackend opens b as a Store would, for checks without one.
func openBackend(t *testing.T, b storage.Backend) storage.Backend {
	t.Helper()
	if o, ok := b.(storage.Opener); ok {
		if err := o.Open(t.Context()); err != nil {
			t.Fatalf("Open: %v", err)
		}
		t.Cleanup(func() {
			if err := o.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	return b
}

func openStore(t *testing.T, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t *testing.T, s *storage.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// reopen closes s and opens a new Store on the same backend.
func reopen(t *testing.T, s *storage.Store, b storage.Backend) *storage.Store {
	t.Helper()
	closeStore(t, s)
	return openStore(t, b)
}

// kv is what a Backend and a Store have in common for these checks.
type kv interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

func put(t *testing.T, s *storage.Store, key, value string, opts ...storage.PutOption) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value), opts...); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func backendPut(t *testing.T, b storage.Backend, key, value string) {
	t.Helper()
	if err := b.Put(t.Context(), key, []byte(value)); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func wantValue(t *testing.T, s kv, key, want string) {
	t.Helper()
	got, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if string(got) != want {
		t.Fatalf("Get(%q) = %.60q (%d bytes), want %.60q (%d bytes)", key, got, len(got), want, len(want))
	}
}

func wantMissing(t *testing.T, s kv, key string) {
	t.Helper()
	got, err := s.Get(t.Context(), key)
	if !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Get(%q) = %.60q, error %v; want an error that is ErrNotFound or fs.ErrNotExist", key, got, err)
	}
}

func del(t *testing.T, s kv, key string) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
}

func list(t *testing.T, s kv, prefix string) []string {
	t.Helper()
	keys := []string{}
	for k, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		keys = append(keys, k)
	}
	return keys
}

func wantList(t *testing.T, s kv, prefix string, want ...string) {
	t.Helper()
	if got := list(t, s, prefix); !slices.Equal(got, want) {
		t.Fatalf("List(%q) = %q, want %q", prefix, got, want)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
