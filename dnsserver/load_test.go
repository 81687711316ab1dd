package dnsserver

import (
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

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

// A serial number stands for one content, also across restarts: who follows the
// zone would never learn of what is different, and apply the next change to it.
func TestSerialStandsForContent(t *testing.T) {
	derive := func(t *testing.T, zs *zones) {
		tx := new(Tx)
		tx.Set(Record{Name: "derived.example.com", Type: "A", Value: "192.0.2.66"})
		if err := zs.derive(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, zs *zones, cfg *Config)
		same   bool
	}{
		"nothing": {func(*testing.T, *zones, *Config) {}, true},
		"kept": {func(t *testing.T, zs *zones, _ *Config) {
			tx := new(Tx)
			tx.Set(Record{Name: "kept.example.com", Type: "A", Value: "192.0.2.66"})
			if err := zs.update(t.Context(), tx); err != nil {
				t.Fatal(err)
			}
		}, true},
		"derived": {func(t *testing.T, zs *zones, _ *Config) { derive(t, zs) }, false},
		"derived and folded": {func(t *testing.T, zs *zones, _ *Config) {
			derive(t, zs)
			z := zs.sorted()[0]
			for range foldAfter {
				if err := z.journal.append(t.Context(), z.ref.current.Load(), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := z.foldLong(t.Context()); err != nil || z.journal.state.Folded == 0 {
				t.Fatal(err, z.journal.state)
			}
		}, false},
		"file set back": {func(t *testing.T, zs *zones, cfg *Config) {
			write := func(text string) {
				if err := os.WriteFile(cfg.Zones[0].File, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(exampleZone + "bad A 192.0.2.66\n")
			if err := zs.reload(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			write(exampleZone)
		}, false},
		"no longer signed": {func(_ *testing.T, _ *zones, cfg *Config) { cfg.Zones[0].DNSSEC = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			store := memory(t)
			cfg := Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone)}}}
			if name == "no longer signed" {
				cfg.Zones[0].DNSSEC = &DNSSEC{}
			}
			zs, _ := openZones(t, store, cfg)
			test.change(t, zs, &cfg)
			before := zs.sorted()[0].ref.current.Load().serial()
			for i := range 3 { // once it has moved on, it stays
				zs, _ := openZones(t, store, cfg)
				after := zs.sorted()[0].ref.current.Load().serial()
				want := before + 1
				if test.same {
					want = before
				}
				if after != want {
					t.Errorf("serial %d after %d restarts, before %d", after, i+1, before)
				}
			}
		})
	}
}
