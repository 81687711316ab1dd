package spool

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// The crash test kills a process that uses a spool, again and again, and looks
// at what it left. The process is this test binary. On its standard output it
// says what it is about to do, and then that it is done: a call that returned
// must have happened, one that did not may have.

const (
	crashEnv     = "SPOOL_CRASH_CHILD" // "log" or "storage" in a child
	crashFolder  = "SPOOL_CRASH_FOLDER"
	crashWorkers = 6
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(crashEnv); kind != "" {
		fmt.Println("failed", crashChild(kind, os.Getenv(crashFolder)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func openForCrash(kind, folder string) (Store, error) {
	if kind == "log" {
		return OpenLog(folder, Options{SegmentSize: 2 << 20, Headroom: -1})
	}
	st, err := storage.Open(ctxBackground, storage.Dir(folder))
	if err != nil {
		return nil, err
	}
	s, err := OpenStorage(ctxBackground, st, "spool", Options{})
	if err != nil {
		return nil, err
	}
	return closing{s, st}, nil
}

// crashChild works until it is killed. It takes over what is there.
func crashChild(kind, folder string) error {
	s, err := openForCrash(kind, folder)
	if err != nil {
		return err
	}
	var there []ID
	for msg, err := range s.All(ctxBackground) {
		if err != nil {
			return err
		}
		there = append(there, msg.ID)
	}
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Fprintf(os.Stdout, format+"\n", args...)
	}
	say("ready")
	failed := make(chan error)
	for w := range crashWorkers {
		var own []ID
		for i := w; i < len(there); i += crashWorkers {
			own = append(own, there[i])
		}
		go func() {
			for {
				i := 0
				if len(own) > 0 {
					i = rand.IntN(len(own))
				}
				switch op := rand.IntN(6); {
				case len(own) == 0 || op <= 2 && len(own) < 40:
					seed, size := rand.Uint64(), rand.IntN(6000)
					switch rand.IntN(25) {
					case 0:
						size = rand.IntN(300_000)
					case 1:
						size = 1<<20 + rand.IntN(100_000)
					}
					id := NewID(time.Now())
					say("add %s %d %d", id, seed, size)
					e := ledgerEntry{seed: seed, size: size}
					if err := add(s, id, e.envelope(), pattern(seed, size)); err != nil {
						failed <- err
					}
					say("added %s", id)
					own = append(own, id)
				case op <= 4:
					say("remove %s", own[i])
					if err := s.Remove(ctxBackground, own[i]); err != nil {
						failed <- err
					}
					say("removed %s", own[i])
					own = append(own[:i], own[i+1:]...)
				default:
					state := fmt.Sprint(rand.Uint64())
					say("state %s %s", own[i], state)
					if err := s.SetState(ctxBackground, own[i], []byte(state)); err != nil {
						failed <- err
					}
					say("stated %s %s", own[i], state)
				}
			}
		}()
	}
	return <-failed
}

// hear enters what a child said.
func (l *ledger) hear(said []byte) (acknowledged int, err error) {
	end := bytes.LastIndexByte(said, '\n') + 1 // a line that was cut says nothing
	lines := bufio.NewScanner(bytes.NewReader(said[:end]))
	for lines.Scan() {
		line := lines.Text()
		var id ID
		var state string
		e := &ledgerEntry{may: true, states: []string{""}}
		var word string
		fmt.Sscan(line, &word, &id)
		known := l.msgs[id]
		switch {
		case word == "ready":
		case word == "add":
			if _, err := fmt.Sscanf(line, "add %s %d %d", &id, &e.seed, &e.size); err != nil {
				return 0, fmt.Errorf("%q: %w", line, err)
			}
			l.msgs[id] = e
		case known == nil:
			return 0, fmt.Errorf("%q", line)
		case word == "added":
			known.must = true
		case word == "remove":
			known.must = false
		case word == "removed":
			known.may = false
		case word == "state":
			fmt.Sscan(line, &word, &id, &state)
			known.states = append(known.states, state)
		case word == "stated":
			fmt.Sscan(line, &word, &id, &state)
			known.states = []string{state}
		default:
			return 0, fmt.Errorf("%q", line)
		}
		if word == "added" || word == "removed" || word == "stated" {
			acknowledged++
		}
	}
	return acknowledged, nil
}

// crashRound starts a child, kills it and checks what is left.
func (l *ledger) crashRound(kind, folder string, seen *Stats) (acknowledged int, err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+kind, crashFolder+"="+folder)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var said bytes.Buffer
	read := make(chan struct{})
	started := make(chan struct{}, 1)
	go func() {
		defer close(read)
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			said.Write(buf[:n])
			select {
			case started <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	if rand.IntN(8) > 0 { // sometimes while it opens the spool
		<-started
	}
	time.Sleep(time.Duration(rand.IntN(120_000)) * time.Microsecond) // the moment is what is tried here
	killErr := cmd.Process.Kill()
	<-read
	cmd.Wait()
	if cmd.ProcessState.Exited() {
		return 0, fmt.Errorf("the child ended by itself: %v, %v, %q", cmd.ProcessState, killErr, said.Bytes()[max(0, said.Len()-500):])
	}
	if acknowledged, err = l.hear(said.Bytes()); err != nil {
		return 0, err
	}
	s, err := openForCrash(kind, folder)
	if err != nil {
		return 0, err
	}
	st := s.Stats()
	if st.Damaged != 0 {
		return 0, fmt.Errorf("%d places are said to be damaged", st.Damaged)
	}
	if err := l.check(s); err != nil {
		return 0, err
	}
	*seen = s.Stats()
	return acknowledged, s.Close(context.Background())
}

// TestKill kills 15 processes, 5 of them on a storage backend, or as many as
// SPOOL_CRASH_KILLS says.
func TestKill(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a system that tells that a process was killed")
	}
	kills := 15
	if v := os.Getenv("SPOOL_CRASH_KILLS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	for kind, kills := range map[string]int{"log": kills - kills/3, "storage": kills / 3} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			l := &ledger{msgs: make(map[ID]*ledgerEntry)}
			total := 0
			var st Stats
			for n := range kills {
				acknowledged, err := l.crashRound(kind, folder, &st)
				if err != nil {
					t.Fatalf("kill %d: %v", n, err)
				}
				total += acknowledged
			}
			t.Logf("%d kills, %d calls acknowledged; in the end %+v", kills, total, st)
			if total == 0 {
				t.Error("no call was acknowledged")
			}
		})
	}
}
