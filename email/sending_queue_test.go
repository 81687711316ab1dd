package email

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An operator who has mended something has a message tried at once, whether it
// waits, its servers have a rest, or it was given up.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		s := &script{answer: func(_ int, command string) string {
			if down.Load() && command == "" {
				return "421 4.3.2 down!"
			}
			return ""
		}}
		never := 0
		cfg := relay("a.example")
		cfg.Queue.MaxRetries = &never
		// With the null sender nobody can be told, and the message stays.
		st := onStage(t, cfg, s)
		id := st.post("<>", toB, "<bob@b.example>")
		time.Sleep(time.Minute)
		got := st.status(id)
		if got.Status != StatusBounced || !got.Next.IsZero() || len(s.got()) != 0 {
			t.Errorf("given up: %+v", got)
		}
		if err := st.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got = st.status(id); got.Status != StatusBounced || strings.Count(timeline(got), "421 4.3.2 down") < 2 {
			t.Errorf("tried in vain: %+v\n%s", got, timeline(got))
		}
		down.Store(false)
		if err := st.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got = st.status(id); got.Status != StatusDelivered || !slices.Equal(s.got(), []string{"bob@b.example"}) {
			t.Errorf("mended: %+v\n%s", got, timeline(got))
		}
		if err := st.Retry(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("of a message that has left: %v", err)
		}
	})
}

// The same for many messages to servers that have a rest.
func TestRetryEndsTheRestOfASite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		s := &script{answer: func(_ int, command string) string {
			if down.Load() && command == "" {
				return "421 4.3.2 down!"
			}
			return ""
		}}
		st := onStage(t, relay("a.example"), s)
		var ids []string
		for i := range 30 {
			ids = append(ids, st.post("<user@a.example>", toB, fmt.Sprintf("<u%d@b.example>", i)))
		}
		time.Sleep(time.Second)
		if sites := st.Stats().Deliveries.Sites; len(sites) != 1 || sites[0].Rest.IsZero() {
			t.Fatalf("sites: %+v", sites)
		}
		down.Store(false)
		if err := st.Retry(t.Context(), ids[20]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := s.got(); !slices.Contains(got, "u20@b.example") {
			t.Errorf("taken: %q", got)
		}
		time.Sleep(2 * time.Hour)
		if got := s.got(); len(got) != 30 {
			t.Errorf("%d of 30 arrived", len(got))
		}
	})
}

// What is dropped is gone, is not tried again, and is remembered as dropped.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(_ int, command string) string {
			if strings.HasPrefix(command, "RCPT") {
				return "450 4.2.1 later"
			}
			return ""
		}}
		st := onStage(t, relay("a.example"), s)
		id := st.post("<user@a.example>", toB, "<bob@b.example>")
		time.Sleep(time.Minute)
		if err := st.Drop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := st.Drop(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("once more: %v", err)
		}
		conns := s.connections()
		time.Sleep(6 * 24 * time.Hour)
		got := st.status(id)
		if last := got.Timeline[len(got.Timeline)-1]; last.Kind != EventDropped || !got.Next.IsZero() || got.Status == StatusPending {
			t.Errorf("%+v\n%s", got, timeline(got))
		}
		if s.connections() != conns || len(st.inbox.all()) != 0 || st.Stats().Spool.Messages != 0 {
			t.Errorf("%d connections after it, %d bounces, %+v", s.connections()-conns, len(st.inbox.all()), st.Stats().Spool)
		}
		if e := st.seen(EventDropped); len(e) != 1 || e[0].MessageID != id {
			t.Errorf("%+v", e)
		}
	})
}

// oneEachSecond is a server that takes a second for a message, and the configuration
// of one that sends it one at a time, and none before it is told to.
func oneEachSecond() (*script, Config) {
	s := &script{answer: func(_ int, command string) string {
		if command == "." {
			time.Sleep(time.Second)
		}
		return ""
	}}
	cfg := relay("a.example")
	cfg.Queue.Paused = true
	cfg.Queue.ConcurrencyPerSite = 1
	return s, cfg
}

// A pause accepts mail and sends none; what has priority goes first after it.
func TestPauseAndPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cfg := oneEachSecond()
		st := onStage(t, cfg, s)
		for i := range 50 {
			st.post("<user@a.example>", toB, fmt.Sprintf("<u%d@b.example>", i))
			time.Sleep(time.Second)
		}
		urgent := Email{From: "ann@a.example", To: []string{"urgent@b.example"}, Subject: "now", Text: "x", Queue: PriorityQueue}
		if _, err := st.SendEmail(t.Context(), urgent); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if st := st.Stats().Spool; s.connections() != 0 || st.Messages != 51 || !st.Paused {
			t.Errorf("paused: %d connections, %+v", s.connections(), st)
		}
		if err := st.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if at := slices.Index(s.got(), "urgent@b.example"); at < 0 || at > 1 {
			t.Errorf("what has priority came as number %d of %q", at, s.got())
		}
		if err := st.PauseQueue(); err != nil {
			t.Fatal(err)
		}
		// What was handed to the scheduler goes on; what comes now waits.
		id := st.post("<user@a.example>", toB, "<late@b.example>")
		time.Sleep(time.Hour)
		if slices.Contains(s.got(), "late@b.example") {
			t.Error("sent in spite of the pause")
		}
		if err := st.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if got := st.status(id); got.Status != StatusDelivered || len(s.got()) != 52 {
			t.Errorf("%d of 52: %+v", len(s.got()), got)
		}
	})
}

