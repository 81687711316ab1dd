package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// simDisk is a disk that keeps apart what is durable and what is not, and that
// can fail at any step.
type simDisk struct {
	mu      sync.Mutex
	names   map[string]*simFile
	durable map[string]*simFile
	changes []simChange // of the names, since the last sync

	steps int
	left  int                         // steps until it dies; negative: never
	fault func(op, name string) error // nil: none
}

type simFile struct {
	disk   *simDisk
	name   string
	data   []byte
	synced []byte
	writes []simWrite // since the last sync
}

type simWrite struct {
	off  int64
	data []byte // nil: the file's new size is off
}

// simChange makes a name, if to is not empty, and ends one, if from is not.
type simChange struct {
	from, to string
	file     *simFile
}

func (c simChange) apply(names map[string]*simFile) {
	if c.from != "" && names[c.from] == c.file {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.file
	}
}

var errDead = errors.New("the machine has no power")

func newSimDisk() *simDisk {
	return &simDisk{names: map[string]*simFile{}, durable: map[string]*simFile{}, left: -1}
}

// step is called, with the lock held, before anything changes.
func (d *simDisk) step(op, name string) error {
	if d.left == 0 {
		return errDead
	}
	if d.left > 0 {
		d.left--
	}
	d.steps++
	if d.fault != nil {
		return d.fault(op, name)
	}
	return nil
}

func (d *simDisk) change(c simChange) {
	c.apply(d.names)
	d.changes = append(d.changes, c)
}

func (d *simDisk) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("create", name); err != nil {
		return nil, err
	}
	if d.names[name] != nil {
		return nil, fs.ErrExist
	}
	f := &simFile{disk: d, name: name}
	d.change(simChange{to: name, file: f})
	return f, nil
}

func (d *simDisk) open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.names[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *simDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename", to); err != nil {
		return err
	}
	f := d.names[from]
	if f == nil {
		return fs.ErrNotExist
	}
	f.name = to
	d.change(simChange{from, to, f})
	return nil
}

func (d *simDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove", name); err != nil {
		return err
	}
	if f := d.names[name]; f != nil {
		d.change(simChange{from: name, file: f})
	}
	return nil
}

func (d *simDisk) list() ([]diskEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []diskEntry
	for name, f := range d.names {
		list = append(list, diskEntry{name, int64(len(f.data))})
	}
	return list, nil
}

func (d *simDisk) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("syncdir", ""); err != nil {
		return err
	}
	d.durable, d.changes = maps.Clone(d.names), nil
	return nil
}

func (d *simDisk) free() (int64, error) { return math.MaxInt64, nil }
func (d *simDisk) close() error         { return nil }

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func apply(data []byte, w simWrite) []byte {
	if w.data == nil {
		return append(data, make([]byte, max(0, int(w.off)-len(data)))...)
	}
	if end := int(w.off) + len(w.data); end > len(data) {
		data = append(data, make([]byte, end-len(data))...)
	}
	copy(data[w.off:], w.data)
	return data
}

func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step("write", f.name); err != nil {
		return 0, err
	}
	w := simWrite{off, append([]byte{}, p...)}
	f.data = apply(f.data, w)
	f.writes = append(f.writes, w)
	return len(p), nil
}

func (f *simFile) allocate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step("allocate", f.name); err != nil {
		return err
	}
	w := simWrite{off: size}
	f.data = apply(f.data, w)
	f.writes = append(f.writes, w)
	return nil
}

func (f *simFile) sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step("sync", f.name); errors.Is(err, errDead) {
		return err
	} else if err != nil {
		for _, w := range f.writes { // some of it came to the disk, and the system tries no more
			if w.data != nil && rand.IntN(2) == 0 {
				f.synced = apply(f.synced, simWrite{w.off, w.data[:rand.IntN(len(w.data)+1)]})
			}
		}
		f.writes = nil
		return err
	}
	for _, w := range f.writes {
		f.synced = apply(f.synced, w)
	}
	f.writes = nil
	return nil
}

func (f *simFile) Close() error { return nil }

