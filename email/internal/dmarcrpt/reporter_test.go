package dmarcrpt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestWhatIsNotCounted(t *testing.T) {
	b := &box{}
	r := open(t, Config{Send: b.send})
	for _, change := range []func(*Message){
		func(m *Message) { m.Auth = nil },
		func(m *Message) { m.Auth.DMARC.Code = dmarc.TempError },
		func(m *Message) { m.Auth.DMARC.Code = dmarc.PermError },
		func(m *Message) { m.Auth.DMARC.Code, m.Auth.DMARC.Record = dmarc.NoPolicy, nil },
		func(m *Message) { m.Auth.DMARC.Record.Aggregate = nil },
		func(m *Message) { m.SourceIP = netip.Addr{} },
	} {
		m := failing("example.com")
		change(&m)
		r.Add(m)
	}
	if s := r.Stats(); s != (Stats{}) {
		t.Errorf("%+v", s)
	}
}

func TestConfig(t *testing.T) {
	b := &box{}
	for _, cfg := range []Config{
		{Email: "a@example.com", Send: b.send}, {Hostname: "a b", Email: "a@example.com", Send: b.send}, {Hostname: "mx.example", Email: "a", Send: b.send},
		{Hostname: "mx.example", Email: "a@example.com"},
	} {
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("taken: %+v", cfg)
		}
	}
}

// The reports of a day go out once, spread over the hours after it, and only those
// that are worth it.
func TestDay(t *testing.T) {
	testenv.Goroutines(t)
	synctest.Test(t, func(t *testing.T) {
		b, store := &box{}, memory(t)
		r := open(t, Config{Send: b.send, Store: store})
		for i := range 50 {
			add(r, 10, failing(fmt.Sprintf("d%d.example", i)))
		}
		add(r, 9, failing("small.example"))
		end := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
		time.Sleep(time.Until(end) - time.Second)
		add(r, 1, failing("d0.example"))
		if len(b.list) != 0 {
			t.Fatal("a report went out before the end of the day")
		}
		seen := map[string]bool{}
		hours := map[int]int{}
		for time.Since(end) < 5*time.Hour {
			time.Sleep(time.Minute)
			for _, report := range b.take() {
				if seen[report.ID] {
					t.Errorf("%s went out twice", report.ID)
				}
				seen[report.ID] = true
				hours[int(time.Since(end).Hours())]++
			}
		}
		if len(seen) != 50 || len(hours) != 4 || hours[0] > 25 {
			t.Errorf("%d reports, by hour %v", len(seen), hours)
		}
		if s := r.Stats(); s.Sent != 50 || s.Domains != 0 || s.Bytes != 0 || s.Messages != 510 || len(r.organizations) != 0 {
			t.Errorf("%+v", s)
		}
		r.Close(t.Context())
		for key := range store.List(t.Context(), "email") {
			t.Errorf("%s is left", key)
		}
	})
}

