package email

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A mailbox of the host that panics puts off the recipient it was for, in the
// session and from the queue. The others have the message once.
func TestMailboxPanics(t *testing.T) {
	var calls atomic.Int32
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "c@example.com" && calls.Add(1) <= 3 {
			panic("boom")
		}
		return nil
	})
	s := start(t, Config{Routes: toMailboxes, Queue: Queue{RetryDelay: 10 * time.Millisecond}}, WithMailbox(m.take))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	c.say("RCPT TO:<d@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	waitFor(t, func() bool { return s.Stats().Spool == SpoolStats{} })
	var got []string
	for _, d := range m.all() {
		got = append(got, d.Recipient)
	}
	if want := []string{"b@example.com", "d@example.com", "c@example.com"}; !slices.Equal(got, want) || calls.Load() != 4 {
		t.Errorf("%q after %d calls", got, calls.Load())
	}

	calls.Store(0)
	if got := s.dial().hello().send("a@example.net", "c@example.com", hi); !strings.HasPrefix(got, "451 4.3.0 Local error") {
		t.Error(got)
	}
}

// Whoever is told of events and panics changes nothing of what has happened, and
// the others are told all the same.
func TestObserverPanics(t *testing.T) {
	m := newMailbox(nil)
	var told atomic.Int32
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take), WithHooks(Hooks{OnEvent: func(Event) { panic("boom") }}),
		WithObserver(func(e Event) {
			if e.Kind == EventDelivered {
				told.Add(1)
			}
			panic("boom")
		}), WithObserver(func(Event) { told.Add(1) }))
	if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	if len(m.all()) != 1 || told.Load() != 4 { // by the second of connected, delivered and received
		t.Errorf("%d messages, told %d times", len(m.all()), told.Load())
	}
}

// What panics in the queue puts off the message it was about, wherever that is:
// when the servers of its recipients are looked up, on the way to them, when that is
// noted, and at the end of the round.
func TestPanicsInTheQueue(t *testing.T) {
	for _, where := range []string{"lookup", "dial", "mail deferred", "mail delayed"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				ask := func(here string) {
					if here == where && calls.Add(1) == 1 {
						panic("boom")
					}
				}
				begin := time.Now()
				s := &script{answer: func(_ int, command string) string {
					if strings.HasPrefix(command, "RCPT") && strings.HasPrefix(where, "mail") && time.Since(begin) < 12*time.Hour {
						return "451 4.3.0 later"
					}
					return ""
				}}
				st := onStage(t, relay("a.example"), s,
					WithLogger(slog.New(askingHandler{slog.NewTextHandler(testLog{t}, nil), ask})),
					WithResolver(askingHosts{hosts{"b.example": "192.0.2.2"}, ask}),
					WithDialer(func(context.Context, netip.Addr, string, string) (net.Conn, error) {
						ask("dial")
						ours, theirs := net.Pipe()
						go s.serve(theirs)
						return ours, nil
					}))
				id := st.post("<user@a.example>", toB, "<x@b.example>")
				time.Sleep(48 * time.Hour)
				if got := st.status(id); got.Status != StatusDelivered || !slices.Equal(s.got(), []string{"x@b.example"}) || calls.Load() == 0 {
					t.Errorf("%+v\n%s\n%q, %d calls", got, timeline(got), s.got(), calls.Load())
				}
			})
		})
	}
}

// What panics at each try comes to an end like what fails: its sender is told when its
// time is up.
func TestAPanicIsATry(t *testing.T) {
	for _, where := range []string{"lookup", "dial", "mail deferred"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int32
				ask := func(here string) {
					if here == where {
						tries.Add(1)
						panic("boom")
					}
				}
				s := &script{answer: func(_ int, command string) string {
					if strings.HasPrefix(command, "RCPT") {
						return "451 4.3.0 later"
					}
					return ""
				}}
				cfg := relay("a.example")
				cfg.Queue.MaxAge = 12 * time.Hour
				st := onStage(t, cfg, s,
					WithLogger(slog.New(askingHandler{slog.NewTextHandler(testLog{t}, nil), ask})),
					WithResolver(askingHosts{hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}, ask}),
					WithDialer(func(context.Context, netip.Addr, string, string) (net.Conn, error) {
						ask("dial")
						ours, theirs := net.Pipe()
						go s.serve(theirs)
						return ours, nil
					}))
				id := st.post("<user@a.example>", toB, "<x@b.example>")
				time.Sleep(time.Hour)
				if n := tries.Load(); n < 3 {
					t.Errorf("%d tries in an hour", n)
				}
				time.Sleep(15 * time.Hour)
				if got := st.status(id); got.Status != StatusBounced {
					t.Errorf("%+v\n%s", got, timeline(got))
				}
				if got := st.inbox.all(); len(got) == 0 {
					t.Error("the sender was not told")
				}
			})
		})
	}
}

// askingHosts and askingHandler ask first.
type askingHosts struct {
	hosts
	ask func(string)
}

func (h askingHosts) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	if name == "b.example." {
		h.ask("lookup")
	}
	return h.hosts.LookupMX(ctx, name)
}

type askingHandler struct {
	slog.Handler
	ask func(string)
}

func (h askingHandler) Handle(ctx context.Context, r slog.Record) error {
	h.ask(r.Message)
	return h.Handler.Handle(ctx, r)
}

func (h askingHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return askingHandler{h.Handler.WithAttrs(a), h.ask}
}
