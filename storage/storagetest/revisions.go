package storagetest

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
)

func item(t *testing.T, s *storage.Store, key string) storage.Item {
	t.Helper()
	it, err := s.GetItem(t.Context(), key)
	if err != nil {
		t.Fatalf("GetItem(%q): %v", key, err)
	}
	if it.Key != key || it.Revision == "" {
		t.Fatalf("GetItem(%q) = %+v, want the key and a revision", key, it)
	}
	return it
}

func storeCreate(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	rev, err := s.Create(t.Context(), "k", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if it := item(t, s, "k"); it.Revision != rev {
		t.Errorf("Create returned revision %q, GetItem %q", rev, it.Revision)
	}
	_, err = s.Create(t.Context(), "k", []byte("2"))
	wantErr(t, "Create of what exists", err, storage.ErrExists)
	wantValue(t, s, "k", "1")
	del(t, s, "k")
	if _, err := s.Create(t.Context(), "k", []byte("3")); err != nil {
		t.Errorf("Create after Delete: %v", err)
	}
	put(t, s, "empty", "")
	_, err = s.Create(t.Context(), "empty", []byte("x"))
	wantErr(t, "Create where there is an empty value", err, storage.ErrExists)

	s = reopen(t, s, b)
	_, err = s.Create(t.Context(), "k", []byte("4"))
	wantErr(t, "Create of what exists since before a restart", err, storage.ErrExists)
	wantValue(t, s, "k", "3")
}

func storeCompareAndSwap(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	cas := func(rev storage.Revision, v string) (storage.Revision, error) {
		return s.CompareAndSwap(t.Context(), "k", rev, []byte(v))
	}
	_, err := cas("", "x")
	wantErr(t, "CompareAndSwap of nothing", err, storage.ErrConflict)
	_, err = cas("made-up", "x")
	wantErr(t, "CompareAndSwap of nothing", err, storage.ErrConflict)
	wantMissing(t, s, "k")

	put(t, s, "k", "A")
	first := item(t, s, "k").Revision
	if again := item(t, s, "k").Revision; again != first {
		t.Errorf("the revision changed from %q to %q and nobody wrote", first, again)
	}
	_, err = cas("", "x")
	wantErr(t, "CompareAndSwap with an empty revision", err, storage.ErrConflict)
	second, err := cas(first, "B")
	if err != nil {
		t.Fatal(err)
	}
	if it := item(t, s, "k"); it.Revision != second || string(it.Value) != "B" {
		t.Errorf("after CompareAndSwap to %q: %+v", second, it)
	}
	_, err = cas(first, "C")
	wantErr(t, "CompareAndSwap with an old revision", err, storage.ErrConflict)
	wantValue(t, s, "k", "B")

	// Back to the first bytes is not back to the first revision.
	put(t, s, "k", "A")
	_, err = cas(first, "C")
	wantErr(t, "CompareAndSwap after A, B, A", err, storage.ErrConflict)
	third := item(t, s, "k").Revision
	put(t, s, "k", "A")
	_, err = cas(third, "C")
	wantErr(t, "CompareAndSwap after the same bytes were put again", err, storage.ErrConflict)
	fourth := item(t, s, "k").Revision
	del(t, s, "k")
	_, err = cas(fourth, "C")
	wantErr(t, "CompareAndSwap after Delete", err, storage.ErrConflict)
	put(t, s, "k", "A")
	_, err = cas(fourth, "C")
	wantErr(t, "CompareAndSwap after Delete and Put", err, storage.ErrConflict)

	// A value from before a restart can be swapped as well.
	s = reopen(t, s, b)
	if _, err := cas(item(t, s, "k").Revision, "D"); err != nil {
		t.Errorf("CompareAndSwap after a restart: %v", err)
	}
	wantValue(t, s, "k", "D")
}

func storeContention(t *testing.T, b storage.Backend) {
	s := openStore(t, b)
	const workers, rounds = 8, 10
	var wins atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			switch _, err := s.Create(t.Context(), "once", []byte(strconv.Itoa(w))); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, storage.ErrExists):
				t.Errorf("Create: %v", err)
			}
			for range rounds {
				err := s.Update(t.Context(), "counter", func(old []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(old)) // nil is 0
					return strconv.AppendInt(nil, int64(n+1), 10), nil
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := wins.Load(); n != 1 {
		t.Errorf("%d of %d concurrent Creates succeeded, want 1", n, workers)
	}
	wantValue(t, s, "counter", strconv.Itoa(workers*rounds))

	stop := errors.New("stop")
	err := s.Update(t.Context(), "counter", func([]byte) ([]byte, error) { return nil, stop })
	wantErr(t, "Update whose function fails", err, stop)
	wantValue(t, s, "counter", strconv.Itoa(workers*rounds))
}
