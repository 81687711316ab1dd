package dnsserver

import (
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