func TestTriedAgain(t *testing.T) {
	c, b := newClock(), &box{}
	var log bytes.Buffer
	r := open(t, Config{Send: b.send, Now: c.Now, Log: slog.New(slog.NewTextHandler(&log, nil))})
	m := failing("example.com")
	m.Auth.DMARC.Record.Aggregate = []string{"mailto:a@example.com", "mailto:b@example.com"}
	add(r, 10, m)
	b.fail(errors.New("the queue is full"))
	dayOver(t, r, c, b)
	b.fail(nil)
	r.sendDue(t.Context())
	if len(b.take()) != 0 {
		t.Error("tried again at once")
	}
	c.Advance(time.Hour)
	r.sendDue(t.Context())
	if list := b.take(); len(list) != 2 || list[0].ID != list[1].ID || list[0].To == list[1].To {
		t.Errorf("%d reports", len(list))
	}
	if s := r.Stats(); s.Sent != 2 || s.Failed != 0 || s.Domains != 0 {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(log.String(), "the queue is full") {
		t.Errorf("%s", &log)
	}

	add(r, 10, m)
	b.fail(errors.New("no"))
	for range 100 {
		c.Advance(time.Hour)
		r.sendDue(t.Context())
	}
	if s := r.Stats(); s.Failed != 1 || s.Domains != 0 {
		t.Errorf("not given up: %+v", s)
	}
}

// A destination that has the report does not get it again because of another.
func TestTriedAgainWhereItFailed(t *testing.T) {
	c, b := newClock(), &box{}
	ill := true
	r := open(t, Config{Now: c.Now, Send: func(ctx context.Context, r Report) error {
		if ill && r.To == "b@example.com" {
			return errors.New("ill")
		}
		return b.send(ctx, r)
	}})
	m := failing("example.com")
	m.Auth.DMARC.Record.Aggregate = []string{"mailto:a@example.com", "mailto:b@example.com", "mailto:c@example.com"}
	add(r, 10, m)
	if list := dayOver(t, r, c, b); len(list) != 2 {
		t.Errorf("%d reports", len(list))
	}
	ill = false
	c.Advance(time.Hour)
	r.sendDue(t.Context())
	if list := b.take(); len(list) != 1 || list[0].To != "b@example.com" {
		t.Errorf("%d reports", len(list))
	}
	if s := r.Stats(); s.Sent != 3 || s.Domains != 0 {
		t.Errorf("%+v", s)
	}
}

func TestLargerThanWanted(t *testing.T) {
	c, b := newClock(), &box{}
	r := open(t, Config{Send: b.send, Now: c.Now})
	m := failing("example.com")
	m.Auth.DMARC.Record.Aggregate = []string{"mailto:a@example.com!100", "mailto:b@example.com!1m"}
	add(r, 10, m)
	if list := dayOver(t, r, c, b); len(list) != 1 || list[0].To != "b@example.com" {
		t.Errorf("%d reports", len(list))
	}
}

func TestLastPolicyOfTheDay(t *testing.T) {
	c, b := newClock(), &box{}
	r := open(t, Config{Send: b.send, Now: c.Now})
	m := failing("example.com")
	add(r, 10, m)
	m = failing("example.com")
	m.Auth.DMARC.Record = &dmarc.Record{Policy: dmarc.Quarantine, Subdomains: dmarc.None, NonExistent: dmarc.Reject, Testing: true, StrictDKIM: true, StrictSPF: true, Aggregate: []string{"mailto:new@example.com"}}
	add(r, 1, m)
	document, err := r.document(r.domains[key{dayOf(c.Now()), "example.com"}])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<p>quarantine</p>", "<sp>none</sp>", "<np>reject</np>", "<testing>y</testing>", "<adkim>s</adkim>", "<aspf>s</aspf>"} {
		if !bytes.Contains(document, []byte(want)) {
			t.Errorf("no %s in\n%s", want, document)
		}
	}
	if list := dayOver(t, r, c, b); len(list) != 1 || list[0].To != "new@example.com" {
		t.Errorf("%d reports", len(list))
	}
}

