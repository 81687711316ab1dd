package email

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Each recipient of our own mail has a transaction of its own. Those that are
// through are noted before the next begins, so that a crash does not send to all
// of them again.
func TestEachTransactionIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		a := inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		sent := make(chan string, 1)
		var id string
		var done []int
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(func(ctx context.Context, d *Delivery) error {
			if id == "" {
				id = <-sent
			}
			st, err := a.EmailStatus(ctx, id)
			if err != nil {
				t.Error(err)
			}
			through := 0
			for _, rcpt := range st.Recipients {
				if rcpt.Status == StatusDelivered {
					through++
				}
			}
			done = append(done, through)
			return nil
		}))
		n.servers["192.0.2.2"] = b.Server
		name, err := a.SendEmail(t.Context(), Email{From: "user@a.example", To: []string{"1@b.example", "2@b.example", "3@b.example", "4@b.example"}, Subject: "x", Text: "x"})
		if err != nil {
			t.Fatal(err)
		}
		sent <- name
		time.Sleep(time.Minute)
		b.stop()
		if len(done) != 4 {
			t.Fatalf("%d deliveries", len(done))
		}
		for i, through := range done {
			if through != i {
				t.Errorf("at delivery %d, %d were noted", i+1, through)
			}
		}
		if st, err := a.EmailStatus(t.Context(), name); err != nil || st.Status != StatusDelivered {
			t.Errorf("%v, %v", st, err)
		}
	})
}

// What nobody could be asked about does not use up what may be sent.
func TestLimitsCountWhatWasSent(t *testing.T) {
	t.Run("dead site", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &network{servers: map[string]*Server{}}
			cfg := relay("a.example")
			cfg.Domains[0].RateLimits.Outbound.MessagesPerHour = 20
			cfg.Outbound.WarmUp.Pools = []SourcePool{{Name: "new", Addresses: []SourceAddress{{Address: "192.0.2.77"}}}}
			a := inBubble(t, n, cfg, WithResolver(hosts{"b.example": "192.0.2.2"}), WithMailbox(newMailbox(nil).take))
			defer a.stop()
			n.inject(t, a, "10.0.0.1", "user@a.example", "u@b.example", toB)
			time.Sleep(40 * time.Minute)
			if n.tried() < 2 {
				t.Errorf("%d tries", n.tried())
			}
			st := a.Stats()
			if got := st.Quotas["a.example"].Hour; got != 0 {
				t.Errorf("%d of what may be sent in an hour is used up", got)
			}
			for _, source := range st.Sources {
				if source.Today != 0 || source.Traffic.LastHour.Sent != 0 {
					t.Errorf("%d of what may be sent today from %q is used up", source.Today, source.Address)
				}
			}
		})
	})
	t.Run("panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg := relay("a.example")
			cfg.Domains[0].RateLimits.Outbound.MessagesPerHour = 20
			cfg.Outbound.WarmUp.Pools = []SourcePool{{Name: "new", Addresses: []SourceAddress{{Address: "192.0.2.77"}}}}
			var tries atomic.Int32
			st := onStage(t, cfg, nil, WithDialer(func(context.Context, netip.Addr, string, string) (net.Conn, error) {
				tries.Add(1)
				panic("boom")
			}))
			st.post("<user@a.example>", toB, "<u@b.example>")
			time.Sleep(40 * time.Minute)
			stats := st.Stats()
			if got := stats.Quotas["a.example"].Hour; got != 0 || tries.Load() < 2 {
				t.Errorf("%d of what may be sent in an hour is used up by %d tries", got, tries.Load())
			}
			for _, source := range stats.Sources {
				if source.Today != 0 {
					t.Errorf("%d of what may be sent today from %q is used up", source.Today, source.Address)
				}
			}
		})
	})
	t.Run("unusable smart host", func(t *testing.T) {
		ca, _, _ := testenv.SelfSigned(t, "mx.example.net")
		cfg := Config{
			Routes:    []Route{{Name: "all", Action: Action{Type: Process}}},
			SmartHost: &SmartHost{Host: "127.0.0.1", Port: 1, TLS: ClientTLS{Mode: StartTLS, CAPath: ca}},
		}
		cfg.RateLimits.Outbound.MessagesPerHour = 20
		s := start(t, cfg)
		if err := os.Remove(ca); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"b@example.net"}, Subject: "x", Text: "x"}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return len(s.seen(EventDeferred)) > 0 })
		waitFor(t, func() bool { return s.Stats().Quotas[""].Hour == 0 })
	})
}

