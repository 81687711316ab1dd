package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
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
	testenv.WaitFor(t, time.Minute, func() error { // the cleaner may be behind
		if st := s.Stats(); st.Moved == 0 || st.Cleaned < 20 || st.DiskBytes > 20*simOptions.SegmentSize {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
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
