// Package teststore has storages for tests that do not do as they are told.
package teststore

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

// Stuck keeps its values in memory, until its writes hang.
type Stuck struct {
	storage.Backend
	now  atomic.Bool
	once sync.Once
	hung chan struct{}
	end  chan struct{}
}

// OpenStuck opens a storage whose writes hang between Stick and Free. Both end with
// the test.
func OpenStuck(t testing.TB) (*Stuck, *storage.Store) {
	t.Helper()
	s := &Stuck{Backend: storage.Memory(), hung: make(chan struct{}), end: make(chan struct{})}
	store, err := storage.Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Free()
		store.Close()
	})
	return s, store
}

// Stick has writes hang from now on, whatever their contexts say.
func (s *Stuck) Stick() { s.now.Store(true) }

// Free has them go on, for good.
func (s *Stuck) Free() {
	if s.now.Swap(false) {
		close(s.end)
	}
}

// Hung is closed when a write hangs.
func (s *Stuck) Hung() <-chan struct{} { return s.hung }

// Put is that of memory, later perhaps.
func (s *Stuck) Put(ctx context.Context, key string, value []byte) error {
	if s.now.Load() {
		s.once.Do(func() { close(s.hung) })
		<-s.end
	}
	return s.Backend.Put(ctx, key, value)
}
