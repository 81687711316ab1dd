package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// openZones serves a configuration without sockets.
func openZones(t testing.TB, store *storage.Store, cfg Config) (*zones, *responder) {
	t.Helper()
	zs, r, err := tryZones(t.Context(), store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return zs, r
}

func tryZones(ctx context.Context, store *storage.Store, cfg Config) (*zones, *responder, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	r := &responder{authoritative: true, udpSize: 1232}
	zs := &zones{responder: r, store: store, now: time.Now, list: make(map[string]*servedZone)}
	return zs, r, zs.loadAll(ctx, &cfg)
}

func memory(t testing.TB) *storage.Store {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func zoneFile(t testing.TB, text string) string {
	path := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const exampleZone = `$TTL 300
@ IN SOA ns1 hostmaster 10 7200 3600 1209600 60
  NS ns1
  NS ns2.example.net.
  MX 10 mail
ns1 A 192.0.2.53
mail 600 A 192.0.2.25
www CNAME web
web A 192.0.2.80
    AAAA 2001:db8::80
`

func lookup(t testing.TB, r *responder, name string, rtype uint16) []string {
	t.Helper()
	m := answerTo(t, r, new(dns.Msg).SetQuestion(name, rtype), overTCP)
	if m.Rcode != dns.RcodeSuccess {
		return []string{dns.RcodeToString[m.Rcode]}
	}
	return texts(m.Answer)
}

func wantLookup(t testing.TB, r *responder, name string, rtype uint16, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], " ", "\t")
	}
	if got := lookup(t, r, name, rtype); !slices.Equal(got, want) {
		t.Errorf("%s %s: %q, want %q", name, dns.Type(rtype), got, want)
	}
}

func TestZoneFileAndRecords(t *testing.T) {
	_, r := openZones(t, nil, Config{
		NameServers: []string{"ns1.example.org"},
		Records: []Record{
			{Name: "api.example.com", Type: "A", Value: "192.0.2.81", TTL: 30},
			{Name: "www.example.org", Type: "a", Value: "192.0.2.1"},
			{Name: "*.example.org.", Type: "TXT", Value: `say "hi"; ` + strings.Repeat("x", 300)},
			{Name: "deep.sub.example.co.uk", Type: "AAAA", Value: "::1"},
		},
		Zones: []Zone{{Name: "Example.com.", File: zoneFile(t, exampleZone)}},
	})
	wantLookup(t, r, "www.example.com.", dns.TypeA, "web.example.com. 300 in a 192.0.2.80", "www.example.com. 300 in cname web.example.com.")
	wantLookup(t, r, "api.example.com.", dns.TypeA, "api.example.com. 30 in a 192.0.2.81")
	wantLookup(t, r, "www.example.org.", dns.TypeA, "www.example.org. 3600 in a 192.0.2.1")
	wantLookup(t, r, "example.org.", dns.TypeNS, "example.org. 3600 in ns ns1.example.org.")
	wantLookup(t, r, "deep.sub.example.co.uk.", dns.TypeAAAA, "deep.sub.example.co.uk. 3600 in aaaa ::1")
	wantLookup(t, r, "co.uk.", dns.TypeSOA, "REFUSED")
	m := answerTo(t, r, new(dns.Msg).SetQuestion("a.example.org.", dns.TypeTXT), overTCP)
	if len(m.Answer) != 1 || strings.Join(m.Answer[0].(*dns.TXT).Txt, "") != `say \"hi\"; `+strings.Repeat("x", 300) {
		t.Errorf("TXT: %v", m)
	}
	soa := answerTo(t, r, new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), overTCP).Answer[0].(*dns.SOA)
	if soa.Ns != "ns1.example.org." || soa.Mbox != "hostmaster.example.org." || time.Since(time.Unix(int64(soa.Serial), 0)).Abs() > time.Minute {
		t.Errorf("made %v", soa)
	}
}

