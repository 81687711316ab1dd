package certs

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dcrouter/dcrouter/storage"
)

// What certmagic's documentation demands of a storage.
func TestMagicStorage(t *testing.T) {
	for name, backend := range map[string]storage.Backend{"memory": storage.Memory(), "folder": storage.Dir(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			var s certmagic.Storage = &magicStorage{store: openStore(t, backend), root: "certificates/test"}
			ctx := t.Context()
			for _, err := range []error{s.Store(ctx, "a/b/c", []byte("1")), s.Store(ctx, "a/b/d", []byte("2")), s.Store(ctx, "a/e", []byte("3")), s.Store(ctx, "ab", []byte("4"))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if got, err := s.Load(ctx, "a/b/c"); err != nil || string(got) != "1" {
				t.Errorf("%q, %v", got, err)
			}
			for path, want := range map[string][2][]string{
				"":    {{"a", "ab"}, {"a", "a/b", "a/b/c", "a/b/d", "a/e", "ab"}},
				"a":   {{"a/b", "a/e"}, {"a/b", "a/b/c", "a/b/d", "a/e"}},
				"a/b": {{"a/b/c", "a/b/d"}, {"a/b/c", "a/b/d"}},
			} {
				for i, recursive := range []bool{false, true} {
					if got, err := s.List(ctx, path, recursive); err != nil || !slices.Equal(got, want[i]) {
						t.Errorf("%q %v: %q, %v", path, recursive, got, err)
					}
				}
			}
			for key, terminal := range map[string]bool{"a": false, "a/b": false, "a/b/c": true} {
				if info, err := s.Stat(ctx, key); err != nil || info.IsTerminal != terminal || !s.Exists(ctx, key) {
					t.Errorf("%s: %+v, %v", key, info, err)
				}
			}
			_, load := s.Load(ctx, "a/x")
			_, stat := s.Stat(ctx, "a/x")
			_, list := s.List(ctx, "a/x", true)
			for _, err := range []error{load, stat, list} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("missing: %v", err)
				}
			}
			if err := errors.Join(s.Delete(ctx, "a/b"), s.Delete(ctx, "a/b"), s.Delete(ctx, "nothing")); err != nil {
				t.Error(err)
			}
			if got, err := s.List(ctx, "", true); err != nil || !slices.Equal(got, []string{"a", "a/e", "ab"}) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestMagicLocks(t *testing.T) {
	store := openStore(t, storage.Memory())
	one, two := &magicStorage{store: store, root: "x"}, &magicStorage{store: store, root: "x"}
	if err := one.Lock(t.Context(), "name"); err != nil {
		t.Fatal(err)
	}
	if ok, err := two.TryLock(t.Context(), "name"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := two.Lock(ctx, "name"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := one.Unlock(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if ok, err := two.TryLock(t.Context(), "name"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if err := two.Unlock(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if err := two.Unlock(t.Context(), "name"); err == nil {
		t.Error("unlocked twice")
	}
}
