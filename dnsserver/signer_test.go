package dnsserver

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func testSigner(t testing.TB, zone string, config DNSSEC, store *storage.Store, c *clock) *signer {
	t.Helper()
	s := newSigner(zone, config, store, c.now, slog.New(slog.DiscardHandler))
	if err := s.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// edited returns the zone's next version, signed.
func (s *signer) edited(t testing.TB, e *zoneEdit) *zone {
	t.Helper()
	if err := s.sign(e, s.now()); err != nil {
		t.Fatal(err)
	}
	return e.finish()
}

// unsigned begins a zone with the records of another.
func unsigned(z *zone) *zoneEdit {
	e := newZone(z.name)
	for n := range z.nodes.from("") {
		for _, set := range n.sets {
			if !ownType(set.rtype) {
				set.sigs, set.signs = "", 0
				e.replace(n.key, set)
			}
		}
	}
	return e
}

func validatorOf(z *zone, now time.Time) *validator {
	v := &validator{zone: nameText(z.name), now: now}
	for data := range z.top.set(dns.TypeDNSKEY).data() {
		r := record{z.name, dns.TypeDNSKEY, keyTTL, data}
		rr, err := r.unpack()
		if err != nil {
			panic(err)
		}
		v.keys = append(v.keys, rr.(*dns.DNSKEY))
	}
	return v
}

func recordTexts(z *zone, keep func(r record) bool) (list []string) {
	for r := range z.records() {
		if keep(r) {
			list = append(list, r.text())
		}
	}
	return list
}

// randomEdit changes a zone a bit. It reports false if the result is none.
func randomEdit(r *rand.Rand, z *zone) (*zoneEdit, bool) {
	e := z.change()
	for range 1 + r.IntN(4) {
		owner := nameText(randomOwner(r, zoneZ))
		text := owner + " 60 IN " + []string{"A 192.0.2.7", "TXT x", "NS b.z.", "DNAME outside.", "CNAME a.z.", "AAAA ::2", "DS 1 13 2 00"}[r.IntN(7)]
		if r.IntN(4) == 0 {
			text = "*." + text
		}
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		rec, err := packRecord(rr)
		if err != nil {
			panic(err)
		}
		if strings.HasPrefix(text, "*") && (rec.rtype == dns.TypeNS || rec.rtype == dns.TypeDNAME) {
			continue
		}
		if r.IntN(3) > 0 {
			key := e.nodeKey(rec.name)
			if n := e.node(key); n != nil {
				for _, set := range n.sets {
					if key != "" && !ownType(set.rtype) {
						e.replace(key, rrset{rtype: set.rtype})
					}
				}
			}
		}
		if r.IntN(3) > 0 && (rec.rtype != dns.TypeDNAME || rec.name != z.name) {
			e.add(&rec)
		}
	}
	if r.IntN(20) == 0 { // another negative TTL: the whole chain changes
		soa := []byte(z.top.set(dns.TypeSOA).wire[recordHead:])
		soa[len(soa)-1] ^= 1
		e.add(&record{z.name, dns.TypeSOA, 600, string(soa)})
	}
	e.setSerial(e.serial() + 1)
	return e, e.check() == nil
}

// tried is how much a test has seen.
type tried struct {
	answers, sigs int
	rcodes        map[int]int
}

// checkLife makes a random zone, signs it and changes it at random. Each version
// has to be signed as if it had been from scratch, and each answer from it has to
// be proven.
func checkLife(t *testing.T, r *rand.Rand, mode string, edits int, seen *tried) {
	t.Helper()
	types := []uint16{dns.TypeA, dns.TypeNS, dns.TypeCNAME, dns.TypeDNAME, dns.TypeTXT, dns.TypeDS, dns.TypeSOA, dns.TypeNSEC, dns.TypeDNSKEY, dns.TypeANY, dns.TypeMX}
	_, z := randomZone(r, zoneZ)
	config := DNSSEC{Denial: mode, SignaturesPerSecond: 1e6}
	if r.IntN(3) > 0 {
		config.Algorithm = algorithmEd25519
	}
	c := newClock()
	s := testSigner(t, z.name, config, nil, c)
	z = s.edited(t, unsigned(z))
	plain := func(r record) bool { return r.rtype != dns.TypeRRSIG }
	for range edits {
		v := validatorOf(z, c.at)
		if err := v.whole(z, mode); err != nil {
			t.Fatalf("%v in\n%s", err, strings.Join(recordTexts(z, func(record) bool { return true }), "\n"))
		}
		fresh := s.edited(t, unsigned(z))
		if got, want := recordTexts(z, plain), recordTexts(fresh, plain); !slices.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		resp := testResponder(z)
		for range 25 {
			name := nameText(randomOwner(r, zoneZ))
			switch r.IntN(10) {
			case 0:
				name = strings.ToUpper(name)
			case 1, 2, 3:
				name = "x." + name
			}
			q := new(dns.Msg).SetQuestion(name, types[r.IntN(len(types))]).SetEdns0(4000, true)
			m := answerTo(t, resp, q, overTCP)
			if err := v.answer(m); err != nil {
				t.Fatalf("%v: in\n%v\nof\n%s", err, m, strings.Join(recordTexts(z, plain), "\n"))
			}
			seen.rcodes[m.Rcode]++
			seen.answers++
		}
		seen.sigs += v.sigs
		if e, ok := randomEdit(r, z); ok {
			before := z
			z = s.edited(t, e)
			checkDelta(t, before, e, z)
		}
	}
}

func TestSignedZones(t *testing.T) {
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(11, 12))
			seen := tried{rcodes: map[int]int{}}
			for range 7 {
				checkLife(t, r, mode, 8, &seen)
			}
			t.Logf("%+v", seen)
			if mode != denialCompact && seen.rcodes[dns.RcodeNameError] < seen.answers/20 || seen.sigs < seen.answers {
				t.Error("not much was tried")
			}
		})
	}
}

