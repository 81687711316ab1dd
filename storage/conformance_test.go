package storage_test

import (
	"context"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/storage"
	"github.com/dcrouter/dcrouter/storage/storagetest"
)

// hostMap is a host's own store, as simple as can be.
type hostMap struct {
	mu     sync.Mutex
	values map[string][]byte
}

func newHostMap() *hostMap { return &hostMap{values: make(map[string][]byte)} }

func (h *hostMap) read(_ context.Context, key string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.values[key]), nil // nil: missing
}

func (h *hostMap) write(_ context.Context, key string, value []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values[key] = append([]byte{}, value...)
	return nil
}

func (h *hostMap) list(_ context.Context, prefix string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Keys(h.values)), func(k string) bool { return !strings.HasPrefix(k, prefix) }), nil
}

func (h *hostMap) delete(_ context.Context, key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.values, key)
	return nil
}

// plain is a Backend with the four methods and nothing else. Like many a
// database it lists by plain string prefix, in no order.
type plain struct{ host *hostMap }

func (p plain) Get(ctx context.Context, key string) ([]byte, error) {
	v, err := p.host.read(ctx, key)
	if v == nil && err == nil {
		err = &fs.PathError{Op: "read", Path: key, Err: fs.ErrNotExist}
	}
	return v, err
}

func (p plain) Put(ctx context.Context, key string, value []byte) error {
	return p.host.write(ctx, key, value)
}

func (p plain) Delete(ctx context.Context, key string) error { return p.host.delete(ctx, key) }

func (p plain) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, _ := p.host.list(ctx, prefix)
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// reborn makes a new backend each time it is opened, as a restart does.
type reborn struct {
	storage.Backend
	make func() storage.Backend
}

func (r *reborn) Open(ctx context.Context) error {
	r.Backend = r.make()
	return r.Backend.(storage.Opener).Open(ctx)
}

func (r *reborn) Close() error { return r.Backend.(storage.Opener).Close() }

func TestConformance(t *testing.T) {
	backends := map[string]func(t *testing.T) storage.Backend{
		"Memory": func(*testing.T) storage.Backend { return storage.Memory() },
		"Plain":  func(*testing.T) storage.Backend { return plain{newHostMap()} },
		"Dir": func(t *testing.T) storage.Backend {
			folder := t.TempDir()
			return &reborn{make: func() storage.Backend { return storage.Dir(folder) }}
		},
		"Funcs": func(*testing.T) storage.Backend {
			h := newHostMap()
			return &reborn{make: func() storage.Backend { return storage.Funcs(h.read, h.write) }}
		},
		"FuncsListDelete": func(*testing.T) storage.Backend {
			h := newHostMap()
			return storage.Funcs(h.read, h.write, storage.WithList(h.list), storage.WithDelete(h.delete))
		},
		"FuncsList": func(*testing.T) storage.Backend {
			h := newHostMap()
			return storage.Funcs(h.read, h.write, storage.WithList(h.list))
		},
		"FuncsDelete": func(*testing.T) storage.Backend {
			h := newHostMap()
			return storage.Funcs(h.read, h.write, storage.WithDelete(h.delete))
		},
	}
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, open)
		})
	}
}
