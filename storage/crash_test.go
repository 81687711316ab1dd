package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The crash test kills a process that writes, again and again, and looks at
// what it left. The process is this test binary, started with crashEnv set.
// What it does follows from a seed, so the test knows every operation and its
// outcome; the process only says, with one byte on its standard output, that
// one more operation is done. After the kill the operations that were
// acknowledged must have happened and those after the next must not; the next
// one may have happened or not, but not by halves.

const (
	crashEnv     = "STORAGE_CRASH_CHILD" // "kind seed start" in a child
	crashFolder  = "STORAGE_CRASH_FOLDER"
	crashWorkers = 2
	crashKeys    = 5 // of each worker
)

// crashOp is one operation of a child.
type crashOp struct {
	kind    int
	key     string
	value   []byte    // nil after a delete
	expires time.Time // zero: never
}

const (
	opPut = iota
	opPutTTL
	opSwap // CompareAndSwap, or Create where there is nothing
	opDelete
)

// crashOps returns the operations of one worker, one after another.
func crashOps(seed uint64, worker int, start time.Time) func() crashOp {
	rng := rand.New(rand.NewPCG(seed, uint64(worker)))
	n := 0
	return func() crashOp {
		n++
		op := crashOp{key: fmt.Sprintf("w%d/k%d", worker, rng.IntN(crashKeys))}
		if rng.IntN(2) == 0 {
			op.key += "/sub/x" // below the key that may be a value itself
		}
		switch op.kind = rng.IntN(5); op.kind {
		case opDelete:
			return op
		case opPutTTL: // most expire while the children come and go
			op.expires = start.Add(time.Duration(rng.IntN(300)-20) * time.Millisecond)
			if rng.IntN(4) == 0 {
				op.expires = start.Add(time.Hour)
			}
		case opSwap:
		default:
			op.kind = opPut
		}
		if rng.IntN(3) == 0 { // the same bytes again, perhaps with another expiry
			op.value = []byte("always the same")
			return op
		}
		size := rng.IntN(6000)
		if rng.IntN(20) == 0 {
			size = 100_000
		}
		op.value = fmt.Appendf(nil, "%d %d %d|", seed, worker, n)
		op.value = append(op.value, bytes.Repeat([]byte{byte(n)}, size)...)
		return op
	}
}

func crashBackend(kind, folder string) Backend {
	if kind == "dir" {
		return Dir(folder)
	}
	return hostFiles(folder)
}

// hostFiles is a host that keeps values in files and knows only read and
// write. Its write is atomic, which is all that WriteFunc asks.
func hostFiles(folder string) Backend {
	file := func(key string) string { return filepath.Join(folder, fmt.Sprintf("%x", key)) }
	read := func(_ context.Context, key string) ([]byte, error) { return os.ReadFile(file(key)) }
	write := func(_ context.Context, key string, value []byte) error {
		tmp := file(key) + ".tmp"
		if err := os.WriteFile(tmp, value, 0o600); err != nil {
			return err
		}
		return os.Rename(tmp, file(key))
	}
	return Funcs(read, write)
}

func openForCrash(kind, folder string) (*Store, error) {
	return Open(context.Background(), crashBackend(kind, folder), func(c *openConfig) { c.sweepPause = 2 * time.Millisecond })
}

// crashChild writes until it is killed.
func crashChild(spec, folder string) error {
	var kind string
	var seed uint64
	var startNano int64
	if _, err := fmt.Sscan(spec, &kind, &seed, &startNano); err != nil {
		return err
	}
	s, err := openForCrash(kind, folder)
	if err != nil {
		return err
	}
	l, err := s.Acquire(context.Background(), "lease", time.Hour)
	if err != nil {
		return err
	}
	ready := binary.BigEndian.AppendUint64([]byte("R"), l.Token())
	if _, err := os.Stdout.Write(ready); err != nil {
		return err
	}
	failed := make(chan error)
	for w := range crashWorkers {
		next := crashOps(seed, w, time.Unix(0, startNano))
		ack := []byte{byte('0' + w)}
		go func() {
			for {
				op := next()
				if err := op.run(s); err != nil {
					failed <- fmt.Errorf("%s: %w", op.key, err)
				}
				os.Stdout.Write(ack)
			}
		}()
	}
	return <-failed
}

