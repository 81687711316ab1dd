package email

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// loser is a backend that takes its leases away from time to time.
type loser struct {
	storage.Backend
	leases storage.Leaser
	lose   atomic.Bool
}

func (b *loser) AcquireLease(ctx context.Context, name string, ttl time.Duration) (uint64, error) {
	if b.lose.Load() {
		return 0, storage.ErrLocked
	}
	return b.leases.AcquireLease(ctx, name, ttl)
}

func (b *loser) RenewLease(ctx context.Context, name string, token uint64, ttl time.Duration) error {
	if b.lose.Load() {
		return storage.ErrLeaseLost
	}
	return b.leases.RenewLease(ctx, name, token, ttl)
}

func (b *loser) ReleaseLease(ctx context.Context, name string, token uint64) error {
	return b.leases.ReleaseLease(ctx, name, token)
}

// A Server whose spool is in a storage says so when it has lost the lease, and goes
// on with the next one. If another Server had the spool meanwhile, it has ended.
func TestSpoolLeaseLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storage.Memory()
		b := &loser{Backend: m, leases: m.(storage.Leaser)}
		st, err := storage.Open(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		cfg := Config{UseSocketHandler: true, Ports: Ports(0), Hostname: "mx.example.com", Domains: []Domain{{Domain: "example.com"}}, Routes: toMailboxes}
		cfg.Defaults.DKIM.KeySize = 1024
		s, err := New(cfg, WithStorage(st), WithMailbox(newMailbox(nil).take), WithResolver(noDNS{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Stop(context.WithoutCancel(t.Context()))
		ended := make(chan error, 1)
		go func() { ended <- s.Wait() }()
		send := func() error {
			_, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"b@example.com"}, Subject: "s", Text: "t"})
			return err
		}
		if err := send(); err != nil || s.Stats().Spool.Unusable {
			t.Fatal(err, s.Stats().Spool)
		}
		b.lose.Store(true)
		time.Sleep(20 * time.Second)
		if err := send(); err == nil || !s.Stats().Spool.Unusable {
			t.Error("without the lease:", err, s.Stats().Spool)
		}
		b.lose.Store(false)
		time.Sleep(20 * time.Second)
		if err := send(); err != nil || s.Stats().Spool.Unusable {
			t.Error("with the next one:", err, s.Stats().Spool)
		}
		b.lose.Store(true)
		if err := st.Put(t.Context(), "email/spool/holder", []byte("another")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		select {
		case err := <-ended:
			if err == nil {
				t.Error("no error says that another has the spool")
			}
		default:
			t.Error("another has the spool, and it has not ended")
		}
	})
}
