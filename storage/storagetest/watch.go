package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// watched collects events until its context ends.
type watched struct {
	mu     sync.Mutex
	last   map[string]storage.EventType // of each key; overflow under ""
	err    error
	cancel context.CancelFunc
	done   chan struct{}
}

func watch(t *testing.T, s *storage.Store, prefix string) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{last: make(map[string]storage.EventType), cancel: cancel, done: make(chan struct{})}
	events := s.Watch(ctx, prefix) // from here on, not from the first read
	go func() {
		defer close(w.done)
		for ev, err := range events {
			w.mu.Lock()
			if err != nil {
				w.err = err
			} else {
				w.last[ev.Key] = ev.Type
			}
			w.mu.Unlock()
		}
	}()
	return w
}

func (w *watched) saw(key string, typ storage.EventType) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[key] == typ
}

func (w *watched) end(t *testing.T) {
	t.Helper()
	w.cancel()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatal("a Watch does not end with its context")
	}
	wantErr(t, "the end of a Watch", w.err, context.Canceled)
}

func storeWatch(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	put(t, s, "a/before", "x")
	all, below := watch(t, s, ""), watch(t, s, "a")
	put(t, s, "a/put", "1")
	put(t, s, "ab", "1")
	put(t, s, "a/deleted", "1")
	del(t, s, "a/deleted")
	if _, err := s.Create(t.Context(), "a/created", nil); err != nil {
		t.Fatal(err)
	}
	put(t, s, "a/ttl", "1", storage.TTL(100*time.Millisecond))
	for key, typ := range map[string]storage.EventType{
		"a/put": storage.EventPut, "a/deleted": storage.EventDelete, "a/created": storage.EventPut,
	} {
		eventually(t, fmt.Sprintf("event %v of %q", typ, key), func() bool { return all.saw(key, typ) && below.saw(key, typ) })
	}
	eventually(t, "event of ab", func() bool { return all.saw("ab", storage.EventPut) })
	eventually(t, "event of an expired value", func() bool {
		s.Get(t.Context(), "a/ttl") // some backends notice only then
		return all.saw("a/ttl", storage.EventDelete)
	})
	all.end(t)
	below.end(t)
	for key := range below.last {
		if !storage.MatchPrefix(key, "a") || key == "a/before" {
			t.Errorf("a Watch of %q reports %q", "a", key)
		}
	}
	for key := range all.last {
		if storage.MatchPrefix(key, "_meta") {
			t.Errorf("a Watch reports %q, which belongs to the storage itself", key)
		}
	}
}

// storeWatchSlow: who does not read holds up nobody, and hears in the end.
func storeWatchSlow(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := s.Watch(ctx, "")
	unread := s.Watch(ctx, "") // never ranged over
	for i := range 100 {
		put(t, s, fmt.Sprintf("k%d", i%10), fmt.Sprint(i))
	}
	put(t, s, "last", "x")
	seen := 0
	timeout := time.AfterFunc(patience, cancel)
	defer timeout.Stop()
	for ev, err := range events {
		if err != nil {
			t.Fatalf("Watch ended before it reported the last change: %v", err)
		}
		seen++
		if ev.Key == "last" || ev.Type == storage.EventOverflow {
			break
		}
	}
	if seen > 101 {
		t.Errorf("%d events for 101 writes", seen)
	}
	cancel()
	for _, err := range unread {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	}
}