func FuzzSignedZones(f *testing.F) {
	f.Add(uint64(203), uint8('#')) // a DNAME record that points below itself
	f.Add(uint64(188), uint8(0))   // MX records among others in an answer for ANY
	f.Add(uint64(1), uint8(1))
	f.Add(uint64(1), uint8(2))
	f.Fuzz(func(t *testing.T, seed uint64, mode uint8) {
		seen := tried{rcodes: map[int]int{}}
		checkLife(t, rand.New(rand.NewPCG(seed, 1)), []string{denialNSEC, denialNSEC3, denialCompact}[mode%3], 4, &seen)
	})
}

// checkChains asks a server with several zones, signed in one way or another or
// not at all, for names that have aliases from one to another. Each answer has to
// be proven.
func checkChains(t *testing.T, r *rand.Rand, seen *tried) {
	t.Helper()
	types := []uint16{dns.TypeA, dns.TypeNS, dns.TypeCNAME, dns.TypeDNAME, dns.TypeDS, dns.TypeSOA, dns.TypeNSEC, dns.TypeANY, dns.TypeMX, dns.TypeSRV, dns.TypeRRSIG}
	c := newClock()
	v := &validator{now: c.at}
	var zones []*zone
	for _, top := range severalZones() {
		_, z := randomZone(r, top, severalZones()...)
		e := unsigned(z)
		e.replace("", rrset{rtype: dns.TypeDS}) // it belongs into the zone above
		if top == zoneZ {
			below := severalZones()[1]
			if n := e.node(e.nodeKey(below)); n != nil {
				for _, set := range n.sets {
					e.replace(n.key, rrset{rtype: set.rtype})
				}
			}
			e.add(&record{below, dns.TypeNS, 60, below})
		}
		for range 3 {
			owner := randomOwner(r, top)
			if n := e.node(e.nodeKey(owner)); n == nil || n.set(dns.TypeA) != nil && n.set(dns.TypeNS) == nil {
				e.add(&record{owner, typeALIAS, 60, zoneZ})
				e.add(&record{owner, dns.TypeA, 60, "\xc0\x00\x02\x01"})
			}
		}
		mode := []string{"", denialNSEC, denialNSEC3, denialCompact}[r.IntN(4)]
		v.other = append(v.other, nameText(top))
		if mode == "" {
			v.plain = append(v.plain, nameText(top))
			zones = append(zones, e.finish())
			continue
		}
		s := testSigner(t, top, DNSSEC{Denial: mode, SignaturesPerSecond: 1e6, Algorithm: algorithmEd25519}, nil, c)
		z = s.edited(t, e)
		zones, v.keys = append(zones, z), append(v.keys, validatorOf(z, c.at).keys...)
	}
	resp := testResponder(zones...)
	for range 50 {
		name := nameText(randomOwner(r, severalZones()[r.IntN(3)]))
		switch r.IntN(10) {
		case 0:
			name = strings.ToUpper(name)
		case 1, 2, 3:
			name = "x." + name
		}
		q := new(dns.Msg).SetQuestion(name, types[r.IntN(len(types))]).SetEdns0(4000, true)
		answerTo(t, resp, q, overUDP)
		m := answerTo(t, resp, q, overTCP)
		if err := v.answer(m); err != nil {
			var all []string
			for _, z := range zones {
				all = append(all, recordTexts(z, func(r record) bool { return r.rtype != dns.TypeRRSIG })...)
			}
			t.Fatalf("%v: in\n%v\nof\n%s", err, m, strings.Join(all, "\n"))
		}
		seen.rcodes[m.Rcode]++
		seen.answers++
	}
	seen.sigs += v.sigs
}

func TestSignedChains(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	seen := tried{rcodes: map[int]int{}}
	for range 10 {
		checkChains(t, r, &seen)
	}
	if t.Logf("%+v", seen); seen.sigs < seen.answers {
		t.Error("not much was tried")
	}
}

func FuzzSignedChains(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		checkChains(t, rand.New(rand.NewPCG(seed, 1)), &tried{rcodes: map[int]int{}})
	})
}

// checkDelta applies what has changed to the version before.
func checkDelta(t *testing.T, old *zone, e *zoneEdit, z *zone) {
	t.Helper()
	all := func(record) bool { return true }
	have := map[string]bool{}
	for _, text := range recordTexts(old, all) {
		have[text] = true
	}
	d := newDelta(e, old.serial(), z.serial())
	for r := range d.removed() {
		if !have[r.text()] {
			t.Fatalf("%s was removed, but not there", r.text())
		}
		delete(have, r.text())
	}
	for r := range d.added() {
		have[r.text()] = true
	}
	want := recordTexts(z, all)
	for _, text := range want {
		if !have[text] {
			t.Fatalf("%s is missing in the changes", text)
		}
	}
	if len(have) != len(want) {
		t.Fatalf("%d records after the changes, want %d", len(have), len(want))
	}
}
