package email

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
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

// A storage that hangs, whatever it is told, holds Stop up for a while only.
func TestStopStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, st := openStuck(t)
		cfg := Config{UseSocketHandler: true, Ports: Ports(0), Hostname: "mx.example.com", Domains: []Domain{{Domain: "example.com"}}, Routes: toMailboxes}
		cfg.Defaults.DKIM.KeySize = 1024
		s, err := New(cfg, WithStorage(st), WithMailbox(newMailbox(nil).take), WithResolver(noDNS{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Stick()
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

// Nor does a session hold it up whose mailbox hangs, and no delivery begins when the
// time for Stop is over.
func TestStopSessionHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var over atomic.Bool
		end := make(chan struct{})
		cfg := Config{Domains: []Domain{{Domain: "example.com"}}, Routes: toMailboxes, Queue: Queue{RetryDelay: time.Second}}
		cfg.Defaults.DKIM.KeySize = 1024
		n := &network{}
		s := inBubble(t, n, cfg, WithResolver(noDNS{}), WithMailbox(func(_ context.Context, d *Delivery) error {
			switch {
			case d.Recipient == "hang@example.com":
				<-end
			case over.Load():
				t.Error("a delivery has begun after the end of Stop's time")
			}
			return &Reply{Code: 451, Enhanced: [3]int{4, 0, 0}, Text: "later"}
		}))
		if _, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"b@example.com"}, Subject: "x", Text: "y"}); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		defer ours.Close()
		go s.ServeConn(context.Background(), theirs, SMTP, ConnInfo{Client: netip.MustParseAddrPort("192.0.2.1:30000")})
		go io.Copy(io.Discard, ours)
		for _, line := range []string{"HELO x\r\n", "MAIL FROM:<a@example.net>\r\n", "RCPT TO:<hang@example.com>\r\n", "DATA\r\n", "From: a@example.net\r\n\r\n.\r\n"} {
			io.WriteString(ours, line)
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		defer context.AfterFunc(ctx, func() { time.Sleep(time.Second); over.Store(true) })()
		began := time.Now()
		err := s.Stop(ctx)
		if took := time.Since(began); !errors.Is(err, grace.ErrHangs) || took > time.Second+lastWrites+lastAnswers+time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		close(end)
	})
}

// What is asked for metrics does not wait for a Start whose storage does not answer.
func TestStatsWhileStartHangs(t *testing.T) {
	b, st := openStuck(t)
	cfg := Config{UseSocketHandler: true, Ports: Ports(0), Hostname: "mx.example.com", Domains: []Domain{{Domain: "example.com"}}, Routes: toMailboxes}
	cfg.Defaults.DKIM.KeySize = 1024
	s, err := New(cfg, WithStorage(st), WithMailbox(newMailbox(nil).take), WithResolver(noDNS{}))
	if err != nil {
		t.Fatal(err)
	}
	b.Stick()
	started := make(chan error, 1)
	go func() { started <- s.Start(t.Context()) }()
	testenv.Receive(t, b.Hung())
	s.Stats()
	s.Addrs()
	b.Free()
	if err := testenv.Receive(t, started); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
