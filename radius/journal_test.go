package radius

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"layeh.com/radius/rfc2866"

	"github.com/dcrouter/dcrouter/storage"
)

// lateBackend gives up the first write to a key with the prefix, which late has come
// through.
type lateBackend struct {
	storage.Backend
	prefix string
	late   func() error
}

func (b *lateBackend) Put(ctx context.Context, key string, value []byte) error {
	if b.late != nil || !strings.HasPrefix(key, b.prefix) {
		return b.Backend.Put(ctx, key, value)
	}
	value = slices.Clone(value)
	b.late = func() error { return b.Backend.Put(context.Background(), key, value) }
	return errors.New("it takes too long")
}

// again stops a Server and starts it.
func again(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A write that the storage has given up may come through later. It replaces no
// record that was acknowledged meanwhile, also by a Server that was started anew.
func TestLateWriteToTheJournal(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			backend := &lateBackend{Backend: storage.Memory(), prefix: journalPrefix}
			s := startServer(t, Config{}, WithStorage(openStore(t, backend)))
			silence(t, s, dialServer(t, acctAddr(s)), acct(StatusStart, "lost").encode(t), accountingFailed)
			if restart {
				again(t, s)
			}
			ask(t, acctAddr(s), acct(StatusStart, "kept").encode(t), testSecret)
			if err := backend.late(); err != nil {
				t.Fatal(err)
			}
			again(t, s)
			if got := openSessions(s); !slices.Contains(got, "kept") {
				t.Errorf("open are %v, without the one that was acknowledged", got)
			}
		})
	}
}

// The same of the state.
func TestLateWriteToTheState(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			backend := &lateBackend{Backend: storage.Memory(), prefix: statePrefix}
			store := openStore(t, backend)
			s := startServer(t, Config{}, WithStorage(store))
			record := func(octets uint32) {
				t.Helper()
				ask(t, acctAddr(s), acct(StatusInterim, "x", number(rfc2866.AcctInputOctets_Type, octets)).encode(t), testSecret)
			}
			record(1)
			if err := s.latest().journal.writeState(t.Context()); err == nil {
				t.Fatal("the write has not failed")
			}
			if restart {
				again(t, s)
			}
			for octets := range uint32(3) {
				record(2 + octets)
				if err := s.latest().journal.writeState(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := backend.late(); err != nil {
				t.Fatal(err)
			}
			again(t, s)
			for session := range s.Sessions() {
				if session.InputOctets != 4 {
					t.Errorf("%d octets are known, 4 were acknowledged", session.InputOctets)
				}
			}
			if n := s.Stats().Sessions; n != 1 {
				t.Errorf("%d sessions are known, want 1", n)
			}
			var keys []string
			for key := range store.List(t.Context(), statePrefix) {
				keys = append(keys, key)
			}
			if len(keys) != 1 {
				t.Errorf("stored are %v, want one", keys)
			}
		})
	}
}

// A compaction that fails is not tried again for each record that comes.
func TestCompactionThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := storage.Memory()
		var tries atomic.Int32
		backend := &putBackend{memory, func(ctx context.Context, key string, value []byte) error {
			if strings.HasPrefix(key, statePrefix) {
				tries.Add(1)
				return errors.New("the value is too large")
			}
			return memory.Put(ctx, key, value)
		}}
		s, err := New(Config{Secret: testSecret}, WithStorage(openStore(t, backend)))
		if err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		keep(s, &Session{ID: "1", Updated: time.Now()})
		done := make(chan struct{})
		go func() {
			defer close(done)
			j.compactAll()
		}()
		for range 2 {
			j.compact <- struct{}{}
			synctest.Wait()
		}
		if n := tries.Load(); n != 1 {
			t.Errorf("tried %d times at once, want once", n)
		}
		time.Sleep(compactPause)
		synctest.Wait()
		if n := tries.Load(); n != 2 {
			t.Errorf("tried %d times in a minute, want twice", n)
		}
		j.stop()
		<-done
	})
}

// putBackend is a Backend with another Put.
type putBackend struct {
	storage.Backend
	put func(ctx context.Context, key string, value []byte) error
}

func (b *putBackend) Put(ctx context.Context, key string, value []byte) error {
	return b.put(ctx, key, value)
}
