package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpenErrors(t *testing.T) {
	newer := Memory()
	newer.Put(t.Context(), schemaKey, []byte("2"))
	for what, open := range map[string]func() (*Store, error){
		"no backend":     func() (*Store, error) { return Open(t.Context(), nil) },
		"nil logger":     func() (*Store, error) { return Open(t.Context(), Memory(), WithLogger(nil)) },
		"no value size":  func() (*Store, error) { return Open(t.Context(), Memory(), WithMaxValueSize(0)) },
		"newer schema":   func() (*Store, error) { return Open(t.Context(), newer) },
		"no functions":   func() (*Store, error) { return Open(t.Context(), Funcs(nil, nil)) },
		"missing folder": func() (*Store, error) { return Open(t.Context(), Dir("")) },
	} {
		s, err := open()
		if err == nil || s != nil {
			t.Errorf("%s: Open succeeds", what)
			continue
		}
		if !strings.HasPrefix(err.Error(), "storage: ") {
			t.Errorf("%s: the error does not say where it is from: %v", what, err)
		}
		if (what == "newer schema") != errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestErrors(t *testing.T) {
	s := mustOpen(t, Memory(), WithMaxValueSize(3))
	_, err := s.Get(t.Context(), "/a/b")
	var ke *KeyError
	if !errors.As(err, &ke) || ke.Op != "get" || ke.Key != "a/b" || !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of nothing: %#v", err)
	}
	if want := `storage: get "a/b": not found`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if err := s.Put(t.Context(), "a", []byte("1234")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Put of 4 bytes where 3 are allowed: %v", err)
	}
	mustPut(t, s, "a", "123")
	_, err = s.Create(t.Context(), "a", nil)
	if !errors.Is(err, ErrExists) || !errors.Is(err, fs.ErrExist) || errors.Is(err, ErrNotFound) {
		t.Errorf("Create: %v", err)
	}
}

// TestCaps: what is native is used, what is not is done here.
func TestCaps(t *testing.T) {
	all := Caps{NativeRevisions: true, NativeTTL: true, NativeWatch: true, NativeLeases: true}
	if got := mustOpen(t, Memory()).Caps(); got != all {
		t.Errorf("Memory: %+v", got)
	}
	if got := mustOpen(t, four{&mortalHost{values: map[string][]byte{}, left: -1}}).Caps(); got != (Caps{}) {
		t.Errorf("plain: %+v", got)
	}
	all.ClusterSafe = true
	if got := mustOpen(t, clustered{Memory().(*memory)}).Caps(); got != all {
		t.Errorf("clustered: %+v", got)
	}
	if got := mustOpen(t, struct {
		four
		clusteredFlag
	}{four{&mortalHost{values: map[string][]byte{}, left: -1}}, clusteredFlag{}}).Caps(); got.ClusterSafe {
		t.Errorf("a backend that has nothing native counts as cluster-safe: %+v", got)
	}
}

type clusteredFlag struct{}

func (clusteredFlag) ClusterSafe() bool { return true }

type clustered struct{ *memory }

func (clustered) ClusterSafe() bool { return true }

// TestMixedUpgrades: native revisions with expiry kept by the Store.
func TestMixedUpgrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type conditionalOnly struct {
			Backend
			Conditional
		}
		m := Memory().(*memory)
		s := mustOpen(t, conditionalOnly{m, m})
		if c := s.Caps(); !c.NativeRevisions || c.NativeTTL {
			t.Fatalf("Caps = %+v", c)
		}
		mustPut(t, s, "a", "x", TTL(time.Minute))
		mustPut(t, s, "b", "x", TTL(time.Minute))
		it, err := s.GetItem(t.Context(), "b")
		if err != nil || it.Expires.IsZero() {
			t.Fatalf("GetItem = %+v, %v", it, err)
		}
		if _, err := s.CompareAndSwap(t.Context(), "b", it.Revision, []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		wantGone(t, s, "a")
		wantGet(t, s, "b", "x")
		if _, err := s.Create(t.Context(), "a", []byte("y")); err != nil {
			t.Fatalf("Create over an expired value: %v", err)
		}
		time.Sleep(time.Minute)
		wantGet(t, s, "a", "y")
	})
}

// TestExpiryRecords: expired values and their records leave the backend.
func TestExpiryRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &mortalHost{values: map[string][]byte{}, left: -1}
		s := mustOpen(t, four{h})
		mustPut(t, s, "hour", "x", TTL(time.Hour))
		mustPut(t, s, "minute", "x", TTL(time.Minute))
		if h.len() != 5 {
			t.Errorf("two values, their records and the schema are %d values", h.len())
		}
		events := s.Watch(t.Context(), "")
		time.Sleep(time.Minute)
		wantGone(t, s, "minute")
		time.Sleep(2 * time.Second)
		if v, _ := h.read(t.Context(), "minute"); v != nil || h.len() != 3 {
			t.Errorf("2 s after a value expired the backend has %d values, want 3", h.len())
		}
		for ev, err := range events {
			if want := (Event{EventDelete, "minute"}); ev != want || err != nil {
				t.Errorf("event %+v, %v; want %+v", ev, err, want)
			}
			break
		}

		// A host that fails is tried again, and the log says so.
		var log bytes.Buffer
		h.dieAfter(0)
		s2 := mustOpen(t, four{h}, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		time.Sleep(2 * time.Hour)
		if err := s2.Close(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "hour") || !strings.Contains(log.String(), errDied.Error()) {
			t.Errorf("log: %.300s", log.String())
		}
		h.dieAfter(-1)
		time.Sleep(3 * time.Second)
		if v, _ := h.read(t.Context(), "hour"); v != nil || h.len() != 1 {
			t.Errorf("after the host recovered it has %d values, want 1", h.len())
		}
	})
}