func TestZoneFileErrors(t *testing.T) {
	soa := "@ IN SOA a b 1 2 3 4 5\n"
	for _, test := range []struct{ text, want string }{
		{soa + "www A 192.0.2\n", `:2: bad A A`},
		{soa + "\n\nwww A 192.0.2.1\nwww.example.org. A 192.0.2.1\n", ":5: www.example.org. is not in the zone"},
		{"www A 192.0.2.1\n", ": there is no SOA record for the zone's name in it"},
		{soa + "@ SOA a b 2 2 3 4 5\n", ":2: example.com.: there can be only one SOA record"},
		{soa + "www CNAME a\nwww A 192.0.2.1\n", ": www.example.com.: it has a CNAME record, and so can have no A record"},
		{soa + "www CH TXT a\n", ":2: www.example.com.: class CH is not served"},
		{soa + "www A (", ":2: "},
		{"$INCLUDE missing\n", ":1: failed to open"},
	} {
		path := zoneFile(t, test.text)
		_, _, err := tryZones(t.Context(), nil, Config{Zones: []Zone{{Name: "example.com", File: path}}})
		if err == nil || !strings.HasPrefix(err.Error(), "zones[0]: zone example.com.: "+path) || !strings.Contains(err.Error(), path+test.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", test.text, err, path+test.want)
		}
	}
	_, _, err := tryZones(t.Context(), nil, Config{Zones: []Zone{{Name: "example.com", File: "/does/not/exist"}}})
	if err == nil || err.Error() != "zones[0]: zone example.com.: /does/not/exist: no such file or directory" {
		t.Error(err)
	}
}

