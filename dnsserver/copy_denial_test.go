package dnsserver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const unsignedText = `$ORIGIN example.com.
$TTL 300
@ IN SOA ns1 hostmaster 10 7200 3600 1209600 60
  NS ns1
ns1 A 192.0.2.53
a.b.c A 192.0.2.1
*.wild TXT "any"
x.wild A 192.0.2.2
insecure NS ns.insecure
ns.insecure A 192.0.2.3
secure NS ns1
secure DS 12345 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
glued NS ns.deep.glued
ns.deep.glued A 192.0.2.4
alias CNAME ns1
gone CNAME nowhere
starred CNAME a.wild
dname DNAME b.c
zz TXT z
`

// A signed zone of Knot's is served like Knot serves it: with its signatures
// and with the same proofs.
func TestCopyOfSignedZone(t *testing.T) {
	for name, policy := range map[string]string{
		"NSEC":          "",
		"NSEC3":         "    nsec3: on\n    nsec3-iterations: 0\n    nsec3-salt-length: 0\n",
		"NSEC3 salt":    "    nsec3: on\n    nsec3-iterations: 3\n    nsec3-salt-length: 8\n",
		"NSEC3 opt-out": "    nsec3: on\n    nsec3-iterations: 0\n    nsec3-opt-out: on\n",
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Goroutines(t)
			knot := newProgram(t)
			ourPort := testenv.FreePort(t)
			if err := os.WriteFile(filepath.Join(knot.dir, "example.com.zone"), []byte(unsignedText), 0o600); err != nil {
				t.Fatal(err)
			}
			startKnot(t, knot, ourPort, `policy:
  - id: ours
    single-type-signing: on
`+policy+`zone:
  - domain: example.com
    notify: us
    acl: us
    dnssec-signing: on
    dnssec-policy: ours
`)
			cfg := follower(Peer{Addr: knot.addr(), Key: "test.key"})
			store := memory(t)
			s := testServerOf(t, store, cfg, ourPort)
			signed := func() error {
				z := s.zones.sorted()[0].ref.current.Load()
				if z == nil || z.denial == nil {
					return fmt.Errorf("no signed zone yet")
				}
				return nil
			}
			testenv.WaitFor(t, 20*time.Second, signed)
			sameZone(t, knot.addr(), s.addr(), "example.com.")
			compareAnswers(t, knot.addr(), s.addr())

			// The same after changes that come as such, and from what is kept.
			nsupdate := testenv.Need(t, "nsupdate", "apt-get install dnsutils")
			for i := range 5 {
				if out := tool(t, fmt.Sprintf("server 127.0.0.1 %d\nzone example.com\nadd n%d.new.example.com 60 TXT x\ndel zz.example.com\nadd zz%[2]d.example.com 60 TXT x\nsend\n", knot.port, i), nsupdate, "-y", "hmac-sha256:test.key:"+testSecret); out != "" {
					t.Fatal(out)
				}
			}
			sameZone(t, knot.addr(), s.addr(), "example.com.")
			if len(s.zones.sorted()[0].history.deltas) == 0 {
				t.Error("no changes came as such")
			}
			compareAnswers(t, knot.addr(), s.addr())
			before := s.dump("example.com")
			s.stop()
			s = testServerOf(t, store, cfg, ourPort)
			if after := s.dump("example.com"); !slices.Equal(before, after) {
				t.Errorf("kept:\n%s\nserved before:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
			compareAnswers(t, knot.addr(), s.addr())
		})
	}
}