func (op crashOp) run(s *Store) error {
	ctx := context.Background()
	switch op.kind {
	case opPut:
		return s.Put(ctx, op.key, op.value)
	case opPutTTL:
		return s.Put(ctx, op.key, op.value, Until(op.expires))
	case opDelete:
		return s.Delete(ctx, op.key)
	}
	for {
		if _, err := s.CompareAndSwap(ctx, op.key, "wrong", op.value); !errors.Is(err, ErrConflict) {
			return fmt.Errorf("CompareAndSwap with a wrong revision: %v", err)
		}
		it, err := s.GetItem(ctx, op.key)
		if isNotFound(err) {
			_, err = s.Create(ctx, op.key, op.value)
			return err
		} else if err != nil {
			return err
		}
		_, err = s.CompareAndSwap(ctx, op.key, it.Revision, op.value)
		if errors.Is(err, ErrConflict) && !it.Expires.IsZero() {
			continue // expired in between
		}
		return err
	}
}

// crashState is what a key may hold.
type crashState struct {
	value   []byte // nil: nothing
	expires time.Time
}

func (c crashState) String() string {
	if c.value == nil {
		return "nothing"
	}
	return fmt.Sprintf("%.30q (%d bytes, expires %v)", c.value, len(c.value), c.expires.Format("05.000"))
}

// allows tells whether a look between the two times may find the value, nil
// for nothing.
func (c crashState) allows(value []byte, from, to time.Time) bool {
	if value == nil {
		return c.value == nil || expired(c.expires, to)
	}
	return c.value != nil && bytes.Equal(c.value, value) && !expired(c.expires, from)
}

// crashLane is one folder and what it may hold by now.
type crashLane struct {
	t      *testing.T
	kind   string
	folder string
	rng    *rand.Rand
	may    map[string][]crashState // any of these; a missing key holds nothing
	token  uint64

	kills, acked, halfway, landed int
}

func (l *crashLane) states(key string) []crashState {
	if s := l.may[key]; s != nil {
		return s
	}
	return []crashState{{}}
}

// round starts a child, kills it, and checks what is left.
func (l *crashLane) round(seed uint64) error {
	start := time.Now()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", crashEnv, l.kind, seed, start.UnixNano()), crashFolder+"="+l.folder)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	head := make([]byte, 9)
	n := 0
	if l.rng.IntN(8) == 0 { // somewhere on the way to being ready
		time.Sleep(time.Duration(l.rng.IntN(60)) * time.Millisecond)
	} else {
		n, _ = io.ReadFull(out, head)
		time.Sleep(time.Duration(l.rng.IntN(40_000)) * time.Microsecond)
	}
	killErr := cmd.Process.Kill()
	rest, readErr := io.ReadAll(out)
	said := append(head[:n], rest...)
	cmd.Wait()
	if i := bytes.IndexByte(said[min(9, len(said)):], 'E'); i >= 0 || len(said) > 0 && said[0] == 'E' || readErr != nil {
		return fmt.Errorf("the child failed: %q %s (%v)", said, &stderr, readErr)
	}
	if cmd.ProcessState.Exited() {
		return fmt.Errorf("the child ended by itself: %v, %v, %s", cmd.ProcessState, killErr, &stderr)
	}
	l.kills++

	acks := make([]int, crashWorkers)
	ready := len(said) >= 9
	if ready {
		if token := binary.BigEndian.Uint64(said[1:]); token <= l.token {
			return fmt.Errorf("lease token %d after token %d", token, l.token)
		} else {
			l.token = token
		}
		for _, b := range said[9:] {
			acks[b-'0']++
		}
	}
	var undecided []crashOp
	for w, n := range acks {
		l.acked += n
		next := crashOps(seed, w, start)
		for range n {
			op := next()
			l.may[op.key] = []crashState{{op.value, op.expires}}
		}
		// Even if nothing was heard of the child it may have begun.
		op := next()
		l.may[op.key] = append(slices.Clone(l.states(op.key)), crashState{op.value, op.expires})
		undecided = append(undecided, op)
	}
	if err := errors.Join(l.check(undecided), l.checkFiles()); err != nil {
		return fmt.Errorf("%w (ready %v, acknowledged %v)", err, ready, acks)
	}
	return nil
}

