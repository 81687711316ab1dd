package email

import (
	"strings"
	"testing"
)

// Somebody may hold a message back that is on its way, and let it go on.
func TestHold(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, Config{Queue: Queue{Paused: true}, Routes: routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process"}}]`)}, WithMailbox(m.take))
	if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	list := s.Routes()
	list[0].Action.Type = Deliver
	if err := s.UpdateRoutes(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	only := func() QueuedMessage {
		t.Helper()
		var got []QueuedMessage
		for q, err := range s.Queue(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, q)
		}
		if len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
		return got[0]
	}
	id := only().ID
	if err := s.Quarantine(t.Context(), id, "looks odd"); err != nil {
		t.Fatal(err)
	}
	if err := s.Quarantine(t.Context(), id, ""); err == nil {
		t.Error("held twice")
	}
	if q := only(); q.Quarantine != "looks odd" || s.Stats().Spool.Quarantined != 1 {
		t.Errorf("%+v", q)
	}
	if err := s.Retry(t.Context(), id); err == nil {
		t.Error("tried though it is held")
	}
	if err := s.ResumeQueue(); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return s.Stats().Spool.Messages == 0 })
	if len(m.all()) != 1 || s.Stats().Spool.Quarantined != 0 {
		t.Errorf("%d delivered, %+v", len(m.all()), s.Stats().Spool)
	}
	st, err := s.EmailStatus(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, e := range st.Timeline {
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "quarantined released delivered" {
		t.Errorf("timeline: %s", got)
	}
	if err := s.Quarantine(t.Context(), "nothing", ""); err != ErrNotFound {
		t.Error(err)
	}
}
