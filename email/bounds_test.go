package email

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/bounceaddr"
	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// A server that says a lot to each of a thousand recipients does not keep us from
// noting who has the message, nor from remembering it.
func TestManyLongReplies(t *testing.T) {
	s := start(t, Config{})
	r := s.current()
	env, p := &queued{From: "a@example.com", Arrived: time.Now()}, &progress{}
	for i := range 3000 {
		env.Recipients = append(env.Recipients, recipient{Address: fmt.Sprintf("somebody%d@example.net", i), Route: outgoing})
		p.Recipients = append(p.Recipients, state{State: delivered, Reply: clip(strings.Repeat("<", 1000)), Host: "mx.example.net", At: time.Now()})
		p.note(step{At: time.Now(), Kind: EventDelivered, Text: strings.Repeat("&", 1000)})
	}
	text, err := p.encode()
	if err != nil || len(text) > spool.MaxMeta {
		t.Fatalf("%d bytes of state, %v", len(text), err)
	}
	back, err := decodeProgress(text, len(env.Recipients))
	if err != nil || back.open() != 0 {
		t.Errorf("%d recipients are open again, %v", back.open(), err)
	}
	id := spool.NewID(time.Now())
	r.remember(id, env, p)
	st, err := s.EmailStatus(t.Context(), string(id))
	if err != nil || st.Status != StatusDelivered || len(st.Recipients) != 3000 {
		t.Errorf("%v: %v", st, err)
	}
}

// Bounces of one message that come at the same time are all noted.
func TestBouncesAllAtOnce(t *testing.T) {
	s := start(t, Config{})
	r := s.current()
	env, p := &queued{From: "a@example.com", Arrived: time.Now()}, &progress{}
	const recipients = 300
	for i := range recipients {
		env.Recipients = append(env.Recipients, recipient{Address: fmt.Sprintf("u%d@example.net", i), Route: outgoing})
		p.Recipients = append(p.Recipients, state{State: delivered})
	}
	id := spool.NewID(time.Now())
	r.remember(id, env, p)
	var wg sync.WaitGroup
	for i := range recipients {
		wg.Go(func() {
			if _, err := r.amend(t.Context(), bounceaddr.Bounce{ID: string(id), Recipient: i}, func(a *state) (step, bool) {
				a.State = bounced
				return step{Kind: EventBounced}, true
			}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	st, err := s.EmailStatus(t.Context(), string(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, rcpt := range st.Recipients {
		if rcpt.Status != StatusBounced {
			t.Errorf("%s is %s", rcpt.Address, rcpt.Status)
		}
	}
}

// Bounces that nobody takes are not kept: whoever forges senders would fill the
// spool with them.
func TestBouncesThatNobodyTakesGo(t *testing.T) {
	for name, sender := range map[string]string{"ours": "nobody@a.example", "another's": "nobody@nowhere.example"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{servers: map[string]*Server{}}
				cfg := relay("a.example")
				never := 0
				cfg.Queue.MaxRetries = &never
				cfg.Routes[0].Match.Recipients = []string{"known@a.example"}
				a := inBubble(t, n, cfg, WithResolver(hosts{"b.example": "192.0.2.2"}), WithMailbox(newMailbox(nil).take))
				defer a.stop()
				n.inject(t, a, "10.0.0.1", sender, "user@b.example", toB)
				time.Sleep(time.Hour)
				if left := ids(t, a); len(left) != 0 {
					t.Errorf("%d messages are kept", len(left))
				}
				if got := len(a.seen(EventFailed)); got != 2 {
					t.Errorf("%d failures, of the message and of its bounce", got)
				}
			})
		})
	}
}

// A webhook is also told of a message with a great many recipients.
func TestWebhookForManyRecipients(t *testing.T) {
	var mu sync.Mutex
	told := make(map[string]bool)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var body struct{ Data Event }
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, a := range body.Data.Recipients {
			told[a] = true
		}
	}))
	defer hook.Close()
	s := start(t, Config{Webhooks: []Webhook{{URL: hook.URL, Secret: "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}}})
	e := Event{Kind: EventReceived, MessageID: "1"}
	for i := range 1000 {
		e.Recipients = append(e.Recipients, fmt.Sprintf("%s%d@example.net", strings.Repeat("x", 60), i))
	}
	s.event(e)
	waitFor(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) == 1000
	})
}

// An envelope that the spool has no room for is refused for good: it comes no
// smaller another time.
func TestTooLargeAnEnvelope(t *testing.T) {
	cfg := Config{Routes: toMailboxes, Queue: Queue{Paused: true}}
	cfg.RateLimits.Inbound.RecipientsPerMessage = 10_000
	cfg.Routes = []Route{{Name: strings.Repeat("long", 50), Match: Match{Recipients: []string{"*@example.com"}}, Action: Action{Type: Process}}}
	s := start(t, cfg)
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	for i := range 5000 {
		c.say(fmt.Sprintf("RCPT TO:<%s%d@example.com>", strings.Repeat("x", 50), i), "250")
	}
	if got := c.data(hi); !strings.HasPrefix(got, "554 5.5.3") {
		t.Error(got)
	}
}

// A report that is due before the spool is read waits for that.
func TestReportBeforeTheSpoolIsRead(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &run{ready: make(chan struct{})}
	if err := r.postReport(ctx, "postmaster@example.com", "reports@example.net", nil); err == nil {
		t.Error("it was taken")
	}
}
