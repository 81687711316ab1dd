package dnsserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Knot serves what our catalog lists, and we what Knot's does.
func TestCatalogsWithKnot(t *testing.T) {
	testenv.Goroutines(t)
	consumer, producer := newProgram(t), newProgram(t)
	allow := []string{"key:test.key"}
	port := testenv.FreePort(t)
	for _, name := range []string{"member.example", "other.example"} {
		if err := os.WriteFile(filepath.Join(producer.dir, name+".zone"), []byte("$ORIGIN "+name+".\n"+exampleZone), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startKnot(t, producer, port, `zone:
  - domain: theirs.example
    catalog-role: generate
    notify: us
    acl: us
  - domain: member.example
    catalog-role: member
    catalog-zone: theirs.example
    catalog-group: blue
    notify: us
    acl: us
  - domain: other.example
    catalog-role: member
    catalog-zone: theirs.example
    acl: us
`)
	s := testServerOf(t, nil, Config{
		TSIGKeys: testKeys(),
		Zones: []Zone{
			{Name: "ours.example", Catalog: &Catalog{}, AllowTransfer: allow, Notify: []Peer{{Addr: consumer.addr(), Key: "test.key"}}},
			{Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: allow, CatalogZone: "ours.example", Group: "g"},
			{Name: "example.org", File: zoneFile(t, exampleZone), AllowTransfer: allow, CatalogZone: "ours.example"},
			{Name: "example.net", File: zoneFile(t, exampleZone), AllowTransfer: allow},
			{Name: "theirs.example", Primaries: []Peer{{Addr: producer.addr(), Key: "test.key"}}, Catalog: &Catalog{AllowTransfer: allow}},
		},
	}, port)
	startKnot(t, consumer, port, `  - id: member
    storage: `+consumer.dir+`
    master: us
    acl: us
    semantic-checks: off
zone:
  - domain: ours.example
    master: us
    acl: us
    catalog-role: interpret
    catalog-template: member
`)
	for _, zone := range []string{"example.com.", "example.org."} {
		sameZone(t, s.addr(), consumer.addr(), zone)
	}
	if _, err := contents(t, consumer.addr(), "example.net.", "test.key.", testSecret); err == nil {
		t.Error("a zone that is in no catalog is served")
	}
	for _, zone := range []string{"member.example.", "other.example."} {
		sameZone(t, producer.addr(), s.addr(), zone)
	}
}

// The members of a catalog come and go with it.
func TestCatalogChanges(t *testing.T) {
	testenv.Goroutines(t)
	const empty = "$ORIGIN %s.\n$TTL 0\n@ IN SOA . . 1 3600 600 86400 60\n NS invalid.\nversion TXT 2\n"
	catalog := func(name string) Zone {
		return Zone{Name: name, File: zoneFile(t, fmt.Sprintf(empty, name)), AllowTransfer: []string{"127.0.0.1"}}
	}
	first := testServerOf(t, nil, Config{Zones: []Zone{
		{Name: "one.example", File: zoneFile(t, exampleZone), AllowTransfer: []string{"127.0.0.1"}},
		{Name: "two.example", File: zoneFile(t, exampleZone), AllowTransfer: []string{"127.0.0.1"}},
		{Name: "own.example", File: zoneFile(t, exampleZone), AllowTransfer: []string{"127.0.0.1"}},
		catalog("cat.example"), catalog("new.example"),
	}}, 0)
	other := testServerOf(t, nil, Config{Zones: []Zone{
		{Name: "one.example", File: zoneFile(t, strings.NewReplacer("192.0.2.25", "192.0.2.26", "hostmaster 10", "hostmaster 11").Replace(exampleZone)), AllowTransfer: []string{"127.0.0.1"}},
	}}, 0)
	store := memory(t)
	source := []Peer{{Addr: first.addr()}}
	cfg := Config{Zones: []Zone{
		{Name: "own.example", File: zoneFile(t, strings.ReplaceAll(exampleZone, "192.0.2.25", "192.0.2.27"))},
		{Name: "cat.example", Primaries: source, Catalog: &Catalog{Groups: map[string][]Peer{"blue": {{Addr: other.addr()}}}}},
		{Name: "new.example", Primaries: source, Catalog: &Catalog{}},
	}}
	s := testServerOf(t, store, cfg, 0)
	change := func(f func(tx *Tx)) {
		t.Helper()
		tx := new(Tx)
		f(tx)
		if err := first.zones.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		for _, z := range s.zones.sorted() {
			if z.catalog != nil {
				z.copy.hurry()
			}
		}
	}
	ptr := func(id, zone, value string) Record {
		return Record{Name: id + ".zones." + zone, Type: "PTR", Value: value, TTL: 1}
	}
	serves := func(zone, want string) {
		t.Helper()
		testenv.WaitFor(t, 20*time.Second, func() error {
			if got := lookup(t, s.responder, "mail."+zone, dns.TypeA); !strings.HasSuffix(strings.Join(got, " "), want) {
				return fmt.Errorf("%s: %q, want %s", zone, got, want)
			}
			return nil
		})
	}
	change(func(tx *Tx) {
		tx.Add(ptr("a", "cat.example", "one.example"), ptr("b", "cat.example", "two.example"), ptr("c", "cat.example", "own.example"))
	})
	serves("one.example.", "192.0.2.25")
	serves("two.example.", "192.0.2.25")
	serves("own.example.", "192.0.2.27") // the configuration goes first
	// Another group has other primaries.
	change(func(tx *Tx) { tx.Add(Record{Name: "group.a.zones.cat.example", Type: "TXT", Value: "blue", TTL: 1}) })
	serves("one.example.", "192.0.2.26")
	// A zone of the same name in another catalog waits until both agree.
	change(func(tx *Tx) { tx.Add(ptr("x", "new.example", "two.example")) })
	change(func(tx *Tx) { tx.Remove(ptr("a", "cat.example", "one.example")) })
	serves("one.example.", "REFUSED")
	owner := func() string { return nameText(s.zones.get("\x03two\x07example\x00").member.catalog.name) }
	if owner() != "cat.example." {
		t.Errorf("two.example is in %s", owner())
	}
	change(func(tx *Tx) {
		tx.Add(Record{Name: "coo.b.zones.cat.example", Type: "PTR", Value: "new.example", TTL: 1}, ptr("y", "new.example", "three.example"))
	})
	testenv.WaitFor(t, 20*time.Second, func() error {
		for _, z := range s.zones.sorted() {
			if z.catalog != nil {
				s.transfers.catalogs.look(z)
			}
		}
		if z := s.zones.get("\x03two\x07example\x00"); z == nil || nameText(z.member.catalog.name) != "new.example." {
			return fmt.Errorf("two.example has not moved")
		}
		return nil
	})
	serves("two.example.", "192.0.2.25")
	// A broken catalog changes nothing; after a restart without the primary all is
	// there.
	change(func(tx *Tx) {
		tx.Set(Record{Name: "version.new.example", Type: "TXT", Value: "3", TTL: 1})
		tx.Remove(ptr("x", "new.example", "two.example"))
	})
	testenv.WaitFor(t, 20*time.Second, func() error {
		if got, want := s.serial("new.example"), first.serial("new.example"); got != want {
			return fmt.Errorf("serial %d, want %d", got, want)
		}
		return nil
	})
	serves("two.example.", "192.0.2.25")
	change(func(tx *Tx) {
		tx.Set(Record{Name: "version.new.example", Type: "TXT", Value: "2", TTL: 1})
		tx.Add(ptr("x", "new.example", "two.example"))
	})
	testenv.WaitFor(t, 20*time.Second, func() error {
		if got, want := s.serial("new.example"), first.serial("new.example"); got != want {
			return fmt.Errorf("serial %d, want %d", got, want)
		}
		return nil
	})
	first.stop()
	s.stop()
	s = testServerOf(t, store, cfg, 0)
	serves("two.example.", "192.0.2.25")
	serves("one.example.", "REFUSED")
}
