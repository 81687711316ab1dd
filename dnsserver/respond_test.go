package dnsserver

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// manyNames returns a zone with n names, each with an address.
func manyNames(t testing.TB, n int) *zone {
	e := newZone("\x07example\x03com\x00")
	for i := range n + 2 {
		text := fmt.Sprintf("host-%d.example.com. 300 IN A 192.0.2.1", i)
		switch i {
		case n:
			text = "example.com. 3600 IN SOA ns.example.com. hostmaster.example.com. 1 7200 3600 1209600 300"
		case n + 1:
			text = "example.com. 3600 IN NS ns.example.com."
		}
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := packRecord(rr)
		if err != nil {
			t.Fatal(err)
		}
		e.add(&rec)
	}
	return e.finish()
}

// What names and options of the server and of the query make long keeps to the
// limit of the client all the same.
func TestLongAnswersKeepToLimit(t *testing.T) {
	r := testResponder(manyNames(t, 1))
	r.nsid, r.version, r.cookies = strings.Repeat("n", 255), strings.Repeat("v", 255), newCookies()
	label := strings.Repeat("k", 59)
	long := strings.Join([]string{label, label, label, label, "a."}, ".")
	signed := func(name string) *dns.Msg {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		q.SetTsig(name, name, 300, time.Now().Unix())
		q.Compress = true
		return q
	}
	chaos := new(dns.Msg).SetQuestion("version.server.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	options := func(q *dns.Msg, size uint16) *dns.Msg {
		q = q.Copy()
		rest := q.Extra // TSIG stays the last
		q.Extra = nil
		q.SetEdns0(size, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		q.Extra = append(q.Extra, rest...)
		return q
	}
	for name, test := range map[string]struct {
		q         *dns.Msg
		how       transport
		limit     int
		truncated bool
	}{
		"an unknown key":               {signed(long), overUDP, 512, true},
		"a short one":                  {signed("key."), overUDP, 512, false},
		"an unknown key with options":  {options(signed(long), 512), overUDP, 512, true},
		"an unknown key and room":      {options(signed(long), 1232), overUDP, 1232, false},
		"an unknown key over TCP":      {signed(long), overTCP, maxMessage, false},
		"CHAOS":                        {chaos, overUDP, 512, false},
		"CHAOS with options":           {options(chaos, 512), overUDP, 512, true},
		"CHAOS with options and room":  {options(chaos, 1232), overUDP, 1232, false},
		"options with a long question": {options(new(dns.Msg).SetQuestion(long, dns.TypeA), 512), overUDP, 512, false},
	} {
		wire, err := test.q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353"), transport: test.how}
		got := r.respond(r.newScratch(), nil, wire, from)
		m := new(dns.Msg)
		if err := m.Unpack(got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(got) > test.limit || m.Truncated != test.truncated || (test.q.IsTsig() != nil && !test.truncated) != (m.IsTsig() != nil) {
			t.Errorf("%s: %d octets, %v", name, len(got), m)
		}
	}
}

// Answers are made without allocating.
func TestAnswersAllocateNothing(t *testing.T) {
	r := testResponder(manyNames(t, 100))
	r.cookies = newCookies()
	sc, dst := r.newScratch(), make([]byte, 0, 4096)
	from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353")}
	for _, name := range []string{"host-1.example.com.", "HOST-1.example.com.", "nobody.example.com.", "example.com.", "example.net."} {
		for _, rtype := range []uint16{dns.TypeA, dns.TypeMX, dns.TypeSOA, dns.TypeNS} {
			q := new(dns.Msg).SetQuestion(name, rtype)
			q.SetEdns0(1232, true)
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
			wire, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(100, func() { r.respond(sc, dst, wire, from) }); n > 0 {
				t.Errorf("%s %s: %v allocations", name, dns.Type(rtype), n)
			}
		}
	}
}

func BenchmarkRespond(b *testing.B) {
	r := testResponder(manyNames(b, 10_000))
	for _, test := range []struct{ name, qname string }{
		{"A", "host-4711.example.com."}, {"NXDOMAIN", "nobody.example.com."}, {"MX", "host-1.example.com."},
	} {
		q := new(dns.Msg).SetQuestion(test.qname, dns.TypeA)
		if test.name == "MX" {
			q.Question[0].Qtype = dns.TypeMX
		}
		q.SetEdns0(1232, false)
		wire, _ := q.Pack()
		b.Run(test.name, func(b *testing.B) {
			sc, dst := r.newScratch(), make([]byte, 0, 4096)
			from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353")}
			b.ReportAllocs()
			for b.Loop() {
				if len(r.respond(sc, dst, wire, from)) == 0 {
					b.Fatal("silence")
				}
			}
		})
	}
}