// crash returns the disk as it may be after the power failed: of what was not
// flushed any part may be there, down to single sectors or bytes.
func (d *simDisk) crash(rng *rand.Rand) *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := rng.IntN(4)
	names := maps.Clone(d.durable)
	for _, c := range d.changes {
		if kind == 1 || kind > 1 && rng.IntN(2) == 0 {
			c.apply(names)
		}
	}
	after := newSimDisk()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		data := slices.Clone(f.synced)
		for _, w := range f.writes {
			switch {
			case kind == 0: // nothing
			case kind == 1: // everything: only the process was killed
				data = apply(data, w)
			case w.data == nil:
				if rng.IntN(2) == 0 {
					data = apply(data, w)
				}
			case kind == 2: // up to any byte
				data = apply(data, simWrite{w.off, w.data[:rng.IntN(len(w.data)+1)]})
			default: // any sectors
				const sector = 512
				for at := 0; at < len(w.data); {
					n := min(sector-int(w.off+int64(at))%sector, len(w.data)-at)
					if rng.IntN(3) > 0 {
						data = apply(data, simWrite{w.off + int64(at), w.data[at : at+n]})
					}
					at += n
				}
			}
		}
		after.names[name] = &simFile{disk: after, name: name, data: data, synced: slices.Clone(data)}
	}
	after.durable = maps.Clone(after.names)
	return after
}

// ledger is what must be in a spool, as far as is known.
type ledger struct {
	mu   sync.Mutex
	msgs map[ID]*ledgerEntry
}

type ledgerEntry struct {
	seed   uint64
	size   int
	must   bool     // be there
	may    bool     // be there
	states []string // any of these
}

func (e *ledgerEntry) envelope() []byte { return fmt.Appendf(nil, "%d %d", e.seed, e.size) }

// work uses a spool until limit calls are done or the disk is dead.
func (l *ledger) work(s Store, rng *rand.Rand, limit int) {
	var own []ID
	for range limit {
		switch op := rng.IntN(5); {
		case op <= 1 || len(own) == 0:
			e := &ledgerEntry{seed: rng.Uint64(), size: rng.IntN(3000), may: true, states: []string{""}}
			if rng.IntN(6) == 0 {
				e.size = rng.IntN(15_000)
			}
			if rng.IntN(10) == 0 {
				e.size = simLarge + rng.IntN(10_000)
			}
			id := NewID(time.Now())
			l.mu.Lock()
			l.msgs[id] = e
			l.mu.Unlock()
			if err := add(s, id, e.envelope(), pattern(e.seed, e.size)); err == nil {
				l.set(e, func() { e.must = true })
				own = append(own, id)
			} else if errors.Is(err, errDead) {
				return
			}
		case op == 2:
			i := rng.IntN(len(own))
			e := l.get(own[i])
			l.set(e, func() { e.must = false })
			if err := s.Remove(ctxBackground, own[i]); err == nil {
				l.set(e, func() { e.may = false })
				own = slices.Delete(own, i, i+1)
			} else if errors.Is(err, errDead) {
				return
			}
		default:
			id := own[rng.IntN(len(own))]
			e := l.get(id)
			state := fmt.Sprint("state ", rng.Uint64())
			l.set(e, func() { e.states = append(e.states, state) })
			if err := s.SetState(ctxBackground, id, []byte(state)); err == nil {
				l.set(e, func() { e.states = []string{state} })
			} else if errors.Is(err, errDead) {
				return
			}
		}
	}
}

func (l *ledger) get(id ID) *ledgerEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.msgs[id]
}

func (l *ledger) set(e *ledgerEntry, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// check compares, and takes what it sees as settled.
func (l *ledger) check(s Store) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := make(map[ID]bool)
	for msg, err := range s.All(ctxBackground) {
		if err != nil {
			return fmt.Errorf("%s: %w", msg.ID, err)
		}
		e := l.msgs[msg.ID]
		if e == nil || !e.may {
			return fmt.Errorf("%s is there, but was removed or never added", msg.ID)
		}
		there[msg.ID] = true
		if !slices.Contains(e.states, string(msg.State)) {
			return fmt.Errorf("%s has state %q, want one of %q", msg.ID, msg.State, e.states)
		}
		e.states = []string{string(msg.State)}
		if err := check(s, msg.ID, e.envelope(), msg.State, pattern(e.seed, e.size)); err != nil {
			return err
		}
	}
	for id, e := range l.msgs {
		if e.must && !there[id] {
			return fmt.Errorf("%s (%d bytes) is lost", id, e.size)
		}
		e.must, e.may = there[id], there[id]
	}
	return nil
}

