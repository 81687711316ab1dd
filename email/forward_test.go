package email

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/spool"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// forwardTo makes a route that forwards to a server under test.
func forwardTo(t testing.TB, next *server, more string) string {
	t.Helper()
	return fmt.Sprintf(`{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d%s}}}`, portOf(next.Addrs()[0]), more)
}

func portOf(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }

func TestForwardInSession(t *testing.T) {
	m := newMailbox(nil)
	next := start(t, Config{Hostname: "next.example.com", Routes: routes(t, `[
		{"name":"no","priority":1,"match":{"recipients":"no@example.com"},"action":{"type":"reject","reject":{"code":551,"message":"Moved away"}}},
		{"name":"later","priority":1,"match":{"recipients":"later@example.com"},"action":{"type":"reject","reject":{"code":450,"message":"Out to lunch"}}},
		{"name":"word","priority":1,"match":{"subject":"forbidden"},"action":{"type":"reject","reject":{"message":"That word"}}},
		{"name":"rest","action":{"type":"deliver"}}]`)}, WithMailbox(m.take))
	s := start(t, Config{Routes: routes(t, `[`+forwardTo(t, next, `,"addHeaders":{"X-Forwarded-By":"dcrouter"}`)+`]`)})
	c := s.dial().hello()
	for range 2 { // the second over the same connection
		c.say("MAIL FROM:<a@example.net>", "250")
		c.say("RCPT TO:<no@example.com>", "551 5.7.1 Moved away")
		c.say("RCPT TO:<later@example.com>", "450 4.7.1 Out to lunch")
		c.say("RCPT TO:<b@example.com>", "250")
		c.say("RCPT TO:<c@example.com>", "250")
		if got := c.data(hi + "\r\n..dot\r\nümlaut"); !strings.HasPrefix(got, "250 2.0.0") {
			t.Fatal(got)
		}
	}
	if got := c.send("a@example.net", "b@example.com", strings.Replace(hi, "hi", "forbidden", 1)); !strings.HasPrefix(got, "550 5.7.1 That word") {
		t.Error(got)
	}
	got := m.all()
	if len(got) != 4 || got[0].Recipient != "b@example.com" || got[1].Recipient != "c@example.com" {
		t.Fatalf("%d deliveries", len(got))
	}
	if !strings.Contains(got[0].content, "\r\nX-Forwarded-By: dcrouter\r\nReceived: ") || !strings.HasSuffix(got[0].content, hi+"\r\n.dot\r\nümlaut\r\n") {
		t.Error(got[0].content)
	}
	if n := next.Stats().Connections.Total; n != 1 {
		t.Errorf("%d connections for one client", n)
	}
	if st := s.Stats(); st.Spool.Messages != 0 || st.Deliveries.Forwarded != 4 {
		t.Errorf("%+v", st)
	}
}

// What the next server has not been asked about is not accepted: a stranger's
// message to several of them comes in several.
func TestForwardToSeveral(t *testing.T) {
	m := newMailbox(nil)
	toB := routes(t, `[{"name":"b","match":{"recipients":"b@*"},"action":{"type":"deliver"}}]`)
	first, second := start(t, Config{Routes: toB}, WithMailbox(m.take)), start(t, Config{Routes: toB}, WithMailbox(m.take))
	to := func(s *server, domain string) string {
		return strings.ReplaceAll(forwardTo(t, s, ""), "example.com", domain)
	}
	cfg := submission(t, SMTP)
	cfg.Domains = []Domain{{Domain: "example.com"}, {Domain: "1.example"}, {Domain: "2.example"}}
	cfg.Routes = routes(t, `[`+to(first, "1.example")+`,`+strings.Replace(to(second, "2.example"), `"next"`, `"next2"`, 1)+`,{"name":"here","match":{"recipients":"*@example.com"},"action":{"type":"deliver"}}]`)
	s := start(t, cfg, WithMailbox(m.take))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@1.example>", "250")
	c.say("RCPT TO:<nobody@2.example>", "452 4.5.3")
	c.say("RCPT TO:<b@example.com>", "452 4.5.3")
	c.say("RCPT TO:<nobody@1.example>", "550")
	if got := c.data(hi); !strings.HasPrefix(got, "250") || len(m.all()) != 1 {
		t.Fatal(got)
	}

	// Users need not know of that.
	c.startTLS().say("EHLO client.example.net", "250")
	c.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "235")
	c.say("MAIL FROM:<alice@example.com>", "250")
	for _, rcpt := range []string{"b@1.example", "b@2.example", "b@example.com"} {
		c.say("RCPT TO:<"+rcpt+">", "250")
	}
	if got := c.data(strings.Replace(hi, "a@example.net", "alice@example.com", 1)); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(m.all()) == 4 })
}

