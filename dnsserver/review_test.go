package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// Of several sets at once none has additional records, whose names would point
// to somewhere else in the message.
func TestManyTypesAtOnce(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+
		"multi A 192.0.2.1\n TXT \"some text\"\n SRV 1 2 3 web\n HTTPS 1 web alpn=h2\n")}}})
	for _, how := range []transport{overUDP, overTCP} {
		for _, name := range []string{"multi.example.com.", "example.com."} {
			for _, qtype := range []uint16{dns.TypeANY, dns.TypeRRSIG} {
				m := answerTo(t, r, new(dns.Msg).SetQuestion(name, qtype), how)
				if (how == overTCP || qtype == dns.TypeRRSIG) && len(m.Extra) != 0 || (qtype == dns.TypeRRSIG) != (len(m.Answer) == 0 && len(m.Ns) == 1) {
					t.Errorf("%v", m)
				}
			}
		}
	}
}

// What is served can be kept: as text it comes back as it was. And what an
// interface gives out it takes.
func TestRecordsOfAnyType(t *testing.T) {
	for text := range dns.StringToType {
		for _, value := range []string{"", `\# 0`, `\# 1 00`, `\# 1 0a`, `\# 4 01020304`, `\# 2 c000`, `\# 8 000000000000c000`, "1", "a b c", "0 0 0 ."} {
			r, err := Record{Name: "a.example.com", Type: text, Value: value}.pack()
			if err != nil {
				continue
			}
			if again, err := parseText(r.text()); err != nil || again != r {
				t.Errorf("%s %s: %q became %q, %v", text, value, r.text(), again.text(), err)
			}
			if r.rtype == typeALIAS || value == "" {
				continue
			}
			if again, err := r.public().pack(); err != nil || again != r {
				t.Errorf("%s %s: %+v became %+v, %v", text, value, r.public(), again.public(), err)
			}
		}
	}
	for _, text := range []string{"OPT", "TSIG", "TKEY", "AXFR", "MAILB", "TYPE0", "TYPE200"} {
		if _, err := (Record{Name: "a.example.com", Type: text, Value: `\# 0`}).pack(); err == nil {
			t.Errorf("there are %s records", text)
		}
	}
}

// A record of a type that has no text of its own is there after a restart, and
// can be taken out.
func TestUnknownTypesAreKept(t *testing.T) {
	store := memory(t)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, _ := openZones(t, store, cfg)
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "NULL", Value: `\# 3 0a0d3b`}, Record{Name: "x.example.com", Type: "TYPE65280", Value: `\# 1 00`})
	if err := zs.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	zs, r := openZones(t, store, cfg)
	for _, rtype := range []uint16{dns.TypeNULL, 65280} {
		if m := answerTo(t, r, new(dns.Msg).SetQuestion("x.example.com.", rtype), overUDP); len(m.Answer) != 1 {
			t.Error(m)
		}
	}
	tx = new(Tx)
	for rec := range zs.sorted()[0].ref.current.Load().records() {
		if rec.name == "\x01x\x07example\x03com\x00" {
			tx.Remove(rec.public())
		}
	}
	if err := zs.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeNULL, "NXDOMAIN")
}

