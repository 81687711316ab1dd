package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// TestClean: with messages that come and go the log stays short, and what
// stays for long is carried along.
func TestClean(t *testing.T) {
	testenv.Goroutines(t)
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{msgs: make(map[ID]*ledgerEntry)}
	l.work(s, rand.New(rand.NewPCG(1, 1)), 30)
	stay := ids(t, s)
	gone := ""
	d.mu.Lock()
	d.fault = func(op, name string) error { // a segment goes for good before the next does
		switch {
		case op == "syncdir":
			gone = ""
		case op == "rename" && strings.HasPrefix(name, sparePrefix), op == "remove" && strings.HasSuffix(name, segmentSuffix):
			if gone != "" {
				t.Errorf("%s goes while %s may come back", name, gone)
			}
			gone = name
		}
		return nil
	}
	d.mu.Unlock()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // meanwhile somebody reads, and changes states
		for i := 0; ; i++ {
			for _, id := range stay {
				select {
				case <-stop:
					return
				default:
				}
				e := l.get(id)
				e.states = []string{fmt.Sprint("new ", i)}
				if err := s.SetState(t.Context(), id, []byte(e.states[0])); err != nil {
					t.Error(err)
				}
				if err := check(s, id, e.envelope(), []byte(e.states[0]), pattern(e.seed, e.size)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var passing []ID
	for i := range 1500 {
		passing = append(passing, mustAdd(t, s, nil, pattern(uint64(i), 3000)))
		if len(passing) > 10 || i > 1490 {
			if err := s.Remove(t.Context(), passing[0]); err != nil {
				t.Fatal(err)
			}
			passing = passing[1:]
		}
	}
	for _, id := range passing {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	st := s.Stats()
	if st.Moved == 0 || st.Cleaned < 20 || st.DiskBytes > 20*simOptions.SegmentSize {
		t.Errorf("%+v", st)
	}
	t.Logf("%+v", st)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.liveOn(t, d, rand.New(rand.NewPCG(1, 2))); err != nil {
		t.Error(err)
	}
}

// TestStaleCopy: a message that got a new state after it was read is not
// copied, and one that was removed does not come back.
func TestStaleCopy(t *testing.T) {
	s, err := openSim(newSimDisk())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	copyOf := func(id ID) *request {
		k, _ := id.key()
		r, err := s.copyOf(k, s.index[k])
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	changed, removed := mustAdd(t, s, nil, pattern(1, 10)), mustAdd(t, s, nil, pattern(2, 10))
	copies := []*request{copyOf(changed), copyOf(removed)}
	if err := errors.Join(s.SetState(t.Context(), changed, []byte("new")), s.Remove(t.Context(), removed), s.doAll(copies)); err != nil {
		t.Fatal(err)
	}
	if err := check(s, changed, nil, []byte("new"), pattern(1, 10)); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), removed); !errors.Is(err, ErrNotFound) || s.Stats().Moved != 0 {
		t.Errorf("%v, %+v", err, s.Stats())
	}
	if err := s.doAll([]*request{copyOf(changed)}); err != nil || s.Stats().Moved != 1 {
		t.Errorf("%v, %+v", err, s.Stats())
	}
	if err := check(s, changed, nil, []byte("new"), pattern(1, 10)); err != nil {
		t.Error(err)
	}
}

// TestCleanWaitsForReaders: a segment is not used again while somebody reads
// from it.
func TestCleanWaitsForReaders(t *testing.T) {
	s := openTestLog(t, t.TempDir(), Options{SegmentSize: minSegmentSize})
	body := pattern(1, 3000)
	id := mustAdd(t, s, nil, body)
	b, err := s.Body(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := s.Remove(t.Context(), mustAdd(t, s, nil, pattern(2, 3000))); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, body) {
		t.Errorf("the body was overwritten (%v)", err)
	}
	if n := s.Stats().Cleaned; n != 0 {
		t.Errorf("%d segments were cleaned behind one that is read", n)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	testenv.WaitFor(t, 20*time.Second, func() error {
		if st := s.Stats(); st.Cleaned < 5 || st.Segments > 3 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}

// TestDamage breaks bytes of a log that was closed: what is damaged is told,
// what is behind is there, and the file is kept.
func TestDamage(t *testing.T) {
	type place struct {
		name string
		at   func(header, int64) (off, n int64) // what to overwrite
		lost bool                               // at the start; otherwise when it is read
	}
	places := []place{
		{"salt", func(_ header, off int64) (int64, int64) { return off, 1 }, true},
		{"header", func(_ header, off int64) (int64, int64) { return off + 40, 8 }, true},
		{"envelope", func(_ header, off int64) (int64, int64) { return off + headerSize + 1, 1 }, true},
		{"body", func(h header, off int64) (int64, int64) { return off + headerSize + h.meta() + 5, 1 }, false},
		{"page", func(h header, off int64) (int64, int64) { return off &^ 4095, 4096 }, true},
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			folder := t.TempDir()
			opts := Options{SegmentSize: 64 << 10}
			s := openTestLog(t, folder, opts)
			var all []ID
			for i := range 8 {
				all = append(all, mustAdd(t, s, []byte("envelope"), pattern(uint64(i), 5000)))
			}
			victim := all[3]
			k, _ := victim.key()
			e := s.index[k]
			h, _, err := readRecord(e.seg, int64(e.off), k, int(e.envelope))
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(folder, e.seg.name())
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			off, n := p.at(h, int64(e.off))
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for i := off; i < off+n; i++ {
				data[i] ^= 0x55
			}
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}

			var log bytes.Buffer
			opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s = openTestLog(t, folder, opts)
			_, getErr := s.Get(t.Context(), victim)
			_, bodyErr := s.Body(t.Context(), victim)
			if p.lost {
				if !errors.Is(getErr, ErrNotFound) || s.Stats().Damaged == 0 || !strings.Contains(log.String(), "damaged") {
					t.Errorf("%v, %+v, %s", getErr, s.Stats(), &log)
				}
			} else if getErr != nil || !errors.Is(bodyErr, ErrDamaged) {
				t.Errorf("%v, %v", getErr, bodyErr)
			}
			for i, id := range all {
				if err := check(s, id, []byte("envelope"), nil, pattern(uint64(i), 5000)); err != nil && id != victim && !(p.name == "page" && id == all[2]) {
					t.Errorf("message %d of 8: %v", i, err)
				}
			}
			// It all goes, but the damaged file does not.
			for i := range 200 {
				id := mustAdd(t, s, nil, pattern(uint64(i), 5000))
				if err := s.Remove(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			testenv.WaitFor(t, 20*time.Second, func() error {
				_, err := os.Stat(name + damagedSuffix)
				return err
			})
			if _, err := s.Get(t.Context(), victim); !errors.Is(err, ErrNotFound) {
				t.Errorf("the message that was given up: %v", err)
			}
			if n := s.Stats().Damaged; n != 1 && p.name != "page" {
				t.Errorf("%d places are said to be damaged", n)
			}
			for i, id := range all {
				if err := check(s, id, []byte("envelope"), nil, pattern(uint64(i), 5000)); err != nil && id != victim && !(p.name == "page" && id == all[2]) {
					t.Errorf("message %d of 8, copied: %v", i, err)
				}
			}
		})
	}
}

// TestForgedRecord: a body that looks like records is none, also not where
// damage makes the reader look for the next.
func TestForgedRecord(t *testing.T) {
	folder := t.TempDir()
	s := openTestLog(t, folder, Options{SegmentSize: 64 << 10})
	first := mustAdd(t, s, nil, pattern(1, 100))
	k, _ := first.key()
	e := s.index[k]
	forged, _ := NewID(time.Now()).key()
	var body []byte
	for range 20 { // with what can be known: the salt of another segment
		h := header{kind: kindMessage, key: forged}
		body = appendHeader(body, newSalt(), &h)
	}
	mustAdd(t, s, nil, body)
	last := mustAdd(t, s, nil, pattern(2, 100))
	name := filepath.Join(folder, e.seg.name())
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(name)
	second := int64(e.off) + e.record()
	clear(data[second : second+headerSize])
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openTestLog(t, folder, Options{SegmentSize: 64 << 10})
	if got := ids(t, s); !slices.Equal(got, []ID{first, last}) || s.Stats().Damaged != 1 {
		t.Errorf("%v, %+v", got, s.Stats())
	}
}

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

// TestDamageAtTheEnd: the last batch of a segment may be torn only if the log
// ends there.
func TestDamageAtTheEnd(t *testing.T) {
	d := newSimDisk()
	s, err := openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	var first *segment
	var last key
	var n int
	for first == nil || s.Stats().Segments < 3 {
		id := mustAdd(t, s, nil, pattern(1, 3000))
		n++
		k, _ := id.key()
		if e := s.index[k]; first == nil || e.seg == first {
			first, last = e.seg, k
		}
	}
	e := s.index[last]
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.names[first.name()].data[e.off+20] ^= 1
	s, err = openSim(d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if got := len(ids(t, s)); got != n-1 {
		t.Errorf("%d messages of %d", got, n)
	}
	if n := s.Stats().Damaged; n != 1 {
		t.Errorf("%d places are said to be damaged", n)
	}
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

// TestVersion: what a newer version wrote is not touched.
func TestVersion(t *testing.T) {
	folder := t.TempDir()
	s := openTestLog(t, folder, Options{SegmentSize: minSegmentSize})
	mustAdd(t, s, nil, nil)
	name := filepath.Join(folder, s.active.name())
	salt := s.active.salt
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(name)
	b := appendHeader(nil, salt, &header{kind: kindMark})
	b[9] = recordVersion + 1
	copy(data, reseal(b))
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLog(folder, Options{}); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
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