// liveOn opens a disk after a crash, checks it, and goes on with it.
func (l *ledger) liveOn(t *testing.T, d *simDisk, rng *rand.Rand) error {
	for range 3 {
		s, err := openSim(d)
		if err != nil {
			return err
		}
		if n := s.Stats().Damaged; n != 0 {
			return fmt.Errorf("%d places are said to be damaged", n)
		}
		if err := l.check(s); err != nil {
			return err
		}
		l.work(s, rng, 10)
		if err := l.check(s); err != nil {
			return fmt.Errorf("after some more: %w", err)
		}
		if err := s.Close(t.Context()); err != nil {
			return err
		}
	}
	return nil
}

var simOptions = Options{SegmentSize: 64 << 10, Headroom: -1}

// simLarge is the size of a body that gets a file of its own there.
const simLarge = 20_000

// openSim opens a log that keeps little of a draft in memory.
func openSim(d *simDisk) (*fileLog, error) {
	s, err := openLog(d, simOptions)
	if err == nil {
		s.drafts.perDraft = simLarge / 2
	}
	return s, err
}

// TestPowerFails takes the power away at each step in turn.
func TestPowerFails(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	crashes := 0
	for n := 1; ; n += 1 + n/12 {
		d := newSimDisk()
		d.left = n
		l := &ledger{msgs: make(map[ID]*ledgerEntry)}
		if s, err := openSim(d); err == nil {
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() { l.work(s, rand.New(rand.NewPCG(seed, uint64(w))), 60) })
			}
			wg.Wait()
			d.mu.Lock() // the writer may still be at what follows a batch
			alive := d.left != 0
			d.mu.Unlock()
			if alive && crashes > 100 {
				s.Close(t.Context())
				break // it came to the end alive
			}
			defer s.Close(t.Context())
		}
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		for range 2 {
			again := &ledger{msgs: make(map[ID]*ledgerEntry)}
			for id, e := range l.msgs {
				c := *e
				c.states = slices.Clone(e.states)
				again.msgs[id] = &c
			}
			after := d.crash(rng)
			for rng.IntN(2) == 0 { // it fails again soon
				after.left = rng.IntN(40)
				if s, err := openSim(after); err == nil {
					if err := again.check(s); err != nil {
						t.Fatalf("seed %d, power failed again after step %d: %v", seed, n, err)
					}
					again.work(s, rng, 20)
					after.mu.Lock()
					after.left = 0
					after.mu.Unlock()
					s.Close(t.Context())
				}
				if rng.IntN(2) == 0 {
					after = after.crash(rng)
				} // or only the process was killed, and what it wrote is in the machine's memory
				crashes++
			}
			after.left = -1
			if err := again.liveOn(t, after, rng); err != nil {
				t.Fatalf("seed %d, power failed at step %d: %v", seed, n, err)
			}
			crashes++
		}
	}
	t.Logf("%d crashes", crashes)
}

// TestDiskFails lets calls fail at random, and at the end the power too.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	for round := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, round))
		d := newSimDisk()
		faults := 0
		d.fault = func(op, name string) error {
			if rng.IntN(12) == 0 && op != "remove" {
				faults++
				return []error{syscall.EIO, syscall.ENOSPC}[rng.IntN(2)]
			}
			return nil
		}
		l := &ledger{msgs: make(map[ID]*ledgerEntry)}
		s, err := openSim(d)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() { l.work(s, rand.New(rand.NewPCG(seed+round, uint64(w))), 100) })
		}
		wg.Wait()
		if st := s.Stats(); st.WriteErrors == 0 {
			t.Errorf("%d faults and no write error", faults)
		}
		d.mu.Lock()
		d.left = 0
		d.mu.Unlock()
		after := d.crash(rng)
		s.Close(t.Context())
		if err := l.liveOn(t, after, rng); err != nil {
			t.Fatalf("seed %d, round %d, %d faults: %v", seed, round, faults, err)
		}
	}
}