// Serial numbers never go back, and no change leaves a zone without what makes
// it one.
func TestTopOfZone(t *testing.T) {
	zs, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	serial := func() uint32 { return zs.sorted()[0].ref.current.Load().serial() }
	soa := func(serial int) Record {
		return Record{Name: "example.com", Type: "SOA", Value: fmt.Sprintf("ns1.example.com hostmaster.example.com %d 1 2 3 4", serial)}
	}
	ns := Record{Name: "example.com", Type: "NS", Value: "ns9.example.com"}
	for _, test := range []struct {
		tx   func(tx *Tx)
		want uint32 // serial, or 0 where there is an error
	}{
		{func(tx *Tx) { tx.Add(soa(5)) }, 11},
		{func(tx *Tx) { tx.Set(soa(5)) }, 11}, // as it is
		{func(tx *Tx) { tx.Set(soa(5), Record{Name: "n.example.com", Type: "A", Value: "192.0.2.1"}) }, 12},
		{func(tx *Tx) { tx.Set(soa(20)) }, 20},
		{func(tx *Tx) { tx.Remove(Record{Name: "example.com", Type: "SOA"}) }, 0},
		{func(tx *Tx) { tx.Remove(Record{Name: "example.com", Type: "NS"}) }, 0},
		{func(tx *Tx) { tx.Set(ns) }, 21},
		{func(tx *Tx) { tx.Remove(ns) }, 0},
		{func(tx *Tx) { tx.Remove(Record{Name: "example.com", Type: "NSEC"}) }, 0},
		{func(tx *Tx) { tx.Remove(Record{Name: "example.com"}) }, 22},
	} {
		tx, before := new(Tx), serial()
		test.tx(tx)
		err := zs.update(t.Context(), tx)
		if test.want == 0 && (err == nil || serial() != before) || test.want > 0 && (err != nil || serial() != test.want) {
			t.Errorf("%+v: serial %d, %v", tx, serial(), err)
		}
	}
	wantLookup(t, r, "example.com.", dns.TypeNS, "example.com. 3600 in ns ns9.example.com.")
}

// A change comes either before a Start reads the zones or after it, and is not
// lost in between.
func TestUpdateDuringStart(t *testing.T) {
	store := memory(t)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, _ := openZones(t, store, cfg)
	late := zs.sorted()[0] // what an Update has found that waits for its turn
	if err := zs.loadAll(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	_, err := late.update(t.Context(), func(e *zoneEdit) error {
		e.add(&record{name: "\x01l" + e.name, rtype: dns.TypeA, ttl: 5, data: "abcd"})
		return nil
	})
	if !errors.Is(err, ErrNotLoaded) {
		t.Errorf("a change of a zone that is gone: %v", err)
	}
}

func TestZonesBeforeStart(t *testing.T) {
	s := newServer(t, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"})
	_, records := s.Records("example.com")
	for _, err := range []error{s.Update(t.Context(), tx), s.Export(io.Discard, "example.com"), records} {
		if !errors.Is(err, ErrNotLoaded) {
			t.Error(err)
		}
	}
	mustStart(t, s)
	var group sync.WaitGroup // to be seen by the race detector
	group.Go(func() { s.UseStorage(nil) })
	if err := s.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	group.Wait()
	if _, err := s.Records("example.net"); !errors.Is(err, ErrNoZone) {
		t.Error(err)
	}
}

// Without the AA bit negative answers are no referrals, and answers for all
// classes never have it.
func TestAuthority(t *testing.T) {
	zs, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	c := zs.sorted()[0].ref.current.Load().counters
	r.authoritative = false
	if m := answerTo(t, r, new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), overUDP); m.Authoritative {
		t.Error(m)
	}
	answerTo(t, r, new(dns.Msg).SetQuestion("mail.example.com.", dns.TypeAAAA), overUDP)
	if c.queries.Load() != 2 || c.noData.Load() != 1 || c.referrals.Load() != 0 {
		t.Errorf("%d queries, %d without data, %d referrals", c.queries.Load(), c.noData.Load(), c.referrals.Load())
	}
	r.authoritative = true
	q := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	q.Question[0].Qclass = dns.ClassANY
	if m := answerTo(t, r, q, overUDP); m.Authoritative || len(m.Answer) == 0 {
		t.Error(m)
	}
}

// The root as target says that there is no such service. With a priority, in
// HTTPS and SVCB, it stands for the owner.
func TestNoTarget(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+
		"none MX 0 .\n SRV 0 0 0 .\n HTTPS 0 .\n A 192.0.2.1\nself HTTPS 1 .\n A 192.0.2.1\n")}}})
	for name, want := range map[string]int{"none": 0, "self": 1} {
		for _, qtype := range []uint16{dns.TypeMX, dns.TypeSRV, dns.TypeHTTPS} {
			m := answerTo(t, r, new(dns.Msg).SetQuestion(name+".example.com.", qtype), overUDP)
			if len(m.Answer) > 0 && len(m.Extra) != want {
				t.Error(m)
			}
		}
	}
}