func TestStored(t *testing.T) {
	c, b, store := newClock(), &box{}, memory(t)
	cfg := Config{Send: b.send, Store: store, Now: c.Now}
	r := open(t, cfg)
	add(r, 7, failing("example.com"))
	add(r, 3, passing("example.com"))
	add(r, 10, failing("example.org"))
	before, err := r.document(r.domains[key{dayOf(c.Now()), "example.com"}])
	if err != nil {
		t.Fatal(err)
	}
	bytesBefore := r.bytes
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = open(t, cfg)
	after, err := r.document(r.domains[key{dayOf(c.Now()), "example.com"}])
	if err != nil || !bytes.Equal(before, after) || r.bytes != bytesBefore {
		t.Errorf("%v\n%s\n%s", err, before, after)
	}
	if list := dayOver(t, r, c, b); len(list) != 2 {
		t.Errorf("%d reports", len(list))
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = open(t, cfg)
	if len(r.domains) != 0 {
		t.Error("what was reported is there again")
	}

	// What is too old to be reported, or cannot be read.
	add(r, 10, failing("example.com"))
	r.Close(t.Context())
	if err := store.Put(t.Context(), shardKey(shardOf("example.org")), []byte("[{")); err != nil {
		t.Fatal(err)
	}
	c.Advance(5 * 24 * time.Hour)
	r = open(t, cfg)
	if len(r.domains) != 0 {
		t.Error("what is old is there again")
	}
	r.Close(t.Context())
	if _, err := store.Get(t.Context(), shardKey(shardOf("example.com"))); err == nil {
		t.Error("what is old is stored for ever")
	}
}

// Strangers cannot have more than their part, and not push out those with traffic.
func TestBounds(t *testing.T) {
	c, b, store := newClock(), &box{}, memory(t)
	r := open(t, Config{Send: b.send, Store: store, Now: c.Now, MaxDomains: 1000, MaxRows: 50, MaxBytes: 2 << 20})
	add(r, 500, failing("busy.example"))
	for i := range 5000 {
		m := failing(fmt.Sprintf("forged%d.example", i))
		add(r, 1+i%3, m)
		// A domain with endless rows.
		m = failing("rows.example")
		m.Auth.SPF.Domain = strings.Repeat("x", i%250) + ".example"
		r.Add(m)
		if len(r.domains) > 1000 || r.bytes > 2<<20 {
			t.Fatalf("%d domains, %d bytes", len(r.domains), r.bytes)
		}
	}
	if e := r.domains[key{dayOf(c.Now()), "busy.example"}]; e == nil || e.messages != 500 {
		t.Error("the domain with traffic is gone")
	}
	if e := r.domains[key{dayOf(c.Now()), "rows.example"}]; e == nil || len(e.rows) != 50 || e.omitted != 5000-e.rowsTotal() {
		t.Errorf("%+v", e)
	} else if document, err := r.document(e); err != nil || !bytes.Contains(document, []byte("messages are missing from this report")) {
		t.Errorf("%v", err)
	}
	sum := 0
	for _, e := range r.domains {
		sum += e.bytes
	}
	if sum != r.bytes {
		t.Errorf("%d bytes are %d", r.bytes, sum)
	}
	r.Close(t.Context())
	stored := 0
	for key := range store.List(t.Context(), "email") {
		data, err := store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		stored += len(data)
	}
	if stored > 2<<20 {
		t.Errorf("%d bytes are stored", stored)
	}
}

// Subdomains of one organization, each with a policy of its own.
func TestOrganizationsAreBounded(t *testing.T) {
	r := open(t, Config{Send: (&box{}).send})
	for i := range 300 {
		m := failing(fmt.Sprintf("s%d.wild.example", i))
		m.Auth.DMARC.Organization = "wild.example"
		r.Add(m)
		r.Add(failing(fmt.Sprintf("d%d.example", i)))
	}
	if s := r.Stats(); s.Domains != 300+maxPerOrganization || s.Omitted != 200 {
		t.Errorf("%+v", s)
	}
}

func (d *domain) rowsTotal() (n int) {
	for _, count := range d.rows {
		n += count
	}
	return n
}

func TestConcurrently(t *testing.T) {
	c, b, store := newClock(), &box{}, memory(t)
	r := open(t, Config{Send: b.send, Store: store, Now: c.Now, SaveEvery: time.Millisecond, MaxDomains: 40})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				add(r, 3, failing(fmt.Sprintf("d%d.example", (i*7+j)%60)))
				r.Stats()
				if j%50 == 0 {
					c.Advance(6 * time.Hour)
					r.sendDue(t.Context())
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAdd(b *testing.B) {
	r, err := Open(b.Context(), Config{Hostname: "mx.example", Email: "a@example.com", Send: (&box{}).send})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close(b.Context())
	m := passing("example.com")
	b.ReportAllocs()
	for b.Loop() {
		r.Add(m)
	}
}
