package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDied = errors.New("the host died")

// mortalHost is a host whose writes fail after some. The first one that fails
// may have happened all the same.
type mortalHost struct {
	mu      sync.Mutex
	values  map[string][]byte
	writes  int // that succeeded
	left    int // until it dies; negative: never
	through bool
}

func (h *mortalHost) change(do func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.left < 0:
	case h.left == 0:
		if h.through {
			do()
			h.through = false
		}
		return errDied
	default:
		h.left--
	}
	h.writes++
	do()
	return nil
}

func (h *mortalHost) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.values)
}

// dieAfter sets how many writes are left; -1 is for ever.
func (h *mortalHost) dieAfter(writes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = writes
}

func (h *mortalHost) read(_ context.Context, key string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v, ok := h.values[key]; ok {
		return slices.Clone(v), nil
	}
	return nil, nil
}

func (h *mortalHost) write(_ context.Context, key string, value []byte) error {
	return h.change(func() { h.values[key] = append([]byte{}, value...) })
}

func (h *mortalHost) delete(_ context.Context, key string) error {
	return h.change(func() { delete(h.values, key) })
}

func (h *mortalHost) list(context.Context, string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.values)), nil
}

// four is a Backend with four methods on a mortalHost.
type four struct{ h *mortalHost }

func (f four) Get(ctx context.Context, key string) ([]byte, error) {
	v, err := f.h.read(ctx, key)
	if v == nil && err == nil {
		err = ErrNotFound
	}
	return v, err
}
func (f four) Put(ctx context.Context, key string, value []byte) error {
	return f.h.write(ctx, key, value)
}
func (f four) Delete(ctx context.Context, key string) error { return f.h.delete(ctx, key) }
func (f four) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, _ := f.h.list(ctx, prefix)
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
}

// TestEveryCrashPoint runs the operations of the crash test on a host that
// dies after its n-th write, for every n, and looks at what is left.
func TestEveryCrashPoint(t *testing.T) {
	backends := map[string]func(h *mortalHost) Backend{
		"plain":       func(h *mortalHost) Backend { return four{h} },
		"funcs":       func(h *mortalHost) Backend { return Funcs(h.read, h.write) },
		"funcsDelete": func(h *mortalHost) Backend { return Funcs(h.read, h.write, WithDelete(h.delete)) },
		"funcsList":   func(h *mortalHost) Backend { return Funcs(h.read, h.write, WithList(h.list)) },
	}
	for name, backend := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(2) {
				for n := range 120 {
					for _, through := range []bool{false, true} {
						h := &mortalHost{values: make(map[string][]byte), left: n, through: through}
						synctest.Test(t, func(t *testing.T) { liveAndDie(t, seed, h, backend) })
						if t.Failed() {
							t.Fatalf("seed %d, died after %d writes, last one done: %v", seed, n, through)
						}
					}
				}
			}
		})
	}
}

func liveAndDie(t *testing.T, seed uint64, h *mortalHost, backend func(*mortalHost) Backend) {
	ctx := t.Context()
	lane := &crashLane{may: make(map[string][]crashState)}
	next := crashOps(seed, 0, time.Now())
	fast := func(c *openConfig) { c.sweepPause = 10 * time.Millisecond }
	s, err := Open(ctx, backend(h), fast)
	if err == nil {
		for {
			time.Sleep(3 * time.Millisecond) // so that values expire; the clock is not the real one
			op := next()
			err := op.run(s)
			if errors.Is(err, errDied) {
				lane.may[op.key] = append(slices.Clone(lane.states(op.key)), crashState{op.value, op.expires})
				break
			} else if err != nil {
				t.Fatal(err)
			}
			lane.may[op.key] = []crashState{{op.value, op.expires}}
		}
		// The process may live on when its host does not. A write that failed
		// may still show later.
		if err := lane.compare(s, false); err != nil {
			t.Errorf("before the restart: %v", err)
		}
		s.Close()
	} else if !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	h.left = -1
	for _, wait := range []time.Duration{0, time.Second} {
		s, err := Open(ctx, backend(h), fast)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
		if err := lane.compare(s, true); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		s.Close()
	}
	for k, v := range h.values { // what expired is gone from the host, and its record
		if MatchPrefix(k, expiryRoot+"/") && string(v) != tombstone {
			var entries []expiryEntry
			if err := json.Unmarshal(v, &entries); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(entries, func(e expiryEntry) bool { return !expired(e.Expires, time.Now()) }) {
				t.Errorf("%s is left, but everything in it is over: %s", k, v)
			}
		}
	}
}

// compare checks the keys of worker 0. With narrow, what it sees is settled
// from then on.
func (l *crashLane) compare(s *Store, narrow bool) error {
	for k := range crashKeys {
		for _, sub := range []string{"", "/sub/x"} {
			key := fmt.Sprintf("w0/k%d%s", k, sub)
			now := time.Now()
			value, err := s.Get(context.Background(), key)
			if err != nil && !isNotFound(err) {
				return err
			}
			may := slices.DeleteFunc(slices.Clone(l.states(key)), func(c crashState) bool { return !c.allows(value, now, now) })
			if len(may) == 0 {
				return fmt.Errorf("%s holds %v, but may hold only %v", key, crashState{value: value}, l.states(key))
			}
			if value == nil {
				may = nil
			}
			if narrow {
				l.may[key] = may
			}
			listed := false
			for k, err := range s.List(context.Background(), key) {
				if err != nil {
					return err
				}
				listed = listed || k == key
			}
			if listed != (value != nil) {
				return fmt.Errorf("%s: listed %v, has a value %v", key, listed, value != nil)
			}
		}
	}
	return nil
}
