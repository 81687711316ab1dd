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
	if out := knot.proc.Output(); strings.Count(out, "AXFR, incoming, remote us@127.0.0.1@"+fmt.Sprint(s.port)+" TCP, started") > 1 || strings.Count(out, "IXFR, incoming") < 20 {
		t.Errorf("Knot has not followed by changes:\n%s", out)
	}
	t.Logf("%v, %d transfers, at last serial %d", time.Since(began).Round(time.Millisecond), s.zones.sorted()[0].ref.current.Load().counters.transfers.Load()-before, s.serial("example.com"))
}
