package dnsserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestTransferOut(t *testing.T) {
	testenv.Goroutines(t)
	var records []Record
	for i := range 2000 {
		records = append(records, Record{Name: fmt.Sprintf("host-%d.sub.example.com", i), Type: "A", Value: "192.0.2.1"})
	}
	s := testServerOf(t, nil, Config{
		TSIGKeys: testKeys(),
		Records:  records,
		Zones: []Zone{
			{Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"key:test.key"}},
			{Name: "example.org", File: zoneFile(t, exampleZone), AllowTransfer: []string{"127.0.0.0/8"}},
			{Name: "example.net", File: zoneFile(t, exampleZone)},
		},
	}, 0)
	want := s.dump("example.com")
	slices.Sort(want)
	got, err := axfr(t, s.addr(), "example.com.", "test.key.", testSecret)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, rr := range got[1:] {
		lines = append(lines, rr.String())
	}
	if got[0].String() != got[len(got)-1].String() {
		t.Errorf("between %v and %v", got[0], got[len(got)-1])
	}
	if slices.Sort(lines); !slices.Equal(lines, want) {
		t.Errorf("got %d records, want %d", len(lines), len(want))
	}
	y := "hmac-sha256:test.key:" + testSecret
	for _, test := range []struct{ zone, key, want string }{
		{"example.com", y, "XFR size: 2010 records (messages 4"},
		{"example.com", "", "Transfer failed."},
		{"example.com", "hmac-sha512:other.key:" + otherSecret, "Transfer failed."},
		{"example.com", "hmac-sha256:test.key:" + otherSecret, "tsig indicates error"},
		{"example.com", "hmac-sha512:test.key:" + testSecret, "BADKEY"},
		{"example.com", "hmac-sha256:no.key:" + otherSecret, "BADKEY"},
		{"example.org", "", "XFR size: 10 records"},
		{"example.org", y, "XFR size: 10 records"},
		{"example.net", y, "Transfer failed."},
		{"sub.example.com", y, "Transfer failed."},
	} {
		args := []string{test.zone, "AXFR"}
		if test.key != "" {
			args = append(args, "-y", test.key)
		}
		if out := s.dig(t, args...); !strings.Contains(out, test.want) {
			t.Errorf("%v:\n%s\nwant %s", test, out, test.want)
		}
	}

	// From a version that is known, what has changed; from others, all.
	first := s.serial("example.com")
	for i := range 3 {
		tx := new(Tx)
		tx.Set(Record{Name: "host-1.sub.example.com", Type: "A", Value: fmt.Sprintf("192.0.2.%d", 10+i)})
		if err := s.zones.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	for serial, want := range map[uint32]string{
		first:     "XFR size: 14 records",
		first + 2: "XFR size: 6 records",
		first + 3: "XFR size: 1 records",
		first + 9: "XFR size: 1 records",
		first - 1: "XFR size: 2010 records",
	} {
		if out := s.dig(t, "example.com", fmt.Sprintf("IXFR=%d", serial), "-y", y, "+tcp"); !strings.Contains(out, want) {
			t.Errorf("IXFR=%d:\n%s\nwant %s", serial, out, want)
		}
	}
	kdig := testenv.Need(t, "kdig", "apt-get install knot-dnsutils")
	out := tool(t, "", kdig, "@127.0.0.1", "-p", fmt.Sprint(s.port), "-y", y, "example.com", fmt.Sprintf("IXFR=%d", first))
	if !strings.Contains(out, ";; Received") || strings.Contains(out, "rror") {
		t.Error(out)
	}
	if out := tool(t, "", kdig, "@127.0.0.1", "-p", fmt.Sprint(s.port), "-y", y, "+notcp", "example.com", fmt.Sprintf("IXFR=%d", first)); !strings.Contains(out, "1 messages") && !strings.Contains(out, "ANSWER: 1") {
		t.Error(out)
	}
}

// A refusal is as long as it has to be, whatever was answered before.
func TestRefusedTransferIsNotPadded(t *testing.T) {
	r := testResponder(manyNames(t, 1))
	q := new(dns.Msg).SetAxfr("example.com.")
	q.SetEdns0(1232, false)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{}}
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	sc := r.newScratch()
	sc.message.padded = true
	r.exchange(t.Context(), sc, wire, &asker{transport: overTLS}, func(msg []byte) error {
		if len(msg) > len(wire) {
			t.Errorf("%d octets to %d", len(msg), len(wire))
		}
		return nil
	})
}