func TestExpiryRecordCorrupt(t *testing.T) {
	h := &mortalHost{values: map[string][]byte{expiryKey("a"): []byte("{")}, left: -1}
	if _, err := Open(t.Context(), four{h}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), expiryKey("a")) {
		t.Errorf("Open: %v; want ErrCorrupt and the key", err)
	}
}

// TestGoingAround: a host changes values behind the Store's back.
func TestGoingAround(t *testing.T) {
	b := four{&mortalHost{values: map[string][]byte{}, left: -1}}
	s := mustOpen(t, b)
	mustPut(t, s, "a", "1", TTL(time.Hour))
	it, err := s.GetItem(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	b.Put(t.Context(), "a", []byte("2"))
	if _, err := s.CompareAndSwap(t.Context(), "a", it.Revision, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("CompareAndSwap: %v", err)
	}
	if it, err = s.GetItem(t.Context(), "a"); string(it.Value) != "2" || !it.Expires.IsZero() || err != nil {
		t.Errorf("GetItem = %+v, %v; the time of expiry was that of another value", it, err)
	}
}

// TestTwoStores: two Stores on one Memory are like two processes of a cluster.
func TestTwoStores(t *testing.T) {
	m := Memory()
	a, b := mustOpen(t, m), mustOpen(t, m)
	events := b.Watch(t.Context(), "k")
	mustPut(t, a, "k", "1")
	it, err := b.GetItem(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, a, "k", "2")
	if _, err := b.CompareAndSwap(t.Context(), "k", it.Revision, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("CompareAndSwap after another Store's Put: %v", err)
	}
	for ev, err := range events {
		if want := (Event{EventPut, "k"}); ev != want || err != nil {
			t.Errorf("event %+v, %v; want %+v", ev, err, want)
		}
		break
	}
	l, err := a.Acquire(t.Context(), "l", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.TryAcquire(t.Context(), "l", time.Minute); !errors.Is(err, ErrLocked) {
		t.Errorf("TryAcquire of another Store's lease: %v", err)
	}
	if err := a.Close(); err != nil { // gives it back
		t.Fatal(err)
	}
	l2, err := b.TryAcquire(t.Context(), "l", time.Minute)
	if err != nil || l2.Token() <= l.Token() {
		t.Errorf("TryAcquire after the other Store was closed: %v", err)
	}
}

// TestWatchOverflow: events that nobody reads do not pile up.
func TestWatchOverflow(t *testing.T) {
	s := mustOpen(t, four{&mortalHost{values: map[string][]byte{}, left: -1}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	same, many := s.Watch(ctx, "same"), s.Watch(ctx, "")
	for i := range watchBacklog + 10 {
		mustPut(t, s, "same", fmt.Sprint(i))
		mustPut(t, s, fmt.Sprintf("k%d", i), "x")
	}
	if err := s.Delete(ctx, "same"); err != nil {
		t.Fatal(err)
	}
	for ev, err := range same {
		if want := (Event{EventDelete, "same"}); ev != want || err != nil {
			t.Errorf("event %+v, %v; want the last of the key, %+v", ev, err, want)
		}
		break
	}
	n := 0
	for ev, err := range many {
		if n++; n == 1 {
			if ev.Type != EventOverflow || err != nil {
				t.Fatalf("event %+v, %v; want an overflow", ev, err)
			}
			mustPut(t, s, "after", "x") // and then it goes on
			continue
		}
		if want := (Event{EventPut, "after"}); ev != want || err != nil {
			t.Errorf("event %+v, %v; want %+v", ev, err, want)
		}
		break
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if len(s.hub.subs) != 0 {
		t.Errorf("%d watches are left", len(s.hub.subs))
	}
}

// TestHangingBackend: waiting for a key that somebody else writes ends with
// the context.
func TestHangingBackend(t *testing.T) {
	hang, entered := make(chan struct{}), make(chan struct{})
	h := &mortalHost{values: map[string][]byte{}, left: -1}
	s := mustOpen(t, Funcs(h.read, func(ctx context.Context, key string, value []byte) error {
		if key == "a" {
			close(entered)
			<-hang
		}
		return h.write(ctx, key, value)
	}, WithList(h.list)))
	done := make(chan error)
	go func() { done <- s.Put(context.Background(), "a", nil) }()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, "a", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put behind one that hangs: %v", err)
	}
	close(hang)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(s.locks.locks) != 0 {
		t.Errorf("%d key locks are left", len(s.locks.locks))
	}
}

// hooked calls a function before each Get.
type hooked struct {
	Backend
	before func(key string)
}

func (h *hooked) Get(ctx context.Context, key string) ([]byte, error) {
	if h.before != nil {
		h.before(key)
	}
	return h.Backend.Get(ctx, key)
}

// TestReadDuringWrite: a value that is put between the look at what is known
// here and the look at the backend comes with its own revision and expiry.
func TestReadDuringWrite(t *testing.T) {
	h := &hooked{Backend: four{&mortalHost{values: map[string][]byte{}, left: -1}}}
	s := mustOpen(t, h)
	mustPut(t, s, "a", "old")
	puts := 0
	h.before = func(key string) {
		if puts++; key == "a" && puts == 1 {
			mustPut(t, s, "a", "new", TTL(time.Hour))
		}
	}
	it, err := s.GetItem(t.Context(), "a")
	if err != nil || string(it.Value) != "new" || it.Expires.IsZero() {
		t.Fatalf("GetItem = %+v, %v", it, err)
	}
	if _, err := s.CompareAndSwap(t.Context(), "a", it.Revision, nil); err != nil {
		t.Errorf("CompareAndSwap: %v", err)
	}
}