// The DS record of the name that an alias leads to is in the zone above too.
func TestAliasToDelegation(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{
		{Name: "example.com", File: zoneFile(t, exampleZone+"sub NS ns1.sub\n DS 1 13 2 00\nns1.sub A 192.0.2.1\nalias CNAME sub\n")},
		{Name: "sub.example.com", File: zoneFile(t, exampleZone)}}})
	if m := answerTo(t, r, new(dns.Msg).SetQuestion("alias.example.com.", dns.TypeDS), overUDP); len(m.Answer) != 2 || len(m.Ns) != 0 {
		t.Error(m)
	}
}

// More name servers than pointers reach are a referral all the same.
func TestManyServers(t *testing.T) {
	var text strings.Builder
	for i := range 400 {
		fmt.Fprintf(&text, "big NS a-name-server-with-a-long-name-%03d.big\na-name-server-with-a-long-name-%03d.big A 192.0.2.1\n", i, i)
	}
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+text.String())}}})
	if m := answerTo(t, r, new(dns.Msg).SetQuestion("www.big.example.com.", dns.TypeA), overTCP); m.Truncated || len(m.Ns) != 400 || len(m.Extra) < 200 {
		t.Errorf("%v, %d, %d", m.MsgHdr, len(m.Ns), len(m.Extra))
	}
}

// What clients are told about idle connections is what is done with them.
func TestKeepaliveIsPatience(t *testing.T) {
	s := newServer(t, Config{IdleTimeout: 10 * time.Second, MaxConnections: 2})
	q := new(dns.Msg).SetQuestion("example.com.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	for _, want := range []uint16{100, 100, 5} { // tenths of a second
		m := answerTo(t, &s.responder, q, overTCP)
		if got := m.IsEdns0().Option[0].(*dns.EDNS0_TCP_KEEPALIVE).Timeout; got != want {
			t.Errorf("%d, want %d", got, want)
		}
		s.limits.take(netip.MustParseAddr("192.0.2.1"))
	}
}