// A server that is away, or refuses us as a whole, is no reason to refuse mail
// for good.
func TestForwardToNobody(t *testing.T) {
	port := testenv.FreePort(t)
	s := start(t, Config{Routes: routes(t, fmt.Sprintf(`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d}}}]`, port))})
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "451 4.4.1")

	// Once it is there, the same session goes on with it.
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	m := newMailbox(nil)
	start(t, Config{Ports: Ports(port), Routes: toMailboxes}, WithMailbox(m.take), WithListener(ln.Addr().String(), ln))
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") || len(m.all()) != 1 {
		t.Error(got)
	}
}

// Servers that forward to each other do not take up all their connections for one
// message.
func TestForwardInACircle(t *testing.T) {
	port := testenv.FreePort(t)
	s := start(t, Config{Ports: Ports(port), Connections: Connections{Max: 300}, Routes: routes(t, fmt.Sprintf(
		`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d}}}]`, port))})
	c := s.dial().hello()
	for range 2 {
		c.say("MAIL FROM:<a@example.net>", "250")
		c.say("RCPT TO:<b@example.com>", "451 4.4.6 Too much of this mail is under way at once")
		c.say("RSET", "250")
	}
	if n := s.Stats().Connections.Total; n > 2*maxReceived+2 {
		t.Errorf("%d connections", n)
	}
	c.say("QUIT", "221")
}

func TestForwardThroughTheSpool(t *testing.T) {
	m := newMailbox(nil)
	var down atomic.Bool
	down.Store(true)
	next := start(t, Config{Hostname: "next.example.com", Routes: []Route{{Name: "rest", Action: Action{Type: Deliver}}}},
		WithMailbox(newMailbox(func(d *Delivery) error {
			if down.Load() {
				return fmt.Errorf("down")
			}
			return m.take(t.Context(), d)
		}).take))
	s := start(t, Config{Queue: Queue{RetryDelay: 50 * time.Millisecond}, Routes: routes(t, `[
		`+forwardTo(t, next, `,"queue":true`)+`,{"name":"here","priority":1,"match":{"recipients":"here@example.com"},"action":{"type":"deliver"}}]`)}, WithMailbox(m.take))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<here@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250 2.0.0 Accepted as ") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) >= 2 && len(m.all()) >= 1 })
	down.Store(false)
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	got := m.all()
	if len(got) != 2 {
		t.Fatalf("%d deliveries", len(got)) // the one here was not repeated
	}
	for _, g := range got {
		if !strings.HasSuffix(g.content, hi+"\r\n") {
			t.Errorf("%q", g.content)
		}
	}
}

// The only reply there is must not tell a sender to send again what some
// recipients have.
func TestOneOfTwoMailboxes(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "b@example.com" && down.Load() {
			return fmt.Errorf("down")
		}
		return nil
	})
	s := start(t, Config{Routes: toMailboxes, Queue: Queue{RetryDelay: 50 * time.Millisecond}}, WithMailbox(m.take))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	if e := s.seen(EventDeferred); len(e) == 0 || e[0].Recipients[0] != "b@example.com" || e[0].MessageID == "" || e[0].Reason != "down" {
		t.Errorf("%+v", e)
	}
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) >= 2 })
	down.Store(false)
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	if got := m.all(); len(got) != 2 || got[0].Recipient != "c@example.com" || got[1].Recipient != "b@example.com" {
		t.Errorf("%v", got)
	}
}

