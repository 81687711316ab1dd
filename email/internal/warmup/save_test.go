package warmup

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestStored(t *testing.T) {
	c, store := newClock(), memory(t)
	s := onePool("", "192.0.2.1", "2001:db8::1")
	p := open(t, Config{Settings: s, Store: store, Now: c.Now})
	for range 3 {
		send(p, Gmail, 1000)
		c.Advance(days(1))
	}
	send(p, Gmail, 20)
	p.Report(addr("2001:db8::1"), Gmail, Block, 30)
	send(p, Yahoo, 1)
	before := p.Stats()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p = open(t, Config{Settings: s, Store: store, Now: c.Now})
	after := p.Stats()
	if len(after.Addresses) != 2 {
		t.Fatalf("%+v", after)
	}
	for i := range after.Addresses {
		a, b := after.Addresses[i], before.Addresses[i]
		if a.Stage != b.Stage || a.ProviderStats != b.ProviderStats || a.Providers[Gmail] != b.Providers[Gmail] || a.Providers[Yahoo] != b.Providers[Yahoo] {
			t.Errorf("%+v\nbefore the restart\n%+v", a, b)
		}
	}
	if l := lane1(t, p, "2001:db8::1", Gmail); !l.SteppedBack {
		t.Errorf("%+v", l)
	}

	// Another configuration: a shorter schedule, and one address less.
	s = onePool("", "192.0.2.1")
	s.Schedule = []int{10}
	p.Close(t.Context())
	p = open(t, Config{Settings: s, Store: store, Now: c.Now})
	if l := lane1(t, p, "192.0.2.1", Gmail); l.Limit != 0 {
		t.Errorf("%+v", l)
	}
}

// After a crash no more than what came since the last saving is sent again.
func TestCrash(t *testing.T) {
	testenv.Goroutines(t)
	synctest.Test(t, func(t *testing.T) {
		store := memory(t)
		s := onePool("", "192.0.2.1")
		p := open(t, Config{Settings: s, Store: store})
		send(p, Gmail, 20)
		time.Sleep(6 * time.Second)
		lost := total(send(p, Gmail, 3))
		crashed := open(t, Config{Settings: s, Store: store})
		if n := total(send(crashed, Gmail, 1000)); n != 5 || 20+lost+n > 25+lost {
			t.Errorf("%d after a crash", n)
		}
		crashed.Close(t.Context())
		p.Close(t.Context())
	})
}

func TestUnreadableState(t *testing.T) {
	c, store := newClock(), memory(t)
	s := onePool("", "192.0.2.1")
	var log bytes.Buffer
	if err := store.Put(t.Context(), "email/warmup/192.0.2.1.json", []byte("{")); err != nil {
		t.Fatal(err)
	}
	p := open(t, Config{Settings: s, Store: store, Now: c.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if n := total(send(p, Gmail, 1000)); n != 25 || !strings.Contains(log.String(), "192.0.2.1.json") {
		t.Errorf("%d, %s", n, &log)
	}
}

func TestNothingChangedIsNotStored(t *testing.T) {
	c, store := newClock(), memory(t)
	p := open(t, Config{Settings: onePool("", "192.0.2.1", "192.0.2.2"), Store: store, Now: c.Now})
	send(p, Gmail, 1)
	p.Stats()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for key, err := range store.List(t.Context(), "email") {
		if n++; err != nil || key != "email/warmup/192.0.2.1.json" {
			t.Error(key, err)
		}
	}
	if n != 1 {
		t.Errorf("%d values", n)
	}
	data, err := store.Get(t.Context(), "email/warmup/192.0.2.1.json")
	if err != nil || len(data) > 2000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if err := store.Delete(t.Context(), "email/warmup/192.0.2.1.json"); err != nil {
		t.Fatal(err)
	}
	if err := p.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), "email/warmup/192.0.2.1.json"); err == nil {
		t.Error("what was stored is stored again")
	}
}