// Changes of a zone do not wait until old ones have been deleted, and what was
// left over is deleted the next time.
func TestFoldingInTheBackground(t *testing.T) {
	deleting, goOn := make(chan bool), make(chan bool)
	var once sync.Once
	values := storage.Memory()
	store, err := storage.Open(t.Context(), hookedBackend{values, func() {
		once.Do(func() {
			deleting <- true
			<-goOn
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	zs, r := openZones(t, store, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	z := zs.sorted()[0]
	set := func(i int) {
		tx := new(Tx)
		tx.Set(Record{Name: "x.example.com", Type: "TXT", Value: fmt.Sprint(i)})
		if err := zs.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	for i := range foldAfter + 1 {
		set(i)
	}
	if err := store.Put(t.Context(), z.journal.part(0, 7), []byte("left over")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- z.foldLong(t.Context()) }()
	<-deleting
	set(-1)
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeTXT, "x.example.com. 3600 in txt \"-1\"")
	count := 0
	for key := range store.List(t.Context(), "dns/zones/example.com") {
		t.Log(key)
		count++
	}
	if count != 3 { // the state, a part and the last change
		t.Errorf("%d values", count)
	}
}

// hookedBackend says when something is deleted.
type hookedBackend struct {
	storage.Backend
	deletes func()
}

func (b hookedBackend) Delete(ctx context.Context, key string) error {
	b.deletes()
	return b.Backend.Delete(ctx, key)
}

// A change that the storage has kept, but said that it has not, does not stand
// in the way of the one after it.
func TestChangeOfUnknownFate(t *testing.T) {
	failing := false
	store, err := storage.Open(t.Context(), unsureBackend{storage.Memory(), &failing})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, _ := openZones(t, store, cfg)
	z := zs.sorted()[0]
	add := func(name string) error {
		tx := new(Tx)
		tx.Add(Record{Name: name + ".example.com", Type: "A", Value: "192.0.2.1", TTL: 60})
		return zs.update(t.Context(), tx)
	}
	if err := add("first"); err != nil {
		t.Fatal(err)
	}
	failing = true
	if add("unsure") == nil {
		t.Fatal("no error")
	}
	failing = false
	if err := z.journal.fold(t.Context(), z.journal.state.Base, 11); err != nil {
		t.Fatal(err)
	}
	if err := add("last"); err != nil {
		t.Fatal(err)
	}
	_, r := openZones(t, store, cfg)
	wantLookup(t, r, "first.example.com.", dns.TypeA, "first.example.com. 60 in a 192.0.2.1")
	wantLookup(t, r, "unsure.example.com.", dns.TypeA, "NXDOMAIN")
	wantLookup(t, r, "last.example.com.", dns.TypeA, "last.example.com. 60 in a 192.0.2.1")
}

// unsureBackend writes, and says that it has not.
type unsureBackend struct {
	storage.Backend
	failing *bool
}

func (b unsureBackend) Put(ctx context.Context, key string, value []byte) error {
	err := b.Backend.Put(ctx, key, value)
	if *b.failing {
		err = errors.New("no answer")
	}
	return err
}

func TestPlaceOfMistakes(t *testing.T) {
	included := zoneFile(t, "a A 192.0.2.1\n\nb A 192.0.2\n")
	soa := "@ IN SOA a b 1 2 3 4 5\n"
	for _, test := range []struct{ text, file, want string }{
		{soa + "\n\n\n$INCLUDE " + included + "\n", included, ":3: bad A A"},
		{soa + "a A 192.0.2.1\nwww.example.org. A 192.0.2.1", "", ":3: www.example.org."},
		{soa + "a A 192.0.2.1\nb A 192.0.2", "", ":3: bad A A"},
	} {
		path := zoneFile(t, test.text)
		if test.file == "" {
			test.file = path
		}
		_, _, err := tryZones(t.Context(), nil, Config{Zones: []Zone{{Name: "example.com", File: path}}})
		if err == nil || !strings.HasPrefix(err.Error(), "zones[0]: zone example.com.: "+test.file+test.want) {
			t.Errorf("%q: %v", test.text, err)
		}
	}
}

func TestMistakesInDefaultRecords(t *testing.T) {
	a := Record{Name: "a.example.com", Type: "A", Value: "192.0.2.1"}
	alias := Record{Name: "a.example.com", Type: "CNAME", Value: "b.example.com"}
	err := (&Config{DefaultRecords: []Record{a, a, alias}}).Validate()
	if err == nil || strings.Contains(err.Error(), " records[") || strings.Count(err.Error(), "defaultRecords[2]") < 2 {
		t.Error(err)
	}
}

func TestRecordAtTheRoot(t *testing.T) {
	_, r := openZones(t, nil, Config{Records: []Record{{Name: ".", Type: "A", Value: "192.0.2.1", TTL: 60}}})
	wantLookup(t, r, ".", dns.TypeA, ". 60 in a 192.0.2.1")
	wantLookup(t, r, "com.", dns.TypeA, "NXDOMAIN")
}

func TestMalformedCookie(t *testing.T) {
	r := testResponder(manyNames(t, 10))
	r.cookies = newCookies()
	for length, want := range map[int]int{0: 1, 7: 1, 8: 0, 9: 1, 15: 1, 16: 0, 40: 0, 41: 1} {
		q := new(dns.Msg).SetQuestion("host-1.example.com.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: make([]byte, length)}}
		if m := answerTo(t, r, q, overUDP); m.Rcode != want || (len(m.IsEdns0().Option) == 1) != (want == 0) {
			t.Errorf("%d octets: %v", length, m)
		}
	}
}
