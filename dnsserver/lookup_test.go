package dnsserver

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSourceAndLookup(t *testing.T) {
	primary := start(t, Config{Zones: []Zone{{Name: "copied.example", AllowTransfer: []string{"127.0.0.1"}}}})
	s := newServer(t, Config{
		Zones: []Zone{{Name: "example.com"}, {Name: "inner.example.com"}, {Name: "copied.example", Primaries: []Peer{{Addr: strings.TrimSuffix(primary.Addrs()[0], "/udp")}}}},
		Records: []Record{
			{Name: "www.example.com", Type: "CAA", Value: `0 issue "ca.example; accounturi=https://ca.example/1"`},
			{Name: "www.example.com", Type: "CAA", Value: `0 iodef "mailto:a@example.com"`},
			{Name: "*.wild.example.com", Type: "TXT", Value: "x"},
			{Name: "gone.example.com", Type: "NS", Value: "ns.elsewhere.example"},
			{Name: "moved.example.com", Type: "DNAME", Value: "elsewhere.example"},
		},
	})
	if _, err := s.Source("www.example.com"); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("before Start: %v", err)
	}
	mustStart(t, s)
	for name, want := range map[string]string{
		"example.com": "example.com.", "_acme-challenge.WWW.example.com.": "example.com.", "a.b.inner.example.com": "inner.example.com.",
		"x.wild.example.com": "example.com.", "moved.example.com": "example.com.",
	} {
		if zone, err := s.Source(name); zone != want || err != nil {
			t.Errorf("%s: %q, %v", name, zone, err)
		}
	}
	for name, want := range map[string]string{
		"example.org": "no zone", "gone.example.com": "delegated at gone", "_acme-challenge.gone.example.com": "delegated at gone",
		"a.moved.example.com": "delegated at moved", "a.copied.example": "copy of another", "a..b": "not",
	} {
		if zone, err := s.Source(name); zone != "" || err == nil || !strings.Contains(err.Error(), want) {
			if !errors.Is(err, ErrNotLoaded) { // the copy has not come yet
				t.Errorf("%s: %q, %v", name, zone, err)
			}
		}
	}
	list, err := s.Lookup("WWW.example.com.", "caa")
	slices.SortFunc(list, func(a, b Record) int { return strings.Compare(b.Value, a.Value) })
	if err != nil || len(list) != 2 || list[0].Name != "www.example.com" || list[0].Value != `0 issue "ca.example; accounturi=https://ca.example/1"` {
		t.Errorf("%+v, %v", list, err)
	}
	for _, name := range []string{"x.wild.example.com", "example.com"} {
		if list, err := s.Lookup(name, "TXT"); len(list) > 0 || err != nil {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
	for name, want := range map[string]bool{"www.example.com": true, "example.com": true, "x.wild.example.com": false, "wild.example.com": false, "*.wild.example.com": true} {
		if has, err := s.HasRecords(name); has != want || err != nil {
			t.Errorf("%s: %v, %v", name, has, err)
		}
	}
	for name, want := range map[string]string{
		"x.wild.example.com": "*.wild.example.com", "_acme-challenge.a.B.wild.example.com.": "*.wild.example.com", "*.wild.example.com": "",
		"wild.example.com": "", "x.example.com": "", "example.com": "",
	} {
		if star, err := s.Wildcard(name); star != want || err != nil {
			t.Errorf("%s: %q, %v", name, star, err)
		}
	}
	tx := new(Tx)
	tx.Add(Record{Name: "below.y.wild.example.com", Type: "A", Value: "192.0.2.1", TTL: 60})
	if err := s.Update(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"y.wild.example.com": "", "z.y.wild.example.com": "", "z.wild.example.com": "*.wild.example.com"} {
		if star, err := s.Wildcard(name); star != want || err != nil {
			t.Errorf("%s: %q, %v", name, star, err)
		}
	}
	if _, err := s.Wildcard("example.org"); err == nil {
		t.Error("a wildcard of a zone that there is not")
	}
	if _, err := s.HasRecords("example.org"); err == nil {
		t.Error("records of a zone that there is not")
	}
	if _, err := s.Lookup("example.com", "NONSENSE"); err == nil {
		t.Error("a type that is none")
	}
}