// Routes that come while a message is tried by the old ones are tried as well.
func TestRoutesComeDuringAnAttempt(t *testing.T) {
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "b@example.com" {
			return errors.New("down")
		}
		return nil
	})
	var s *server
	var once sync.Once
	list := routes(t, `[{"name":"x","match":{"recipients":"x@example.com"},"action":{"type":"process"}},{"name":"b","match":{"recipients":"b@example.com"},"action":{"type":"deliver"}}]`)
	s = start(t, Config{Routes: list, Queue: Queue{Paused: true}}, WithMailbox(m.take), WithHooks(Hooks{OnEvent: func(e Event) {
		if e.Kind != EventDeferred {
			return
		}
		once.Do(func() {
			list[0].Action.Type = Deliver
			if err := s.UpdateRoutes(t.Context(), list); err != nil {
				t.Error(err)
			}
		})
	}}))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<x@example.com>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	if err := errors.Join(s.UpdateRoutes(t.Context(), list[1:]), s.ResumeQueue()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(m.all()) == 1 })
}

// forgetful is a spool that does not store how far messages are.
type forgetful struct{ spool.Store }

func (forgetful) SetState(context.Context, spool.ID, []byte) error { return errors.New("disk on fire") }

// Who has a message does not get it again though it could not be noted that he
// has it.
func TestProgressThatCannotBeStored(t *testing.T) {
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "b@example.com" {
			return errors.New("down")
		}
		return nil
	})
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	s := start(t, Config{Queue: Queue{RetryDelay: time.Millisecond}, Routes: routes(t, `[
		`+forwardTo(t, next, `,"queue":true`)+`,{"name":"b","priority":1,"match":{"recipients":"b@example.com"},"action":{"type":"deliver"}}]`)}, WithMailbox(m.take))
	s.latest().queue.store = forgetful{s.latest().queue.store}
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) >= 3 })
	if n := len(m.all()); n != 1 {
		t.Errorf("delivered %d times", n)
	}
}

// What is queued when the Server stops is delivered by the next one, also where
// the route has got another address meanwhile.
func TestQueueOutlivesTheServer(t *testing.T) {
	dir := t.TempDir()
	port := testenv.FreePort(t)
	to := func(port int) Config {
		return Config{DataPath: dir, Queue: Queue{RetryDelay: time.Hour}, Routes: routes(t, fmt.Sprintf(
			`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d,"queue":true}}}]`, port))}
	}
	s := start(t, to(port))
	c := s.dial().hello()
	if got := c.send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) == 1 })
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := newMailbox(nil)
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	s = start(t, to(int(portOf(next.Addrs()[0]))))
	var id string
	for q, err := range s.Queue(t.Context()) {
		if err != nil || q.Tries != 1 || q.Next.Before(time.Now()) || q.Recipients[0].Reply == "" {
			t.Errorf("%+v %v", q, err)
		}
		id = q.ID
	}
	if err := s.Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	if got := m.all(); len(got) != 1 || !strings.HasSuffix(got[0].content, hi+"\r\n") {
		t.Errorf("%v", got)
	}
}

func TestGiveUp(t *testing.T) {
	never := 0
	s := start(t, Config{Queue: Queue{MaxRetries: &never}, Routes: routes(t, fmt.Sprintf(
		`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d,"queue":true}}}]`, testenv.FreePort(t)))})
	s.dial().hello().send("", "b@example.com", hi)
	waitFor(t, func() bool { return len(s.seen(EventFailed)) == 1 })
	waitFor(t, func() bool {
		for q := range s.Queue(t.Context()) {
			return q.Recipients[0].State == "failed"
		}
		return false
	})
	for q := range s.Queue(t.Context()) {
		if err := s.Drop(t.Context(), q.ID); err != nil {
			t.Error(err)
		}
		if err := s.Drop(t.Context(), q.ID); err != ErrNotFound {
			t.Error(err)
		}
	}
	if n := s.Stats().Spool.Messages; n != 0 {
		t.Errorf("%d messages", n)
	}
}
