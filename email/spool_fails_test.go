package email

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// faulty is a backend that fails where a test wants it to.
type faulty struct {
	storage.Backend
	mu   sync.Mutex
	when func(op, key string) bool
}

// fail has the operations fail for which when is true; nil ends that.
func (f *faulty) fail(when func(op, key string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.when = when
}

func (f *faulty) err(op, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.when != nil && f.when(op, key) {
		return errors.New("i/o timeout")
	}
	return nil
}

func (f *faulty) Get(ctx context.Context, key string) ([]byte, error) {
	if err := f.err("get", key); err != nil {
		return nil, err
	}
	return f.Backend.Get(ctx, key)
}

func (f *faulty) Put(ctx context.Context, key string, value []byte) error {
	if err := f.err("put", key); err != nil {
		return err
	}
	return f.Backend.Put(ctx, key, value)
}

func (f *faulty) Delete(ctx context.Context, key string) error {
	if err := f.err("delete", key); err != nil {
		return err
	}
	return f.Backend.Delete(ctx, key)
}

// spoolFails is a storage whose spool keeps what is done: messages stay, and with
// states nothing more of them is noted.
func spoolFails(states bool) func(op, key string) bool {
	return func(op, key string) bool {
		return op == "delete" && strings.HasPrefix(key, "email/spool/messages/") || states && op == "put" && strings.HasPrefix(key, "email/spool/states/")
	}
}

// onFaulty runs a test in a bubble with a server whose spool is in a backend that
// fails, and a message that it has.
func onFaulty(t *testing.T, cfg Config, test func(t *testing.T, f *faulty, start func() *server, m *mailboxes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{Backend: storage.Memory()}
		store, err := storage.Open(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		cfg.Domains, cfg.Routes = []Domain{{Domain: "example.com"}}, toMailboxes
		m := newMailbox(nil)
		test(t, f, func() *server {
			return inBubble(t, &network{}, cfg, WithResolver(noDNS{}), WithStorage(store), WithMailbox(m.take))
		}, m)
	})
}

func sendHello(t *testing.T, s *server) (id string) {
	t.Helper()
	id, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"b@example.com"}, Subject: "hi", Text: "Hello."})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// What is delivered and cannot be removed from the spool at that time is removed
// later, and not delivered again by the next Server.
func TestRemoveIsTriedAgain(t *testing.T) {
	deliver := func(t *testing.T, f *faulty, start func() *server, m *mailboxes, when func(op, key string) bool) *server {
		t.Helper()
		f.fail(when)
		s := start()
		id := sendHello(t, s)
		synctest.Wait()
		if st, err := s.EmailStatus(t.Context(), id); err != nil || st.Status != StatusDelivered {
			t.Errorf("%+v, %v", st, err)
		}
		if len(m.all()) != 1 || s.Stats().Spool.Messages != 1 {
			t.Fatalf("%d delivered, %+v", len(m.all()), s.Stats().Spool)
		}
		return s
	}
	again := func(t *testing.T, start func() *server, m *mailboxes) {
		t.Helper()
		s := start()
		defer s.stop()
		time.Sleep(time.Hour)
		if len(m.all()) != 1 || s.Stats().Spool.Messages != 0 {
			t.Errorf("after a restart: %d delivered, %+v", len(m.all()), s.Stats().Spool)
		}
	}
	t.Run("soon", func(t *testing.T) {
		onFaulty(t, Config{}, func(t *testing.T, f *faulty, start func() *server, m *mailboxes) {
			s := deliver(t, f, start, m, spoolFails(true))
			time.Sleep(10 * time.Minute)
			if s.Stats().Spool.Messages != 1 {
				t.Error("it is gone")
			}
			f.fail(nil)
			time.Sleep(2 * time.Minute)
			if s.Stats().Spool.Messages != 0 {
				t.Errorf("it is still in the spool: %+v", s.Stats().Spool)
			}
			s.stop()
			again(t, start, m)
			if n := len(s.seen(EventDelivered)); n != 1 {
				t.Errorf("%d events tell that it is delivered", n)
			}
		})
	})
	t.Run("at Stop", func(t *testing.T) {
		onFaulty(t, Config{}, func(t *testing.T, f *faulty, start func() *server, m *mailboxes) {
			s := deliver(t, f, start, m, spoolFails(true))
			f.fail(nil)
			s.stop()
			again(t, start, m)
		})
	})
	t.Run("after Stop", func(t *testing.T) {
		onFaulty(t, Config{}, func(t *testing.T, f *faulty, start func() *server, m *mailboxes) {
			deliver(t, f, start, m, spoolFails(false)).stop()
			f.fail(nil)
			again(t, start, m)
		})
	})
}

// Nor does a message stay whose time to be kept is over.
func TestExpiryIsTriedAgain(t *testing.T) {
	cfg := Config{Queue: Queue{Paused: true, KeepHeld: time.Hour}}
	onFaulty(t, cfg, func(t *testing.T, f *faulty, start func() *server, m *mailboxes) {
		s := start()
		defer s.stop()
		id := sendHello(t, s)
		if err := errors.Join(s.Quarantine(t.Context(), id, "a test"), s.ResumeQueue()); err != nil {
			t.Fatal(err)
		}
		f.fail(spoolFails(false))
		time.Sleep(2 * time.Hour)
		if len(s.seen(EventExpired)) != 0 || s.Stats().Spool.Quarantined != 1 {
			t.Fatalf("%+v", s.Stats().Spool)
		}
		f.fail(nil)
		time.Sleep(maxRetryDelay)
		if len(s.seen(EventExpired)) != 1 || len(m.all()) != 0 || s.Stats().Spool != (SpoolStats{}) {
			t.Errorf("%d delivered, %+v", len(m.all()), s.Stats().Spool)
		}
	})
}

// A message that cannot be read while a Server starts is delivered once it can be.
func TestUnreadMailIsReadAgain(t *testing.T) {
	onFaulty(t, Config{}, func(t *testing.T, f *faulty, start func() *server, m *mailboxes) {
		s := start()
		if err := s.PauseQueue(); err != nil {
			t.Fatal(err)
		}
		delivered, dropped, held := sendHello(t, s), sendHello(t, s), sendHello(t, s)
		if err := s.Quarantine(t.Context(), held, "a test"); err != nil {
			t.Fatal(err)
		}
		s.stop()

		f.fail(func(op, key string) bool { return op == "get" && strings.HasPrefix(key, "email/spool/messages/") })
		s = start()
		defer s.stop()
		f.fail(nil)
		if err := s.Drop(t.Context(), dropped); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if got := m.all(); len(got) != 1 || got[0].ID != delivered {
			t.Errorf("%d delivered", len(got))
		}
		if st := s.Stats().Spool; st.Messages != 1 || st.Quarantined != 1 {
			t.Errorf("%+v", st)
		}
	})
}
