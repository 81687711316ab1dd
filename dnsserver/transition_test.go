package dnsserver

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// A zone that is served is signed, its proofs change their kind, and each time
// those who follow it by its changes get the same.
func TestDenialChanges(t *testing.T) {
	c := newClock()
	store := memory(t)
	z := parsedZone(t, "example.", signedExampleZone).finish()
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact, denialNSEC3, denialNSEC, denialCompact, denialNSEC} {
		s := testSigner(t, z.name, DNSSEC{Denial: mode}, store, c)
		before, e := z, z.change()
		e.setSerial(e.serial() + 1)
		z = s.edited(t, e)
		if err := validatorOf(z, c.at).whole(z, mode); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		checkDelta(t, before, e, z)
	}
}

// What a zone file has of an earlier signer is not served.
func TestSignedZoneFile(t *testing.T) {
	foreign := signedExampleZone + `
web RRSIG A 13 2 300 20300101000000 20200101000000 1 example. AAAA
web NSEC zzz A
stray RRSIG A 13 2 300 20300101000000 20200101000000 1 example. AAAA
0p9mhaveqvm6t7vbl5lop2u3t2rp3tom NSEC3 1 1 12 AABB 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR A RRSIG
deep.stray NSEC zzz A
@ DNSKEY 257 3 13 AAAA
@ CDS 1 13 2 00
@ NSEC3PARAM 1 0 12 AABB
`
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		s := testSigner(t, "\x07example\x00", DNSSEC{Denial: mode}, nil, newClock())
		got := s.edited(t, parsedZone(t, "example.", foreign))
		want := s.edited(t, parsedZone(t, "example.", signedExampleZone))
		plain := func(r record) bool { return r.rtype != dns.TypeRRSIG }
		if a, b := recordTexts(got, plain), recordTexts(want, plain); !slices.Equal(a, b) {
			t.Errorf("%s: got\n%s\nwant\n%s", mode, strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
		if err := validatorOf(got, s.now()).whole(got, mode); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		// The same by a change.
		e := want.change()
		e.replace(e.nodeKey("\x05stray\x07example\x00"), newSet(dns.TypeRRSIG, 300, []string{"x"}))
		e.replace(e.nodeKey("\x03web\x07example\x00"), newSet(dns.TypeNSEC, 300, []string{"\x00"}))
		e.setSerial(e.serial() + 1)
		got = s.edited(t, e)
		if err := validatorOf(got, s.now()).whole(got, mode); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// A wildcard in the name of a zone and the longest names there can be are signed
// like others.
func TestLongNames(t *testing.T) {
	label := strings.Repeat("a", 63) + "."
	zone := strings.Repeat(label, 3) + strings.Repeat("b", 21) + "."
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		name, err := wireName(zone)
		if err != nil {
			t.Fatal(err)
		}
		s := testSigner(t, name, DNSSEC{Denial: mode}, nil, newClock())
		e := parsedZone(t, zone, "@ 300 IN SOA ns host 1 2 3 4 300\n@ NS ns\n"+strings.Repeat("c", 38)+" A 192.0.2.1\n")
		z := s.edited(t, e)
		if err := validatorOf(z, s.now()).whole(z, mode); err != nil {
			t.Error(err)
		}
		r := testResponder(z)
		for _, sub := range []string{strings.Repeat("d", 38), "x." + strings.Repeat("c", 36), strings.Repeat("c", 38)} {
			m := answerTo(t, r, new(dns.Msg).SetQuestion(sub+"."+zone, dns.TypeMX).SetEdns0(4096, true), overTCP)
			if err := validatorOf(z, s.now()).answer(m); err != nil {
				t.Errorf("%s: %v\n%v", mode, err, m)
			}
		}
	}
	zone = strings.Repeat(label, 3) + strings.Repeat("b", 30) + "."
	name, err := wireName(zone)
	if err != nil {
		t.Fatal(err)
	}
	s := testSigner(t, name, DNSSEC{Denial: denialNSEC3}, nil, newClock())
	e := parsedZone(t, zone, "@ 300 IN SOA a. b. 1 2 3 4 300\n")
	if err := s.sign(e, s.now()); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("%v", err)
	}
}
