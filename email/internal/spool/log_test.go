package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// roomyDisk says itself how much room it has.
type roomyDisk struct {
	*simDisk
	left, asked atomic.Int64
	full        atomic.Bool // there is none for a segment either
}

func (d *roomyDisk) create(name string) (file, error) {
	if d.full.Load() {
		return nil, syscall.ENOSPC
	}
	return d.simDisk.create(name)
}

func (d *roomyDisk) free() (int64, error) {
	d.asked.Add(1)
	return d.left.Load(), nil
}

// The disk is asked for each message only where room is short.
func TestRoomIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &roomyDisk{simDisk: newSimDisk()}
		d.left.Store(10 << 20)
		s, err := openLog(d, Options{Headroom: 1 << 20, SegmentSize: minSegmentSize})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		want := func(asked int64, err error) {
			t.Helper()
			before := d.asked.Load()
			for range 10 {
				draft, got := s.Draft(t.Context())
				if got == nil {
					draft.Discard()
				}
				if !errors.Is(got, err) {
					t.Errorf("got %v, want %v", got, err)
				}
			}
			if n := d.asked.Load() - before; n != asked {
				t.Errorf("asked %d times, want %d", n, asked)
			}
		}
		time.Sleep(time.Second)
		want(1, nil)
		d.left.Store(3 << 19) // less than twice the headroom
		want(0, nil)
		time.Sleep(time.Second)
		want(10, nil)
		d.left.Store(1 << 19)
		want(10, ErrFull)
		d.left.Store(10 << 20)
		want(1, nil)
		d.left.Store(0)
		d.full.Store(true)
		if err := add(s, NewID(time.Now()), nil, []byte("hello")); !errors.Is(err, ErrFull) {
			t.Errorf("a message without room: %v", err)
		}
		want(10, ErrFull) // at once
	})
}

// TestFull has a small file system of its own.
func TestFull(t *testing.T) {
	testenv.Goroutines(t)
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		testenv.Lacks(t, "root on Linux, to mount a small file system")
	}
	folder := t.TempDir()
	mount(t, folder, 8<<20)
	const segment = 1 << 20
	s := openTestLog(t, folder, Options{SegmentSize: segment, Headroom: 2 << 20})
	s.askEvery = 0
	var all []ID
	var err error
	for range 1000 {
		id := NewID(time.Now())
		if err = add(s, id, nil, pattern(7, 100_000)); err != nil {
			break
		}
		all = append(all, id)
	}
	if !errors.Is(err, ErrFull) || len(all) < 20 {
		t.Fatalf("%d messages, then %v", len(all), err)
	}
	if _, err := s.Draft(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("a draft without headroom: %v", err)
	}
	// Somebody else takes the rest.
	other := filepath.Join(folder, "other")
	f, err := os.Create(other)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	// What is there is readable, gets new states and is removed, and with that
	// there is room again.
	for i, id := range all {
		state := fmt.Append(nil, "state ", i)
		if err := s.SetState(t.Context(), id, state); err != nil {
			t.Fatalf("a state on a full disk: %v", err)
		}
		if err := check(s, id, nil, state, pattern(7, 100_000)); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatalf("removing on a full disk: %v", err)
		}
	}
	testenv.WaitFor(t, 20*time.Second, func() error {
		if st := s.Stats(); st.Segments > 3 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	id := mustAdd(t, s, nil, pattern(8, 100_000))
	if err := check(s, id, nil, nil, pattern(8, 100_000)); err != nil {
		t.Error(err)
	}

	// A draft that fills the disk while it comes.
	s2 := openTestLog(t, filepath.Join(folder, "second"), Options{SegmentSize: segment})
	d, err := s2.Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err = d.Write(make([]byte, 50_000)); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("a draft larger than the disk: %v", err)
	}
	if err := s2.Add(t.Context(), NewID(time.Now()), nil, d); !errors.Is(err, ErrDraft) || !errors.Is(err, ErrFull) {
		t.Errorf("it was added: %v", err)
	}
	d.Discard()
	mustAdd(t, s2, nil, pattern(9, 100_000))
}

// TestInUse: one process has it.
func TestInUse(t *testing.T) {
	folder := t.TempDir()
	s := openTestLog(t, folder, Options{})
	if _, err := OpenLog(folder, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	openTestLog(t, folder, Options{})
}

// TestMemoryOfDrafts: a draft of 50 MB, and 2,000 slow ones, cost little.
func TestMemoryOfDrafts(t *testing.T) {
	s := openTestLog(t, t.TempDir(), Options{})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	piece := pattern(1, 32<<10)
	before := allocated()
	d, err := s.Draft(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 50 << 20 / len(piece) {
		if _, err := d.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	id := NewID(time.Now())
	if err := s.Add(t.Context(), id, nil, d); err != nil {
		t.Fatal(err)
	}
	b, err := s.Body(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if n := allocated() - before; n > 3<<20 { // all of it, also what is garbage by now
		t.Errorf("a message of 50 MB took %d bytes of memory", n)
	} else {
		t.Logf("a message of 50 MB took %d bytes of memory", n)
	}

	start := heap()
	var drafts []*Draft
	for range 2000 {
		d, err := s.Draft(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.Write(piece[:5000])
		drafts = append(drafts, d)
	}
	if n := heap() - start; n > 16<<20 {
		t.Errorf("2,000 drafts of 5 kB take %d bytes", n)
	}
	for _, d := range drafts[:150] { // 37 MiB, if they could
		for range 8 {
			if _, err := d.Write(piece[:31<<10]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := heap() - start; n > 40<<20 {
		t.Errorf("with 150 large ones they take %d bytes", n)
	}
	for _, d := range drafts {
		d.Discard()
	}
	if n := s.drafts.memory.used.Load(); n != 0 {
		t.Errorf("%d bytes are still on the books", n)
	}
}
