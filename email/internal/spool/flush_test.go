package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// TestFailedFlush: who was in the batch is told, nobody flushes that file
// again, and the spool goes on.
func TestFailedFlush(t *testing.T) {
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	kept := mustAdd(t, s, nil, pattern(1, 1000))
	var failing atomic.Bool
	var failed string
	flushes := 0
	d.mu.Lock()
	d.fault = func(op, name string) error {
		if op == "sync" && failing.CompareAndSwap(true, false) {
			failed = name
			return syscall.EIO
		}
		if op == "sync" && name == failed {
			flushes++
		}
		return nil
	}
	d.mu.Unlock()
	for _, call := range []func() error{
		func() error { return add(s, NewID(time.Now()), nil, pattern(2, 1000)) },
		func() error { return s.SetState(t.Context(), kept, []byte("x")) },
		func() error { return s.Remove(t.Context(), kept) },
		func() error { return add(s, NewID(time.Now()), nil, pattern(2, 30_000)) },
	} {
		failing.Store(true)
		if err := call(); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrFull) {
			t.Errorf("a flush failed: %v", err)
		}
		if err := check(s, kept, nil, nil, pattern(1, 1000)); err != nil {
			t.Error(err)
		}
		if err := s.Remove(t.Context(), mustAdd(t, s, nil, nil)); err != nil {
			t.Errorf("after a failed flush: %v", err)
		}
	}
	d.mu.Lock()
	if flushes > 0 {
		t.Errorf("a file whose flush had failed was flushed %d times more", flushes)
	}
	d.mu.Unlock()
	if st := s.Stats(); st.WriteErrors != 3 || st.Messages != 1 || st.Drafts != 0 {
		t.Errorf("%+v", st)
	}
}

// TestFailedFlushTorn: what came to the disk of a batch whose flush failed is
// neither taken for messages nor for damage.
func TestFailedFlushTorn(t *testing.T) {
	for round := range uint64(40) {
		d := newSimDisk()
		s, err := openSim(d)
		if err != nil {
			t.Fatal(err)
		}
		kept := mustAdd(t, s, nil, pattern(1, 1000))
		failing := true
		d.mu.Lock()
		d.fault = func(op, name string) error {
			if op == "sync" && failing {
				failing = false
				return syscall.EIO
			}
			return nil
		}
		d.mu.Unlock()
		again := NewID(time.Now())
		if err := add(s, again, nil, pattern(2, 3000)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		want := []ID{kept}
		if round%2 == 0 { // somebody tries once more
			if err := add(s, again, nil, pattern(2, 3000)); err != nil {
				t.Fatal(err)
			}
			want = append(want, again)
		}
		want = append(want, mustAdd(t, s, nil, pattern(3, 1000)))
		after := d.crash(rand.New(rand.NewPCG(round, 0)))
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err = openSim(after)
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(t, s); !slices.Equal(got, want) || s.Stats().Damaged != 0 {
			t.Errorf("round %d: %v, %+v, want %v", round, got, s.Stats(), want)
		}
		for _, id := range want {
			if b, err := s.Body(t.Context(), id); err != nil {
				t.Errorf("round %d: %v", round, err)
			} else {
				b.Close()
			}
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecondTry: to take back what failed does not take a message that was
// added at a second try, however many there are to take back.
func TestSecondTry(t *testing.T) {
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	again := NewID(time.Now())
	for range 2000 { // more than go into a segment
		k, _ := NewID(time.Now()).key()
		s.failed = append(s.failed, k)
	}
	k, _ := again.key()
	s.failed = append(s.failed, k)
	if err := add(s, again, nil, nil); err != nil {
		t.Fatal(err)
	}
	for s.Stats().Segments < 6 {
		mustAdd(t, s, nil, pattern(1, 1000))
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.failed) > 0 {
		t.Errorf("%d are still to be taken back", len(s.failed))
	}
	s, err = openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := check(s, again, nil, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestRefusedStaysAway: a message that was refused, because a flush failed, is not
// there after a clean restart, though its bytes are on the disk.
func TestRefusedStaysAway(t *testing.T) {
	for name, first := range map[string]bool{"in a segment": false, "at its beginning": true} {
		t.Run(name, func(t *testing.T) {
			d := newSimDisk()
			s, err := openSim(d)
			if err != nil {
				t.Fatal(err)
			}
			var want []ID
			if !first {
				want = append(want, mustAdd(t, s, nil, pattern(1, 1000)))
			}
			flush, remove := true, true
			d.mu.Lock()
			d.fault = func(op, name string) error {
				for what, fails := range map[string]*bool{"sync": &flush, "remove": &remove} {
					if op == what && *fails && strings.HasSuffix(name, segmentSuffix) {
						*fails = false
						return syscall.EIO
					}
				}
				return nil
			}
			d.mu.Unlock()
			if err := add(s, NewID(time.Now()), nil, pattern(2, 1000)); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.mu.Lock()
			d.fault = nil
			d.mu.Unlock()
			s, err = openSim(d)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			if got := ids(t, s); !slices.Equal(got, want) || s.Stats().Damaged != 0 {
				t.Errorf("%v, want %v, %+v", got, want, s.Stats())
			}
		})
	}
}

// TestBatches: those who come while the disk is busy share the next flush.
func TestBatches(t *testing.T) {
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	id := mustAdd(t, s, nil, nil)
	const callers = 30
	var busy, done sync.WaitGroup
	held := make(chan struct{})
	busy.Add(1)
	first := true
	d.mu.Lock()
	d.fault = func(op, name string) error {
		if op == "write" && first {
			first = false
			d.mu.Unlock()
			busy.Done()
			<-held
			d.mu.Lock()
		}
		return nil
	}
	d.mu.Unlock()
	done.Go(func() { s.SetState(t.Context(), id, []byte("first")) })
	busy.Wait()
	before := s.Stats().Batches
	for i := range callers {
		done.Go(func() {
			if err := add(s, NewID(time.Now()), nil, pattern(uint64(i), 500)); err != nil {
				t.Error(err)
			}
		})
	}
	testenv.WaitFor(t, 20*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.pending) < callers {
			return fmt.Errorf("%d wait", len(s.pending))
		}
		return nil
	})
	// One of those who wait loses patience, and is not written.
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() { impatient <- s.SetState(ctx, id, []byte("impatient")) }()
	testenv.WaitFor(t, 20*time.Second, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.pending) == callers {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(held)
	done.Wait()
	if st := s.Stats(); st.Batches-before != 2 || st.LargestBatch != callers {
		t.Errorf("%+v", st)
	}
	if msg, err := s.Get(t.Context(), id); err != nil || string(msg.State) != "first" {
		t.Errorf("%q, %v", msg.State, err)
	}
}
