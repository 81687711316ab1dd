package email

import (
	"strings"
	"testing"
	"time"
)

// What nobody releases or looks after is removed in the end, also by the next
// Server, and what was released is not.
func TestHeldMailExpires(t *testing.T) {
	dir, clk := t.TempDir(), newClock()
	dns := resolver(t, `_dmarc.bank.example. TXT "v=DMARC1; p=quarantine"`)
	cfg := Config{DataPath: dir, Routes: toMailboxes, Queue: Queue{KeepHeld: time.Hour}}
	m := newMailbox(nil)
	s := start(t, cfg, WithResolver(dns), WithClock(clk.Now), WithMailbox(m.take))
	send := func() {
		t.Helper()
		c := s.dial().hello()
		if got := c.send("a@bank.example", "b@example.com", strings.Replace(hi, "a@example.net", "a@bank.example", 1)); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		c.say("QUIT", "221")
	}
	send()
	clk.Advance(30 * time.Minute)
	send()
	clk.Advance(20 * time.Minute)
	var held []QueuedMessage
	for q := range s.Queue(t.Context()) {
		held = append(held, q)
	}
	if len(held) != 2 || held[0].Quarantine == "" || !held[0].Next.Equal(held[0].Arrived.Add(time.Hour)) {
		t.Fatalf("%+v", held)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	clk.Advance(15 * time.Minute) // the first one's time is up
	s = start(t, cfg, WithResolver(dns), WithClock(clk.Now), WithMailbox(m.take))
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 1 && len(s.seen(EventExpired)) == 1 })
	if e := s.seen(EventExpired); len(e) != 1 || e[0].MessageID != held[0].ID || e[0].From != "a@bank.example" || len(e[0].Recipients) != 1 {
		t.Errorf("%+v", e)
	}
	if err := s.Release(t.Context(), held[1].ID); err != nil {
		t.Fatal(err)
	}
	clk.Advance(time.Hour)
	waitFor(t, func() bool { return s.Stats().Spool == SpoolStats{} })
	if len(m.all()) != 1 || len(s.seen(EventExpired)) != 1 {
		t.Errorf("%d delivered, %+v", len(m.all()), s.seen(EventExpired))
	}
}
