package opsapi

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// unsure is a storage whose writes to keys with a prefix fail, and are done all the
// same: at once, or when late is called.
type unsure struct {
	storage.Backend
	prefix string
	atOnce bool
	late   func()
}

func openUnsure(t *testing.T) (*unsure, *storage.Store) {
	t.Helper()
	u := &unsure{Backend: storage.Memory()}
	store, err := storage.Open(t.Context(), struct{ storage.Backend }{u})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return u, store
}

func (u *unsure) Put(ctx context.Context, key string, value []byte) error {
	if u.prefix == "" || !strings.HasPrefix(key, u.prefix) {
		return u.Backend.Put(ctx, key, value)
	}
	if u.atOnce {
		return errors.Join(errors.New("no answer"), u.Backend.Put(ctx, key, value))
	}
	u.prefix, value = "", bytes.Clone(value)
	u.late = func() { _ = u.Backend.Put(context.Background(), key, value) }
	return errors.New("no answer")
}

// A change that was refused as its storage did not answer is not in force after a
// restart, though it has been written; nor does it have the number of another.
func TestRefusedChangeThatWasWritten(t *testing.T) {
	for _, c := range []struct {
		name, prefix string
		atOnce       bool
		next         time.Duration // of the change after that; -1: none
		restart      bool          // before that
		want         string
	}{
		{"version", versionPrefix, true, -1, false, "kept"},
		{"version, late", versionPrefix, false, 0, false, "next"},
		{"version, after a restart", versionPrefix, false, 0, true, "kept"},
		{"head", headKey, true, -1, false, "kept"},
		{"head, late", headKey, false, -1, false, "kept"},
		{"head, after one that waits", headKey, false, time.Hour, false, "kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend, store := openUnsure(t)
			h := newHost()
			x := openHistory(t, h, store)
			if _, err := x.apply(t.Context(), greetChange(h, "kept", 0)); err != nil {
				t.Fatal(err)
			}
			backend.prefix, backend.atOnce = c.prefix, c.atOnce
			if _, err := x.apply(t.Context(), greetChange(h, "refused", 0)); err == nil {
				t.Error("it was applied")
			}
			backend.prefix = ""
			if c.restart {
				x.close()
				x = openHistory(t, h, store)
			}
			if c.next >= 0 {
				if _, err := x.apply(t.Context(), greetChange(h, "next", c.next)); err != nil {
					t.Fatal(err)
				}
			}
			x.close()
			if backend.late != nil {
				backend.late()
			}
			for range 2 {
				x = openHistory(t, h, store)
				if h.greeting() != c.want || x.v.head.pending() {
					t.Errorf("the host says %q, want %q: %+v", h.greeting(), c.want, x.v)
				}
				x.close()
			}
		})
	}
}