func compareAnswers(t *testing.T, a, b string) {
	t.Helper()
	for _, name := range []string{
		"", "ns1.", "nobody.", "0.", "zzzz.", "b.c.", "c.", "a.b.c.", "x.a.b.c.", "wild.", "a.wild.", "x.wild.", "y.x.wild.", "a.b.wild.", "*.wild.",
		"insecure.", "a.insecure.", "ns.insecure.", "secure.", "x.secure.", "glued.", "deep.glued.", "alias.", "gone.", "starred.", "a.dname.", "new.", "n1.new.", "n9.new.",
	} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeDS, dns.TypeNS, dns.TypeDNSKEY} {
			q := new(dns.Msg).SetQuestion(name+"example.com.", qtype)
			q.SetEdns0(4096, true)
			c := &dns.Client{Net: "tcp"}
			first, _, err := c.Exchange(q, a)
			if err != nil {
				t.Fatal(err)
			}
			second, _, err := c.Exchange(q, b)
			if err != nil {
				t.Fatal(err)
			}
			if first.Rcode != second.Rcode || first.Authoritative != second.Authoritative ||
				!slices.Equal(texts(first.Answer), texts(second.Answer)) || !slices.Equal(texts(first.Ns), texts(second.Ns)) {
				t.Errorf("%s %s: Knot says\n%v\nwe say\n%v", name, dns.Type(qtype), first, second)
			}
		}
	}
}

// A copied zone whose names have no NSEC records does not make us look at all
// of them for a proof.
func TestCopyWithoutProofs(t *testing.T) {
	e := newZone("\x07example\x00")
	for _, key := range []string{"", keyOf("\x01a\x00"), keyOf("\x01b\x00")} {
		e.replace(key, newSet(dns.TypeNSEC3PARAM, 60, []string{nsec3Head}))
	}
	e.replace("", newSet(dns.TypeNSEC, 60, []string{"\x07example\x00\x00\x01\x02"}))
	if n := covering(&e.zone, keyOf("\x01c\x00")); n.key != keyOf("\x01b\x00") {
		t.Errorf("went on to %q", n.key)
	}
}

// While a primary changes salt or iterations there are records of two chains in
// the zone. Proofs are of the one that is complete, by its NSEC3PARAM record.
func TestCopyWithTwoChains(t *testing.T) {
	names := []string{"example.com."}
	records := []record{mustRecord(soaLine(1)), mustRecord("example.com. 300 IN NS ns1.example.com.")}
	for i := range 20 {
		names = append(names, fmt.Sprintf("n%d.example.com.", i))
		records = append(records, mustRecord(names[i+1]+" 300 IN A 192.0.2.1"))
	}
	// A record with flags says nothing (RFC 5155 section 4.1.2).
	records = append(records, mustRecord("example.com. 0 IN NSEC3PARAM 1 0 0 -"), mustRecord("example.com. 0 IN NSEC3PARAM 1 1 0 AABB"))
	records = append(records, mustRecord("example.com. 60 IN NSEC3 1 0 0 AABB 0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM A")) // out of place
	for _, salt := range []string{"", "AABB"} {
		var hashes []string
		for _, n := range names {
			hashes = append(hashes, dns.HashName(n, dns.SHA1, 0, salt))
		}
		slices.Sort(hashes)
		for i, h := range hashes {
			rr := &dns.NSEC3{Hash: dns.SHA1, Salt: salt, SaltLength: uint8(len(salt) / 2), HashLength: 20, NextDomain: hashes[(i+1)%len(hashes)], TypeBitMap: []uint16{dns.TypeA}}
			rr.Hdr = dns.RR_Header{Name: h + ".example.com.", Rrtype: dns.TypeNSEC3, Class: dns.ClassINET, Ttl: 60}
			records = append(records, mustRecord(rr.String()))
		}
	}
	z, err := newCopy("\x07example\x03com\x00", records, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := testResponder(z)
	for i := range 200 {
		name := fmt.Sprintf("x%d.example.com.", i)
		m := answerTo(t, r, new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(4096, true), overTCP)
		covered := false
		for _, rr := range m.Ns {
			if n, ok := rr.(*dns.NSEC3); ok {
				covered = covered || n.Salt == "" && n.Cover(name)
				if n.Salt != "" {
					t.Errorf("%s: a record of the other chain", name)
				}
			}
		}
		if !covered {
			t.Errorf("%s: no proof", name)
		}
	}
}