// A message in quarantine goes on to its destination when it is released.
func TestReleaseSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		cfg := relay("a.example")
		cfg.Scanners = []Scanner{{Type: SpamScanner, Action: QuarantineMail}}
		cfg.Routes[1].Action.Process = &ProcessAction{Scan: true}
		st := onStage(t, cfg, s)
		id := st.post("<user@a.example>", toB+"\r\nXJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X", "<bob@b.example>")
		time.Sleep(time.Hour)
		if got := st.status(id); got.Status != StatusPending || s.connections() != 0 || st.Stats().Spool.Quarantined != 1 {
			t.Fatalf("%d connections: %+v", s.connections(), got)
		}
		if err := st.Retry(t.Context(), id); err == nil || !strings.Contains(err.Error(), "quarantine") {
			t.Errorf("Retry: %v", err)
		}
		if err := st.Release(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := st.status(id); got.Status != StatusDelivered || len(s.got()) != 1 || st.Stats().Spool.Quarantined != 0 {
			t.Errorf("%+v, %+v", got, st.Stats().Spool)
		}
	})
}

// Routes that change while mail waits change where it goes.
func TestRoutesChangeWhileMailWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		cfg := relay("a.example")
		next := func(host string) Route {
			return Route{Name: "next", Priority: 5, Match: Match{Recipients: []string{"*@c.example"}}, Action: Action{Type: Forward, Forward: &ForwardAction{Host: host, Queue: true}}}
		}
		cfg.Routes = append(cfg.Routes, next("192.0.2.9"))
		st := onStage(t, cfg, s)
		update := func(list ...Route) {
			t.Helper()
			if err := st.UpdateRoutes(t.Context(), append(slices.Clone(relay("a.example").Routes), list...)); err != nil {
				t.Fatal(err)
			}
		}
		// Another host in the same route.
		id := st.post("<user@a.example>", toB, "<x@c.example>")
		time.Sleep(time.Minute)
		if got := st.status(id); got.Status != StatusPending || !strings.Contains(timeline(got), "connection refused") {
			t.Fatalf("%+v\n%s", got, timeline(got))
		}
		update(next("192.0.2.2"))
		time.Sleep(20 * time.Minute)
		if got := st.status(id); got.Status != StatusSent || !slices.Equal(s.got(), []string{"x@c.example"}) {
			t.Errorf("%+v\n%s", got, timeline(got))
		}

		// No such route any more, and no other takes it, until there is one again.
		// The client's own right to send does not outlast its route.
		update(next("192.0.2.9"))
		id = st.post("<user@a.example>", toB, "<y@c.example>")
		time.Sleep(time.Minute)
		if err := st.UpdateRoutes(t.Context(), relay("a.example").Routes[:1]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stuck := 0
		for m, err := range st.Queue(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Stuck && m.ID == id {
				stuck++
			}
		}
		if stuck != 1 {
			t.Errorf("%d messages are stuck", stuck)
		}
		update(next("192.0.2.2"))
		time.Sleep(time.Minute)
		if got := st.status(id); got.Status != StatusSent || !slices.Contains(s.got(), "y@c.example") {
			t.Errorf("%+v\n%s", got, timeline(got))
		}
	})
}

// What a route has taken to deliver does not leave by it when it becomes one that
// sends on, unless the mail may: else it would be a way around what new mail is
// asked.
func TestQueuedMailIsNotRelayed(t *testing.T) {
	for action, leaves := range map[string]bool{
		`"action":{"type":"process"}`: false,
		`"action":{"type":"forward","forward":{"host":"192.0.2.2","queue":true}}`: false,
		`"match":{"clientIp":"10.0.0.0/8"},"action":{"type":"process"}`:           false,
		`"match":{"recipients":"*@another.example"},"action":{"type":"process"}`:  false,
		`"match":{"clientIp":"203.0.113.0/24"},"action":{"type":"process"}`:       true,
		`"match":{"recipients":"*@b.example"},"action":{"type":"process"}`:        true,
		`"match":{"recipients":"*@a.example"},"action":{"type":"deliver"}`:        true, // into the mailbox
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &script{}
			cfg := relay("a.example")
			cfg.Routes = routes(t, `[{"name":"in","action":{"type":"deliver"}}]`)
			st := onStage(t, cfg, s)
			var open atomic.Bool
			st.inbox.decide = func(d *Delivery) error {
				if d.Recipient == "x@b.example" && !open.Load() {
					return &Reply{Code: 450, Text: "later"}
				}
				return nil
			}
			c := dialPipe(t, st.server, "203.0.113.5")
			c.say("MAIL FROM:<a@c.example>", "250")
			c.say("RCPT TO:<user@a.example>", "250")
			c.say("RCPT TO:<x@b.example>", "250")
			if got := c.data(toB); !strings.HasPrefix(got, "250") {
				t.Fatal(got)
			}
			c.Close()
			if err := st.UpdateRoutes(t.Context(), routes(t, `[{"name":"in",`+action+`}]`)); err != nil {
				t.Fatal(err)
			}
			open.Store(true)
			time.Sleep(time.Hour)
			if got := len(s.got()) + len(st.inbox.all()) - 1; (got == 1) != leaves {
				t.Errorf("%s: %q", action, s.got())
			}
			if leaves {
				return
			}
			for m, err := range st.Queue(t.Context()) {
				if err != nil || !m.Stuck {
					t.Errorf("%s: %+v, %v", action, m, err)
				}
			}
			if err := st.UpdateRoutes(t.Context(), cfg.Routes); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if got := st.inbox.all(); len(got) != 2 || st.Stats().Spool.Messages != 0 {
				t.Errorf("%s, and delivering again: %d messages", action, len(got))
			}
		})
	}
}

