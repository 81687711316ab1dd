package dnsserver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// stuck is a storage in memory whose writes hang at times.
type stuck struct {
	storage.Backend
	testenv.Hang
}

func (b *stuck) Put(ctx context.Context, key string, value []byte) error {
	b.Wait()
	return b.Backend.Put(ctx, key, value)
}

// openStuck opens one. Both end with the test.
func openStuck(t *testing.T) (*stuck, *storage.Store) {
	t.Helper()
	b := &stuck{Backend: storage.Memory()}
	store, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Free()
		store.Close()
	})
	return b, store
}

// A storage that hangs, whatever it is told, holds Stop up for a while only, and
// what is not stored is told.
func TestStopStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, st := openStuck(t)
		s, err := New(Config{Listen: new(bool), NameServers: []string{"ns1.example.com"}, Zones: []Zone{
			{Name: "example.com", DNSSEC: &DNSSEC{}}, {Name: "example.org"},
		}}, WithStorage(st))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Stick()
		time.Sleep(20 * 24 * time.Hour) // now the zone is being signed anew
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = s.Stop(ctx)
		if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || !strings.Contains(err.Error(), "example.com.") || strings.Contains(err.Error(), "example.org.") || took != time.Second+lastWrites {
			t.Errorf("after %v: %v", took, err)
		}
		if err := s.Wait(); err != nil { // it does not wait either
			t.Error(err)
		}
		if err := s.Start(t.Context()); !errors.Is(err, ErrRunning) {
			t.Errorf("a start while the storage hangs: %v", err)
		}
		b.Free()
		synctest.Wait()
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Where it is nothing of a zone that hangs, the error names none.
func TestStopHangsWithoutZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Listen: new(bool), NameServers: []string{"ns1.example.com"}, Zones: []Zone{{Name: "example.com"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		end := make(chan struct{})
		defer close(end)
		s.transfers.goes(func(context.Context) { <-end })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Stop(ctx); !errors.Is(err, grace.ErrHangs) || strings.Contains(err.Error(), "zone") {
			t.Error(err)
		}
	})
}

// mute is a backend that reads nothing until the end of the test.
type mute struct {
	storage.Backend
	end chan struct{}
}

func (b *mute) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, "dns/") {
		<-b.end
	}
	return b.Backend.Get(ctx, key)
}

// A Start that waits for a storage that hangs holds Stop up for its time only, and
// fails then.
func TestStopWhileStartHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &mute{storage.Memory(), make(chan struct{})}
		st, err := storage.Open(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		s, err := New(Config{Listen: new(bool), NameServers: []string{"ns1.example.com"}, Zones: []Zone{{Name: "example.com"}}}, WithStorage(st))
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		go func() { started <- s.Start(t.Context()) }()
		synctest.Wait()
		if err := s.Start(t.Context()); !errors.Is(err, ErrRunning) {
			t.Errorf("another start: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		close(b.end)
		if err := <-started; err == nil {
			t.Errorf("the start that was given up: %v", err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