// Complaints and bounces that come later count for the address that the mail went
// out from, and hold it.
func TestComplaintsHoldAnAddress(t *testing.T) {
	for what, report := range map[string]string{"complaints": complaint, "bounces": bounceOf("x@b.example", "5.1.1", "550 5.1.1 no such user")} {
		synctest.Test(t, func(t *testing.T) {
			cfg := relay("a.example")
			cfg.Outbound.WarmUp.Pools = []SourcePool{{Name: "new", Addresses: []SourceAddress{{Address: "192.0.2.77"}}}}
			st := onStage(t, cfg, &script{})
			one := Email{From: "ann@a.example", Subject: "x", Text: "x"}
			for i := range 20 {
				one.To = append(one.To, fmt.Sprintf("u%d@b.example", i))
			}
			id, err := st.SendEmail(t.Context(), one)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if got := st.status(id).Status; got != StatusDelivered {
				t.Fatal(got)
			}
			for i := range 2 {
				back, err := st.latest().returns.verp.Encode(id, i, "a.example")
				if err != nil {
					t.Fatal(err)
				}
				st.n.inject(t, st.server, "192.0.2.2", "", back, report)
			}
			time.Sleep(time.Minute)
			for _, s := range st.Stats().Sources {
				held := s.Providers["other"].Held
				if counts := s.Traffic.LastDay; s.Address == "192.0.2.77" && (counts.Delivered != 20 || counts.Complaints+counts.HardBounces != 2 || !strings.HasSuffix(held, what)) {
					t.Errorf("%s: %+v, held for %q", what, counts, held)
				}
			}
		})
	}
}

// A recipient on the suppression list stays there as long as was said, however
// often somebody writes.
func TestSuppressionIsNotRenewed(t *testing.T) {
	s := start(t, Config{Routes: []Route{{Name: "all", Action: Action{Type: Process}}}})
	ends := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	if err := s.Suppressions().Add(Suppression{Address: "gone@b.example", Reason: SuppressedBounce, Detail: "550 5.1.1 User unknown", Expires: ends}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"gone@b.example", "other@b.example"}, Subject: "x", Text: "x"}); err != nil {
		t.Fatal(err)
	}
	failed := func() (list []Event) {
		for _, e := range s.seen(EventFailed) {
			if e.Recipients[0] == "gone@b.example" {
				list = append(list, e)
			}
		}
		return list
	}
	waitFor(t, func() bool { return len(failed()) == 1 })
	if e := failed()[0]; e.Class != "block" || !strings.Contains(e.Reason, "suppression list") {
		t.Errorf("%+v", e)
	}
	got, ok := s.Suppressions().Check("gone@b.example")
	if !ok || !got.Expires.Equal(ends) || got.Detail != "550 5.1.1 User unknown" {
		t.Errorf("%+v", got)
	}
}

// A route that has got clients to trust while a stranger's message waited does not
// make us sign that.
func TestTrustIsForTheClient(t *testing.T) {
	s := start(t, Config{})
	rt := compileRoute(&Route{Name: "x", Match: Match{ClientIP: []string{"10.0.0.0/8"}}, Action: Action{Type: Process}}, 0)
	for client, want := range map[string]bool{"10.1.2.3": true, "192.0.2.1": false} {
		if got := s.current().vouches(&queued{ClientAddr: netip.MustParseAddr(client)}, rt); got != want {
			t.Errorf("vouches for a message from %s: %v", client, got)
		}
	}
}