// Users cannot send to who is on the suppression list, and are told at once; what
// waits for one who gets onto it meanwhile fails. Mail from elsewhere is not ours
// to suppress.
func TestSuppressionOfUsersMail(t *testing.T) {
	next := moody(t, func(_ int, command string) string {
		if strings.HasPrefix(command, "RCPT TO:<later@") {
			return "450 4.2.1 later"
		}
		return ""
	})
	cfg := submission(t, Submission)
	cfg.Ports = append(cfg.Ports, Port{Mode: SMTP})
	cfg.Routes = []Route{{Name: "in", Priority: 1, Match: Match{Recipients: []string{"*@example.com"}}, Action: Action{Type: Deliver}},
		{Name: "trusted", Match: Match{ClientIP: []string{"127.0.0.0/8"}}, Action: Action{Type: Process}}}
	inbox := newMailbox(nil)
	s := start(t, cfg, WithMailbox(inbox.take), toPorts(map[string]int{"192.0.2.2": next.Port}),
		WithResolver(resolver(t, "b.example. 60 IN MX 10 mx.b.example.\nmx.b.example. 60 IN A 192.0.2.2")))
	if err := s.Suppressions().Add(Suppression{Address: "Gone@b.example", Reason: SuppressedComplaint, Detail: "abuse"}); err != nil {
		t.Fatal(err)
	}
	c := s.dial().hello()
	c.startTLS().say("EHLO client.example.net", "250")
	c.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "235 2.7.0")
	c.say("MAIL FROM:<alice@example.com>", "250")
	if got := c.say("RCPT TO:<gone@b.example>", "550 5.7.1 "); !strings.Contains(got, "suppression list") {
		t.Errorf("%q", got)
	}
	c.say("RCPT TO:<bob@b.example>", "250")
	c.say("RCPT TO:<later@b.example>", "250")
	reply := c.data(strings.ReplaceAll(hi, "a@example.net", "alice@example.com"))
	var id string
	if _, err := fmt.Sscanf(reply, "250 2.0.0 Accepted as %s", &id); err != nil {
		t.Fatal(reply)
	}
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) == 1 })
	if err := s.Suppressions().Add(Suppression{Address: "later@b.example", Reason: SuppressedManual}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Retry(t.Context(), id) == nil }) // not while it is under way
	st := waitForStatus(t, s, id, StatusBounced)
	if st.Recipients[0].Status != StatusDelivered || st.Recipients[1].Code != "5.7.1" || !strings.Contains(st.Recipients[1].Reply, "suppression list") {
		t.Errorf("%+v", st.Recipients)
	}
	waitFor(t, func() bool { return len(inbox.all()) == 1 })
	if m := inbox.all()[0]; m.Recipient != "alice@example.com" || !strings.Contains(m.content, "suppression list") {
		t.Errorf("%s", m.content)
	}

	other := dialSMTP(t, s.Addrs()[1].String()).hello()
	other.say("MAIL FROM:<x@example.net>", "250")
	other.say("RCPT TO:<gone@b.example>", "250")
	if got := other.data(hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(s.seen(EventDelivered)) == 3 }) // with the bounce
}

// A header of the greatest length that is let in goes out with ours before it, also
// where it ends with a line that is none of it.
func TestLongHeaderIsSent(t *testing.T) {
	for name, end := range map[string]string{"empty line": "\r\n\r\n", "no field": "\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			st := onStage(t, relay("a.example"), &script{})
			header, body, _ := strings.Cut(toB, "\r\n\r\n")
			for len(header) < maxHeader {
				header += "\r\nX-Long: " + strings.Repeat("x", 900)
			}
			header = header[:maxHeader-1-len(end)]
			id := st.post("<user@a.example>", header+end+body, "<bob@b.example>")
			time.Sleep(time.Minute)
			if got := st.status(id); got.Status != StatusDelivered {
				t.Errorf("%s: %+v", name, got)
			}
		})
	}
}
