package email

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/spool"
)

// tried is how many connections there were.
func (n *network) tried() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dials)
}

// slowly is a server for b.example that takes 20 seconds for each message.
func slowly(t *testing.T, n *network, dns hosts, inbox *mailboxes) *server {
	t.Helper()
	b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(func(ctx context.Context, d *Delivery) error {
		time.Sleep(20 * time.Second)
		return inbox.take(ctx, d)
	}))
	n.mu.Lock()
	n.servers["192.0.2.2"] = b.Server
	n.mu.Unlock()
	return b
}

// crowd is a server with so many messages for one that is slow, and what that has
// taken.
func crowd(t *testing.T, messages int) (a *server, inbox *mailboxes) {
	t.Helper()
	n := &network{servers: map[string]*Server{}}
	dns := hosts{"b.example": "192.0.2.2"}
	a = inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take))
	t.Cleanup(a.stop)
	inbox = newMailbox(nil)
	t.Cleanup(slowly(t, n, dns, inbox).stop)
	for i := range messages {
		n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
	}
	return a, inbox
}

func ids(t *testing.T, s *server) []string {
	t.Helper()
	var list []string
	for m, err := range s.Queue(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m.ID)
	}
	return list
}

// Mail that is to be sent later is not sent at once by the next Server, and has as
// long from then on as any.
func TestSendAtOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		cfg := relay("a.example")
		cfg.DataPath = t.TempDir()
		a := inBubble(t, n, cfg, WithResolver(dns))
		const days = 10 // longer than MaxAge
		at := time.Now().Add(days * 24 * time.Hour)
		id, err := a.SendEmail(t.Context(), Email{From: "user@a.example", To: []string{"user@b.example"}, Subject: "later", Text: "x", SendAt: at})
		if err != nil {
			t.Fatal(err)
		}
		a.stop()
		a = inBubble(t, n, cfg, WithResolver(dns))
		defer a.stop()
		time.Sleep(time.Until(at) - time.Minute)
		if n.tried() != 0 {
			t.Error("it was sent before its time")
		}
		if st, err := a.EmailStatus(t.Context(), id); err != nil || !st.Next.Equal(at) {
			t.Errorf("%+v, %v", st, err)
		}
		time.Sleep(time.Hour)
		if n.tried() < 2 {
			t.Errorf("%d tries", n.tried())
		}
		if got := len(a.seen(EventFailed)) + len(a.seen(EventDelayed)); got != 0 {
			t.Errorf("it was late or given up in its first hour")
		}
	})
}

// What was held back for long is not given up at its first try.
func TestReleasedMailHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		a := inBubble(t, n, relay("a.example"), WithResolver(hosts{"b.example": "192.0.2.2"}), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		r := a.current()
		d, err := r.queue.store.Draft(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.Write([]byte(toB))
		id := spool.NewID(time.Now())
		env := &queued{From: "user@a.example", ClientAddr: netip.MustParseAddr("10.0.0.1"), Recipients: []recipient{{Address: "user@b.example", Route: "out"}}, Arrived: time.Now(), Quarantine: "test"}
		if err := r.queue.add(t.Context(), id, env, d, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * 24 * time.Hour)
		if err := a.Release(t.Context(), string(id)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if n.tried() < 2 || len(a.seen(EventFailed)) != 0 {
			t.Errorf("%d tries, %d given up", n.tried(), len(a.seen(EventFailed)))
		}
	})
}

// Pausing the queue also keeps what waits for its turn.
func TestPauseKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 200
		a, inbox := crowd(t, messages)
		time.Sleep(time.Second)
		if err := a.PauseQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if got := len(inbox.all()); got == 0 || got > defaultConcurrencyPerSite {
			t.Errorf("%d messages were sent while the queue was paused", got)
		}
		if err := a.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if got := len(inbox.all()); got != messages {
			t.Errorf("%d of %d arrived", got, messages)
		}
	})
}

// What waits for its turn can be dropped, or tried at once, and comes once.
func TestDropOfWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, inbox := crowd(t, 200)
		time.Sleep(time.Second)
		dropped, busy := 0, 0
		for i, id := range ids(t, a) {
			var err error
			if i%2 == 0 {
				if err = a.Drop(t.Context(), id); err == nil {
					dropped++
				}
			} else {
				err = a.Retry(t.Context(), id)
			}
			if err != nil {
				busy++
			}
		}
		if busy > firstPerSite {
			t.Errorf("%d messages could not be changed, though only %d are under way", busy, firstPerSite)
		}
		time.Sleep(24 * time.Hour)
		got := make(map[string]int)
		for _, m := range inbox.all() {
			got[m.Recipient]++
		}
		if len(got) != 200-dropped || len(inbox.all()) != len(got) {
			t.Errorf("%d recipients got %d messages, %d wanted", len(got), len(inbox.all()), 200-dropped)
		}
		if left := ids(t, a); len(left) != 0 {
			t.Errorf("%d left", len(left))
		}
	})
}

