package dnsserver

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// NSD and Knot follow us through many changes, by notifications and transfers
// of what has changed.
func TestOthersFollow(t *testing.T) {
	testenv.Goroutines(t)
	nsd, knot := newProgram(t), newProgram(t)
	s := testServerOf(t, nil, Config{
		TSIGKeys: testKeys(),
		Zones: []Zone{{
			Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"key:test.key"},
			Notify: []Peer{{Addr: nsd.addr(), Key: "test.key"}, {Addr: knot.addr(), Key: "test.key"}},
		}},
	}, 0)
	startNSD(t, nsd, fmt.Sprintf(`zone:
  name: example.com
  request-xfr: 127.0.0.1@%d test.key
  allow-notify: 127.0.0.1 test.key
  provide-xfr: 127.0.0.1 test.key
`, s.port))
	startKnot(t, knot, s.port, `zone:
  - domain: example.com
    master: us
    acl: us
`)
	sameZone(t, s.addr(), nsd.addr(), "example.com.")
	sameZone(t, s.addr(), knot.addr(), "example.com.")
	before := s.zones.sorted()[0].ref.current.Load().counters.transfers.Load()
	rnd := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	for i := range 1000 {
		tx := new(Tx)
		r := Record{Name: fmt.Sprintf("n%d.example.com", rnd.IntN(200)), Type: "TXT", Value: fmt.Sprint(i), TTL: 60 + rnd.IntN(2)}
		switch rnd.IntN(4) {
		case 0:
			tx.Remove(Record{Name: r.Name})
		case 1:
			tx.Set(r)
		default:
			tx.Add(r)
		}
		if err := s.zones.update(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 { // let them have some of it one by one
			sameZone(t, s.addr(), knot.addr(), "example.com.")
		}
	}
	sameZone(t, s.addr(), nsd.addr(), "example.com.")
	sameZone(t, s.addr(), knot.addr(), "example.com.")
	if out := knot.proc.Output(); strings.Count(out, "IXFR, incoming") < 20 || strings.Count(out, " AXFR, incoming") > strings.Count(out[:strings.Index(out, "IXFR, incoming")], " AXFR, incoming") {
		t.Errorf("Knot has not followed by changes:\n%s", out)
	}
	t.Logf("%v, %d transfers, at last serial %d", time.Since(began).Round(time.Millisecond), s.zones.sorted()[0].ref.current.Load().counters.transfers.Load()-before, s.serial("example.com"))
}

// Signed zones go out with all that belongs to signing, also as changes.
func TestOthersFollowSignedZone(t *testing.T) {
	for _, mode := range []string{denialNSEC, denialNSEC3} {
		t.Run(mode, func(t *testing.T) {
			testenv.Goroutines(t)
			knot := newProgram(t)
			s := testServerOf(t, nil, Config{
				TSIGKeys: testKeys(),
				Zones: []Zone{{
					Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"key:test.key"}, DNSSEC: &DNSSEC{Denial: mode},
					Notify: []Peer{{Addr: knot.addr(), Key: "test.key"}},
				}},
			}, 0)
			startKnot(t, knot, s.port, "zone:\n  - domain: example.com\n    master: us\n    acl: us\n")
			sameZone(t, s.addr(), knot.addr(), "example.com.")
			for i := range 40 {
				tx := new(Tx)
				tx.Set(Record{Name: fmt.Sprintf("n%d.sub.example.com", i%7), Type: "TXT", Value: fmt.Sprint(i), TTL: 60})
				tx.Remove(Record{Name: fmt.Sprintf("n%d.sub.example.com", (i+3)%7)})
				if err := s.zones.update(t.Context(), tx); err != nil {
					t.Fatal(err)
				}
				if i%10 == 9 {
					sameZone(t, s.addr(), knot.addr(), "example.com.")
				}
			}
			if out := knot.proc.Output(); !strings.Contains(out, "IXFR, incoming") || strings.Count(out, " AXFR, incoming") != strings.Count(out[:strings.Index(out, "IXFR, incoming")], " AXFR, incoming") {
				t.Errorf("Knot has not followed by changes:\n%s", out)
			}
		})
	}
}

// Transfers over TLS and QUIC, with signatures.
func TestTransferEncrypted(t *testing.T) {
	testenv.Goroutines(t)
	kdig := testenv.Need(t, "kdig", "apt-get install knot-dnsutils")
	cert, _, ca := certificate(t)
	var records []Record
	for i := range 2000 {
		records = append(records, Record{Name: fmt.Sprintf("host-%d.example.com", i), Type: "A", Value: "192.0.2.1"})
	}
	s := start(t, Config{
		DoT: &EncryptedPort{Port: new(int)}, DoQ: &EncryptedPort{Port: new(int)}, TSIGKeys: testKeys(), Records: records,
		Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"key:test.key"}}},
	}, cert)
	for kind, more := range map[string]string{"tls": "+tls", "quic": "+quic"} {
		host, port := hostPort(t, addr(t, s, kind))
		out := tool(t, "", kdig, "@"+host, "-p", port, "+tls-ca="+ca, "+tls-hostname=localhost", more, "-y", "hmac-sha256:test.key:"+testSecret, "example.com", "AXFR")
		if strings.Count(out, "host-") != 2000 || !strings.Contains(out, " messages, 2010 records)") || strings.Contains(out, "WARNING") {
			t.Errorf("%s: %d\n%.300s ... %s", kind, strings.Count(out, "host-"), out, out[max(0, len(out)-700):])
		}
	}
}