func TestUpdate(t *testing.T) {
	store := memory(t)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	zs, r := openZones(t, store, cfg)
	serial := func(r *responder) uint32 {
		return answerTo(t, r, new(dns.Msg).SetQuestion("example.com.", dns.TypeSOA), overTCP).Answer[0].(*dns.SOA).Serial
	}
	if serial(r) != 10 {
		t.Errorf("serial %d", serial(r))
	}
	tx := new(Tx)
	tx.Add(Record{Name: "_acme-challenge.example.com", Type: "TXT", Value: "one", TTL: 1}, Record{Name: "_acme-challenge.example.com", Type: "TXT", Value: "two", TTL: 1})
	tx.Set(Record{Name: "web.example.com", Type: "A", Value: "192.0.2.99", TTL: 5})
	tx.Remove(Record{Name: "mail.example.com"}, Record{Name: "web.example.com", Type: "AAAA"}, Record{Name: "example.com", Type: "NS", Value: "ns2.example.net"})
	if err := zs.update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	changed := func(r *responder) {
		t.Helper()
		wantLookup(t, r, "_acme-challenge.example.com.", dns.TypeTXT, `_acme-challenge.example.com. 1 in txt "one"`, `_acme-challenge.example.com. 1 in txt "two"`)
		wantLookup(t, r, "web.example.com.", dns.TypeA, "web.example.com. 5 in a 192.0.2.99")
		wantLookup(t, r, "web.example.com.", dns.TypeAAAA)
		wantLookup(t, r, "mail.example.com.", dns.TypeA, "NXDOMAIN")
		wantLookup(t, r, "example.com.", dns.TypeNS, "example.com. 300 in ns ns1.example.com.")
		if serial(r) != 11 {
			t.Errorf("serial %d", serial(r))
		}
	}
	changed(r)
	_, again := openZones(t, store, cfg)
	changed(again)

	for want, tx := range map[string]func(*Tx){
		"zone example.com.: www.example.com.: it has a CNAME record, and so can have no A record": func(tx *Tx) {
			tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"}, Record{Name: "www.example.com", Type: "A", Value: "192.0.2.1"})
		},
		"zone example.com.: it has no SOA record at its top": func(tx *Tx) {
			tx.Remove(Record{Name: "example.com", Type: "SOA"})
		},
		"x.example.org.: no zone of this server has the name": func(tx *Tx) {
			tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"}, Record{Name: "x.example.org", Type: "A", Value: "192.0.2.1"})
		},
		`x.example.com A: "nonsense" is not the value of a record of type A`: func(tx *Tx) {
			tx.Add(Record{Name: "x.example.com", Type: "A", Value: "nonsense"})
		},
		"zone example.com.: x.example.com.: a SOA record belongs at the top of a zone": func(tx *Tx) {
			tx.Add(Record{Name: "x.example.com", Type: "SOA", Value: "a. b. 1 2 3 4 5"})
		},
	} {
		bad := new(Tx)
		tx(bad)
		if err := zs.update(t.Context(), bad); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	changed(r)
	wantLookup(t, r, "x.example.com.", dns.TypeA, "NXDOMAIN")

	// The file goes on, too.
	if err := os.WriteFile(cfg.Zones[0].File, []byte(exampleZone+"new A 192.0.2.7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, again = openZones(t, store, cfg)
	wantLookup(t, again, "new.example.com.", dns.TypeA, "new.example.com. 300 in a 192.0.2.7")
	wantLookup(t, again, "web.example.com.", dns.TypeA, "web.example.com. 5 in a 192.0.2.99")
	if serial(again) != 12 {
		t.Errorf("serial %d after a change of the file", serial(again))
	}
}

// What cannot be kept does not happen.
func TestUpdateThatCannotBeKept(t *testing.T) {
	full := errors.New("disk full")
	broken := false
	values := map[string][]byte{}
	store, err := storage.Open(t.Context(), storage.Funcs(
		func(_ context.Context, key string) ([]byte, error) {
			if v, ok := values[key]; ok {
				return v, nil
			}
			return nil, storage.ErrNotFound
		},
		func(_ context.Context, key string, v []byte) error {
			if broken {
				return full
			}
			values[key] = v
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	zs, r := openZones(t, store, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}})
	broken = true
	tx := new(Tx)
	tx.Add(Record{Name: "x.example.com", Type: "A", Value: "192.0.2.1"})
	if err := zs.update(t.Context(), tx); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeA, "NXDOMAIN")
	broken = false
	if err := zs.update(t.Context(), tx); err != nil {
		t.Error(err)
	}
	wantLookup(t, r, "x.example.com.", dns.TypeA, "x.example.com. 3600 in a 192.0.2.1")
}

// Through changes, restarts and folding a zone stays what it was made, and the
// history leads from any version to the last.
func TestZoneThroughTime(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	store := memory(t)
	cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
	dump := func(zs *zones) []string {
		var list []string
		for r := range zs.sorted()[0].ref.current.Load().records() {
			list = append(list, r.text())
		}
		return list
	}
	zs, _ := openZones(t, store, cfg)
	versions := map[uint32][]string{}
	for i := range 300 {
		z := zs.sorted()[0]
		versions[z.ref.current.Load().serial()] = dump(zs)
		tx := new(Tx)
		for range 1 + rnd.IntN(3) {
			r := Record{Name: fmt.Sprintf("n%d.example.com", rnd.IntN(20)), Type: "TXT", Value: fmt.Sprint(rnd.IntN(3)), TTL: 60 + rnd.IntN(2)}
			switch rnd.IntN(4) {
			case 0:
				tx.Remove(r)
			case 1:
				tx.Set(r)
			case 2:
				tx.Remove(Record{Name: r.Name})
			default:
				tx.Add(r)
			}
		}
		if err := zs.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(20) == 0 {
			j := &z.journal
			if err := j.fold(t.Context(), j.state.Base, z.ref.current.Load().serial()); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(20) == 0 {
			before := dump(zs)
			zs, _ = openZones(t, store, cfg)
			if after := dump(zs); !slices.Equal(before, after) {
				t.Fatalf("change %d: before the restart\n%s\nafter\n%s", i, strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			clear(versions)
		}
	}
	z := zs.sorted()[0]
	last := z.ref.current.Load().serial()
	versions[last] = dump(zs)
	for serial, want := range versions {
		have := map[string]bool{}
		for _, line := range want {
			have[line] = true
		}
		if serial == last {
			continue
		}
		deltas, ok := z.history.since(serial)
		if !ok {
			t.Fatalf("no way from %d to %d", serial, last)
		}
		for _, d := range deltas {
			for r := range d.removed() {
				if !have[r.text()] {
					t.Fatalf("%s was never there", r.text())
				}
				delete(have, r.text())
			}
			for r := range d.added() {
				if have[r.text()] {
					t.Fatalf("%s is there twice", r.text())
				}
				have[r.text()] = true
			}
		}
		got := versions[last]
		if len(got) != len(have) || slices.ContainsFunc(got, func(s string) bool { return !have[s] }) {
			t.Fatalf("from %d: got %v, want %v", serial, have, got)
		}
	}
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