// Entries are changed, dropped, paused and tried by all at once: none is lost, none
// sent twice, and none stays busy.
func TestChangesOfWhatWaitsAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 300
		a, inbox := crowd(t, messages)
		var dropped atomic.Int32
		all := ids(t, a)
		for g := range 4 {
			go func() {
				for i, id := range all {
					time.Sleep(time.Duration(i+g) * time.Second / 7)
					switch (i + g) % 7 {
					case 0:
						if a.Drop(context.Background(), id) == nil {
							dropped.Add(1)
						}
					case 1:
						a.PauseQueue()
					case 2:
						a.ResumeQueue()
					case 3:
						a.UpdateRoutes(context.Background(), a.Routes())
					default:
						a.Retry(context.Background(), id)
					}
				}
				a.ResumeQueue()
			}()
		}
		time.Sleep(72 * time.Hour)
		got := make(map[string]int)
		for _, m := range inbox.all() {
			if got[m.Recipient]++; got[m.Recipient] > 1 {
				t.Errorf("%s got it %d times", m.Recipient, got[m.Recipient])
			}
		}
		if len(got)+int(dropped.Load()) != messages {
			t.Errorf("%d arrived and %d were dropped, of %d", len(got), dropped.Load(), messages)
		}
		if left := ids(t, a); len(left) != 0 {
			t.Errorf("%d are left", len(left))
		}
		q := a.current().queue
		if q.mu.Lock(); len(q.entries) != 0 || len(q.due[0])+len(q.due[1]) != 0 {
			t.Errorf("%d entries are left", len(q.entries))
		}
		q.mu.Unlock()
	})
}

// A corrected route also holds for what waits for its turn.
func TestRoutesReachWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		a := inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		wrong, right := newMailbox(nil), newMailbox(nil)
		b := slowly(t, n, dns, wrong)
		defer b.stop()
		c := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(right.take))
		defer c.stop()
		n.mu.Lock()
		n.servers["192.0.2.3"] = c.Server
		n.mu.Unlock()
		for i := range 100 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		time.Sleep(time.Second)
		list := a.Routes()
		list[1].Action = Action{Type: Forward, Forward: &ForwardAction{Host: "192.0.2.3", Queue: true}}
		if err := a.UpdateRoutes(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if len(wrong.all()) > firstPerSite || len(wrong.all())+len(right.all()) != 100 {
			t.Errorf("%d by the old route, %d by the new one", len(wrong.all()), len(right.all()))
		}
	})
}

// The end of a message's time holds also where its site is never tried for it.
func TestPutOffMailIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		cfg := relay("a.example")
		cfg.Queue.MaxAge, cfg.Queue.DelayNotice = time.Hour, 20*time.Minute
		a := inBubble(t, n, cfg, WithResolver(hosts{"b.example": "192.0.2.2"}), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		for i := range 100 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		time.Sleep(50 * time.Minute)
		if got := len(a.seen(EventDelayed)); got != 100 {
			t.Errorf("%d of 100 late after 50 minutes", got)
		}
		time.Sleep(40 * time.Minute)
		if got := len(a.seen(EventFailed)); got != 100 {
			t.Errorf("%d of 100 given up after 90 minutes", got)
		}
	})
}

// What has priority is due before what has not, and does not starve it.
func TestPriorityIsDueFirst(t *testing.T) {
	s := start(t, Config{Queue: Queue{Paused: true}})
	q := s.current().queue
	q.mu.Lock()
	for i := range 100 {
		e := &entry{id: spool.ID(fmt.Sprint(i)), place: -1, next: s.now().Add(time.Duration(i-1000) * time.Second), first: i >= 50}
		q.entries[e.id] = e
		q.wait(e)
	}
	q.paused = false // without waking anybody
	q.mu.Unlock()
	first := 0
	for range 40 {
		e, _ := q.nextDue()
		if e == nil {
			t.Fatal("nothing is due")
		}
		if e.first {
			first++
		}
	}
	if first < 30 || first == 40 {
		t.Errorf("%d of the first 40 have priority", first)
	}
	q.mu.Lock()
	q.due = [2]dueList{}
	clear(q.entries)
	q.mu.Unlock()
}
