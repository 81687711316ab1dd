package dcrouter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libdns/libdns"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
)

func TestDNSProvider(t *testing.T) {
	r := startRouter(t, dcrouter.WithDNS(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com", DNSSEC: &dnsserver.DNSSEC{}}}}))
	p := dcrouter.DNSProvider{Server: r.DNS()}
	have := func(zone string) (list []string) {
		t.Helper()
		recs, err := p.GetRecords(t.Context(), zone)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range recs {
			if rr := rec.RR(); rr.Type != "SOA" && rr.Type != "NS" {
				list = append(list, fmt.Sprintf("%s %s %v %s", rr.Name, rr.Type, rr.TTL, rr.Data))
			}
		}
		slices.Sort(list)
		return list
	}
	want := func(list ...string) {
		t.Helper()
		for _, zone := range []string{"example.com.", "example.com", "Example.COM."} {
			if got := have(zone); !slices.Equal(got, list) {
				t.Errorf("got %q, want %q", got, list)
			}
		}
	}
	txt := func(name, text string) libdns.TXT { return libdns.TXT{Name: name, Text: text, TTL: 60 * time.Second} }

	// Several challenges at one name, as for a domain and its wildcard.
	added, err := p.AppendRecords(t.Context(), "example.com.", []libdns.Record{txt("_acme-challenge", `a "b" \ c`), txt("_acme-challenge", "two")})
	if err != nil || len(added) != 2 {
		t.Fatalf("%v, %v", added, err)
	}
	if _, ok := added[0].(libdns.TXT); !ok {
		t.Errorf("%T", added[0])
	}
	want(`_acme-challenge TXT 1m0s a "b" \ c`, "_acme-challenge TXT 1m0s two")
	if _, err := p.SetRecords(t.Context(), "example.com.", []libdns.Record{libdns.RR{Name: "@", Type: "A", TTL: 60 * time.Second, Data: "192.0.2.1"}, txt("_acme-challenge", "three"), txt("_acme-challenge", "two")}); err != nil {
		t.Fatal(err)
	}
	want("@ A 1m0s 192.0.2.1", "_acme-challenge TXT 1m0s three", "_acme-challenge TXT 1m0s two")
	gone, err := p.DeleteRecords(t.Context(), "Example.COM.", []libdns.Record{txt("_ACME-challenge", "two"), txt("_ACME-challenge", "never was"), libdns.RR{Name: "@", Type: "A"}})
	if err != nil || len(gone) != 2 {
		t.Errorf("%v, %v", gone, err)
	}
	want("_acme-challenge TXT 1m0s three")
	if gone, err := p.DeleteRecords(t.Context(), "example.com.", []libdns.Record{libdns.RR{Name: "_acme-challenge"}}); err != nil || len(gone) != 1 {
		t.Errorf("%v, %v", gone, err)
	}
	want()
	if _, err := p.GetRecords(t.Context(), "example.org."); err == nil {
		t.Error("a zone that is not there")
	}
	if zones, err := p.ListZones(t.Context()); err != nil || len(zones) != 1 || zones[0].Name != "example.com." {
		t.Errorf("%v, %v", zones, err)
	}
}
