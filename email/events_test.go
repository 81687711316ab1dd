package email

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever looks for a refusal finds who was refused what, and what else the
// client did.
func TestEventsOfRefusals(t *testing.T) {
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "full@example.com" {
			return &Reply{Code: 452, Enhanced: [3]int{4, 2, 2}, Text: "Full"}
		}
		return nil
	})
	ts := &server{}
	hooks := Hooks{
		OnMail: func(_ context.Context, e *Envelope) error {
			if e.From == "bad@example.net" {
				return errors.New("no")
			}
			return nil
		},
		OnMessage: func(_ context.Context, msg *Message) error {
			if msg.From == "odd@example.net" {
				return errors.New("no")
			}
			return nil
		},
		OnEvent: ts.note,
	}
	s := start(t, Config{Routes: routes(t, `[
		{"name":"closed","priority":2,"match":{"recipients":"closed@example.com"},"action":{"type":"reject"}},
		{"name":"word","priority":1,"match":{"recipients":"w@example.com","subject":"forbidden"},"action":{"type":"reject"}},
		{"name":"open","priority":1,"match":{"recipients":"v@example.com","subject":"forbidden"},"action":{"type":"reject"}},
		{"name":"never","priority":1,"match":{"recipients":"v@example.com"},"action":{"type":"reject"}},
		{"name":"local","match":{"recipients":"*@example.com"},"action":{"type":"deliver"}}]`)}, WithMailbox(m.take), WithHooks(hooks))
	for _, test := range []struct {
		from, to, content string
		want              Event // and a reason that has Reason
	}{
		{"bad@example.net", "", "", Event{From: "bad@example.net", Reason: "451"}},
		{"a@example.net", "x@elsewhere.example", "", Event{From: "a@example.net", Recipients: []string{"x@elsewhere.example"}, Reason: "Relaying denied", Security: true}},
		{"", "closed@example.com", "", Event{Recipients: []string{"closed@example.com"}, Route: "closed", Reason: "Rejected by policy"}},
		{"a@example.net", "w@example.com", strings.Replace(hi, "hi", "forbidden", 1), Event{From: "a@example.net", Recipients: []string{"w@example.com"}, Route: "word", MessageID: "some", Reason: "Rejected by policy"}},
		{"a@example.net", "v@example.com", "", Event{From: "a@example.net", Recipients: []string{"v@example.com"}, Route: "never", Reason: "Rejected by policy"}},
		{"odd@example.net", "b@example.com", hi, Event{From: "odd@example.net", Recipients: []string{"b@example.com"}, MessageID: "some", Reason: "451"}},
		{"a@example.net", "full@example.com", hi, Event{From: "a@example.net", Recipients: []string{"full@example.com"}, MessageID: "some", Reason: "452 4.2.2 Full"}},
		{"a@example.net", "b@example.com", strings.Repeat("Received: by x\r\n", 51) + hi, Event{From: "a@example.net", Recipients: []string{"b@example.com"}, MessageID: "some", Reason: "554 5.4.6"}},
	} {
		before := len(ts.seen(EventRefused))
		c := s.dial().hello()
		fmt.Fprintf(c, "MAIL FROM:<%s>\r\n", test.from)
		if got := c.reply(); got[0] == '2' && test.to != "" {
			fmt.Fprintf(c, "RCPT TO:<%s>\r\n", test.to)
			if got = c.reply(); got[0] == '2' {
				c.data(test.content)
			}
		}
		list := ts.seen(EventRefused)
		if len(list) != before+1 {
			t.Errorf("%+v: %d events", test, len(list)-before)
			continue
		}
		got, connected := list[before], ts.seen(EventConnected)
		if got.From != test.want.From || !slices.Equal(got.Recipients, test.want.Recipients) || got.Route != test.want.Route || got.Security != test.want.Security ||
			(got.MessageID != "") != (test.want.MessageID != "") || !strings.Contains(got.Reason, test.want.Reason) || got.ConnID != connected[len(connected)-1].ConnID {
			t.Errorf("%+v: %+v", test.want, got)
		}
	}

	// Those who come apart are told of as well.
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<w@example.com>", "452 4.5.3")
	if list := ts.seen(EventRefused); list[len(list)-1].Recipients[0] != "w@example.com" || s.Stats().Refused["split"] != 1 {
		t.Errorf("%+v", list[len(list)-1])
	}
}

// Whoever is told of what became of a message finds it in the message's status.
func TestStateComesBeforeEvents(t *testing.T) {
	for kind, say := range map[string]func(command string) string{
		StatusDelivered: func(string) string { return "" },
		StatusBounced:   func(command string) string { return refuse(command, "RCPT", "550 5.1.1 nobody") },
		StatusPending:   func(command string) string { return refuse(command, "RCPT", "450 4.2.1 later") },
		"some":          func(command string) string { return refuse(command, "RCPT TO:<b1@", "450 4.2.1 later") },
	} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var st *stage
				var mu sync.Mutex
				told := map[string]int{}
				tell := func(e Event) {
					if e.Kind != EventDelivered && e.Kind != EventDeferred && e.Kind != EventFailed {
						return
					}
					got, err := st.EmailStatus(context.Background(), e.MessageID)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					told[e.Kind]++
					for _, r := range got.Recipients {
						if r.Address != e.Recipients[0] {
							continue
						}
						want := map[string]string{EventDelivered: StatusDelivered, EventDeferred: StatusPending, EventFailed: StatusBounced}[e.Kind]
						if r.Status != want || r.Reply != e.Reason || e.Kind == EventDeferred && !got.Next.After(time.Now()) {
							t.Errorf("told of %s: %+v, next %v", e.Kind, r, got.Next)
						}
					}
				}
				st = onStage(t, relay("a.example"), &script{answer: func(_ int, command string) string { return say(command) }}, WithObserver(tell))
				st.post("<user@a.example>", toB, "<b1@b.example>", "<b2@b.example>")
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				n := 0
				for _, k := range told {
					n += k
				}
				if n < 2 {
					t.Errorf("told of %v", told)
				}
			})
		})
	}
}

func refuse(command, prefix, reply string) string {
	if strings.HasPrefix(command, prefix) {
		return reply
	}
	return ""
}
