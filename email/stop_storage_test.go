package email

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/storage"
)

// stuck is a backend that writes nothing more from some moment on, until the end
// of the test.
type stuck struct {
	storage.Backend
	now atomic.Bool
	end chan struct{}
}

func (b *stuck) Put(ctx context.Context, key string, value []byte) error {
	if b.now.Load() {
		<-b.end
	}
	return b.Backend.Put(ctx, key, value)
}

// A storage that hangs, whatever it is told, holds Stop up for a while only.
func TestStopStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &stuck{Backend: storage.Memory(), end: make(chan struct{})}
		st, err := storage.Open(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		defer close(b.end)
		cfg := Config{UseSocketHandler: true, Ports: Ports(0), Hostname: "mx.example.com", Domains: []Domain{{Domain: "example.com"}}, Routes: toMailboxes}
		cfg.Defaults.DKIM.KeySize = 1024
		s, err := New(cfg, WithStorage(st), WithMailbox(newMailbox(nil).take), WithResolver(noDNS{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.now.Store(true)
		if err := s.Suppressions().Add(Suppression{Address: "a@example.org", Reason: SuppressedUnsubscribe}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // now it is being stored
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err = s.Stop(ctx)
		if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || took > time.Second+lastWrites+lastAnswers+time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
