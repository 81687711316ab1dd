package dnsserver

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
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

// A DNAME record that an alias below it leads back to is in the answer once, in
// whatever case the question has its name.
func TestBackToDNAME(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+
		"old DNAME example.com.\nold A 192.0.2.1\n")}}})
	for qtype, want := range map[uint16]int{dns.TypeDNAME: 2, dns.TypeA: 3} { // with the CNAME record
		m := answerTo(t, r, new(dns.Msg).SetQuestion("OLD.old.EXAMPLE.com.", qtype), overUDP)
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) != want || len(m.Ns) != 0 {
			t.Error(m)
		}
	}
}

// An answer is of one version of each zone, whatever changes come meanwhile and
// whether aliases lead back at once or by way of another zone.
func TestAnswerOfOneVersion(t *testing.T) {
	zs, r := openZones(t, nil, Config{Zones: []Zone{
		{Name: "example.com", File: zoneFile(t, exampleZone+"old DNAME example.com.\nother DNAME example.net.\n")},
		{Name: "example.net", File: zoneFile(t, strings.ReplaceAll(exampleZone, "example.com", "example.net")+"x CNAME other.example.com.\n")},
	}})
	ref := &zs.get("\x07example\x03com\x00").ref
	e := ref.current.Load().change()
	e.add(&record{"\x03old\x07example\x03com\x00", dns.TypeTXT, 300, "\x01x"})
	e.add(&record{"\x05other\x07example\x03com\x00", dns.TypeTXT, 300, "\x01x"})
	versions := []*zone{ref.current.Load(), e.finish()}
	done := make(chan struct{})
	var changes sync.WaitGroup
	defer changes.Wait()
	defer close(done)
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				ref.current.Store(versions[i%2])
			}
		}
	})
	for range 5000 {
		for _, name := range []string{"old.old.example.com.", "x.other.example.com."} {
			answerTo(t, r, new(dns.Msg).SetQuestion(name, dns.TypeDNAME), overUDP)
		}
	}
}

// Nor are its signatures, which are asked for as well as sent along.
func TestBackToSignedDNAME(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+"old DNAME example.com.\n"), DNSSEC: &DNSSEC{}}}})
	m := answerTo(t, r, new(dns.Msg).SetQuestion("old.old.example.com.", dns.TypeRRSIG).SetEdns0(4096, true), overUDP)
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 4 || len(m.Ns) != 0 { // DNAME, its signature, CNAME, the signature of NSEC
		t.Error(m)
	}
}

// The addresses of a target that several records have are there once.
func TestSameTargets(t *testing.T) {
	_, r := openZones(t, nil, Config{Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone+
		"_sip._tcp SRV 1 2 5060 sip\n SRV 1 2 5061 sip\nsip A 192.0.2.9\nself HTTPS 0 self\n A 192.0.2.9\n")}}})
	for name, qtype := range map[string]uint16{"_sip._tcp.example.com.": dns.TypeSRV, "self.example.com.": dns.TypeHTTPS} {
		if m := answerTo(t, r, new(dns.Msg).SetQuestion(name, qtype), overUDP); len(m.Extra) != 1 {
			t.Error(m)
		}
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
