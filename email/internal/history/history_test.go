package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func openStore(t testing.TB, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t testing.TB, cfg Config) *History {
	t.Helper()
	h, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close(context.Background()) })
	return h
}

func want(t testing.TB, h *History, id, want string) {
	t.Helper()
	got, err := h.Get(t.Context(), id)
	if want == "" && errors.Is(err, ErrNotFound) {
		return
	}
	if err != nil || string(got) != want {
		t.Errorf("%s: %.50q, %v, not %.50q", id, got, err, want)
	}
}

func data(i int) string {
	return fmt.Sprintf(`{"id":%d,"timeline":"%s"}`, i, strings.Repeat("attempt ", i%50))
}

func keys(t testing.TB, s *storage.Store) (list []string) {
	for key, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, key)
	}
	return list
}

func TestRestart(t *testing.T) {
	testenv.Goroutines(t)
	for _, name := range []string{"memory", "storage"} {
		t.Run(name, func(t *testing.T) {
			var cfg Config
			if name == "storage" {
				cfg.Store = openStore(t, storage.Dir(testenv.Folder(t)))
			}
			h := open(t, cfg)
			const n = 2000
			for i := range n {
				h.Put(fmt.Sprint(i), time.Now(), []byte(data(i)))
				if i == 700 {
					if err := h.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			h.Put("7", time.Now(), []byte("again"))
			check := func() {
				t.Helper()
				for i := 0; i < n; i += 41 {
					want(t, h, fmt.Sprint(i), data(i))
				}
				want(t, h, "7", "again")
				want(t, h, "x", "")
				if h.Len() != n {
					t.Errorf("%d records", h.Len())
				}
			}
			check()
			if err := h.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.Put("late", time.Now(), nil)
			check()
			if cfg.Store != nil {
				if got := len(keys(t, cfg.Store)); got != 4 {
					t.Errorf("%d chunks", got)
				}
				h = open(t, cfg)
				h.Put("new", time.Now(), []byte("x"))
				want(t, h, "new", "x")
				var ids []string
				for id := range h.All() {
					ids = append(ids, id)
				}
				if len(ids) != n+1 || ids[0] != "new" || ids[1] != "7" || ids[2] != "1999" || slices.Contains(ids[2:], "7") {
					t.Errorf("%d in all: %q", len(ids), ids[:5])
				}
				h.Close(t.Context())
				h = open(t, cfg)
				want(t, h, "3", data(3))
			}
		})
	}
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openStore(t, storage.Memory())
		h := open(t, Config{Store: store, MaxCount: 2 * chunkRecords, MaxAge: time.Hour})
		for i := range 5 * chunkRecords {
			h.Put(fmt.Sprint(i), time.Now(), []byte(data(i)))
			if i%100 == 0 {
				time.Sleep(6 * time.Second)
			}
		}
		time.Sleep(6 * time.Second)
		if n := h.Len(); n > 2*chunkRecords || n < chunkRecords {
			t.Errorf("%d records", n)
		}
		if n := len(keys(t, store)); n != 2 {
			t.Errorf("%d chunks", n)
		}
		want(t, h, "0", "")
		want(t, h, fmt.Sprint(5*chunkRecords-1), data(5*chunkRecords-1))
		time.Sleep(time.Hour)
		want(t, h, fmt.Sprint(5*chunkRecords-1), "")
		if n := len(keys(t, store)); n != 0 || h.Len() != 0 {
			t.Errorf("after an hour there are %d chunks, %d records", n, h.Len())
		}
		h.Put(strings.Repeat("x", 300), time.Now(), nil)
		h.Put("large", time.Now(), make([]byte, MaxData+1))
		if h.Len() != 0 {
			t.Error("what is too long was taken")
		}
		h.Put("large", time.Now(), make([]byte, MaxData))
		time.Sleep(6 * time.Second)
		h.Close(t.Context())
		want(t, open(t, Config{Store: store}), "large", string(make([]byte, MaxData)))
	})
}

// broken is a backend that takes nothing of history.
type broken struct{ storage.Backend }

func (b broken) Put(ctx context.Context, key string, value []byte) error {
	if strings.HasPrefix(key, prefix) {
		return errors.New("disk full")
	}
	return b.Backend.Put(ctx, key, value)
}

func TestStorageFails(t *testing.T) {
	h := open(t, Config{Store: openStore(t, broken{storage.Memory()})})
	for i := range (maxUnsaved + 5) * chunkRecords {
		h.Put(fmt.Sprint(i), time.Now(), []byte("x"))
	}
	if err := h.Flush(t.Context()); err == nil || h.Len() != maxUnsaved*chunkRecords {
		t.Errorf("%v, %d records", err, h.Len())
	}
	want(t, h, fmt.Sprint((maxUnsaved+5)*chunkRecords-1), "x")
}

// TestChunkWithoutRecords: none is stored of what was forgotten before it was, and
// those of older versions go.
func TestChunkWithoutRecords(t *testing.T) {
	store := openStore(t, storage.Memory())
	empty, err := encodeChunk(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), prefix+"0", empty); err != nil {
		t.Fatal(err)
	}
	h := open(t, Config{Store: store, FlushEvery: time.Hour})
	h.expire()
	h.Put("a", time.Now(), []byte("x"))
	h.mu.Lock()
	c := h.chunks[len(h.chunks)-1]
	h.forget(len(h.chunks) - 1)
	h.mu.Unlock()
	if err := h.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.save(t.Context(), c); err != nil {
		t.Error(err)
	}
	if list := keys(t, store); len(list) != 0 {
		t.Errorf("%q is stored", list)
	}
}

// TestMemoryOfHistory measures a full history.
func TestMemoryOfHistory(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	h := open(t, Config{})
	const n = 20_000
	for i := range n {
		h.Put(fmt.Sprintf("0123456789abcdef%06d", i), time.Now(), bytes.Repeat([]byte(data(i)), 4))
	}
	used := (heap() - before) / n
	t.Logf("%d bytes a record", used)
	if used > 1000 {
		t.Errorf("%d bytes a record", used)
	}
	runtime.KeepAlive(h)
}

// FuzzChunk: damaged storage is an error, and nothing worse.
func FuzzChunk(f *testing.F) {
	good, err := encodeChunk([]record{{"a", 1, []byte("xx")}, {"b", 2, []byte("yyyy")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{chunkVersion, 1, 1, 'a', 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := readIndex(b)
		if err != nil {
			return
		}
		for i, e := range list {
			if got, err := readData(b, i); err == nil && len(got) != e.end-e.start {
				t.Errorf("%d bytes of %+v", len(got), e)
			}
		}
	})
}