// check opens the folder and compares.
func (l *crashLane) check(undecided []crashOp) error {
	s, err := openForCrash(l.kind, l.folder)
	if err != nil {
		return err
	}
	defer s.Close()
	from := time.Now()
	var listed []string
	for k, err := range s.List(context.Background(), "") {
		if err != nil {
			return err
		}
		listed = append(listed, k)
	}
	to := time.Now()
	for w := range crashWorkers {
		for k := range crashKeys {
			for _, sub := range []string{"", "/sub/x"} {
				key := fmt.Sprintf("w%d/k%d%s", w, k, sub)
				may := l.states(key)
				if i := slices.Index(listed, key); i >= 0 {
					listed = slices.Delete(listed, i, i+1)
					if !slices.ContainsFunc(may, func(c crashState) bool { return c.allows(c.value, from, to) && c.value != nil }) {
						return fmt.Errorf("%s is listed, but may hold only %v", key, may)
					}
				} else if !slices.ContainsFunc(may, func(c crashState) bool { return c.allows(nil, from, to) }) {
					return fmt.Errorf("%s is not listed, but must hold %v", key, may)
				}
				from := time.Now()
				value, err := s.Get(context.Background(), key)
				to := time.Now()
				if err != nil && !isNotFound(err) {
					return err
				}
				left := slices.DeleteFunc(slices.Clone(may), func(c crashState) bool { return !c.allows(value, from, to) })
				if len(left) == 0 {
					return fmt.Errorf("%s holds %v, but may hold only %v", key, crashState{value: value}, may)
				}
				for _, op := range undecided {
					if op.key == key && len(may) > 1 {
						l.halfway++
						if slices.ContainsFunc(left, func(c crashState) bool { return bytes.Equal(c.value, op.value) }) {
							l.landed++
						}
					}
				}
				if value == nil {
					left = nil // once gone, gone for ever
				}
				l.may[key] = left
			}
		}
	}
	if len(listed) > 0 {
		return fmt.Errorf("listed, but never written: %q", listed)
	}
	return nil
}

// checkFiles: half-written files were removed when the folder was opened.
func (l *crashLane) checkFiles() error {
	if l.kind != "dir" {
		return nil
	}
	return filepath.WalkDir(l.folder, func(name string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), tempPrefix) {
			err = fmt.Errorf("%s is left over", name)
		}
		return err
	})
}

// TestCrash kills at least 300 processes, 50 with -short, or as many as
// STORAGE_CRASH_KILLS says.
func TestCrash(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a system that tells that a process was killed")
	}
	t.Parallel()
	kills := 300
	if testing.Short() {
		kills = 50
	}
	if v := os.Getenv("STORAGE_CRASH_KILLS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	const lanes = 4 // waiting for the disk and for children takes most of the time
	start := time.Now()
	seed := rand.Uint64()
	var mu sync.Mutex
	total := 0
	var wg sync.WaitGroup
	for i := range lanes {
		l := &crashLane{
			t: t, kind: []string{"dir", "funcs"}[i%2], folder: t.TempDir(),
			rng: rand.New(rand.NewPCG(seed, uint64(i))), may: make(map[string][]crashState),
		}
		wg.Go(func() {
			for n := range (kills + lanes - 1) / lanes {
				if err := l.round(seed + uint64(n)); err != nil {
					t.Errorf("%s: kill %d of seed %d: %v", l.kind, n, seed, err)
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total += l.kills
			t.Logf("%s: %d kills, %d operations acknowledged, %d caught halfway of which %d happened", l.kind, l.kills, l.acked, l.halfway, l.landed)
		})
	}
	wg.Wait()
	t.Logf("%d kills in %v", total, time.Since(start).Round(time.Millisecond))
	if total < kills {
		t.Errorf("%d processes were killed, want %d", total, kills)
	}
}
