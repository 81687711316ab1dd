package dnsserver

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func signedNames(t testing.TB, n int, config DNSSEC) (*signer, *zone) {
	c := &clock{time.Now()}
	s := testSigner(t, "\x07example\x03com\x00", config, nil, c)
	e := unsigned(manyNames(t, n))
	for _, text := range []string{
		"*.wild.example.com. 300 IN A 192.0.2.1", "deep.ent.example.com. 300 IN A 192.0.2.1", "cut.example.com. 300 IN NS ns.cut.example.com.",
		"alias.example.com. 300 IN CNAME x.wild.example.com.",
	} {
		r, err := parseText(text)
		if err != nil {
			t.Fatal(err)
		}
		e.add(&r)
	}
	return s, s.edited(t, e)
}

func signedQuestions() map[string]dns.Question {
	q := func(name string, t uint16) dns.Question {
		return dns.Question{Name: name + "example.com.", Qtype: t, Qclass: 1}
	}
	return map[string]dns.Question{
		"A": q("host-7.", dns.TypeA), "NODATA": q("host-7.", dns.TypeMX), "NXDOMAIN": q("Nobody.", dns.TypeA), "wildcard": q("a.wild.", dns.TypeA),
		"wildcard NODATA": q("a.wild.", dns.TypeMX), "ENT": q("ent.", dns.TypeA), "insecure": q("www.cut.", dns.TypeA), "alias": q("alias.", dns.TypeA),
	}
}

// Proofs are made without allocating.
func TestSignedAnswersDoNotAllocate(t *testing.T) {
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		_, z := signedNames(t, 100, DNSSEC{Denial: mode})
		r := testResponder(z)
		for name, question := range signedQuestions() {
			q := new(dns.Msg)
			q.Question = []dns.Question{question}
			wire, _ := q.SetEdns0(1232, true).Pack()
			sc, dst := r.newScratch(), make([]byte, 0, 4096)
			from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353")}
			if got := testing.AllocsPerRun(100, func() { r.respond(sc, dst, wire, from) }); got > 0 && !testenv.Race {
				t.Errorf("%s %s: %v allocations", mode, name, got)
			}
			m := new(dns.Msg)
			if err := m.Unpack(r.respond(sc, dst, wire, from)); err != nil || m.Truncated {
				t.Errorf("%s %s: %v\n%v", mode, name, err, m)
			} else if err := validatorOf(z, time.Now()).answer(m); err != nil {
				t.Errorf("%s %s: %v", mode, name, err)
			}
		}
	}
}

func BenchmarkSignedAnswer(b *testing.B) {
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		_, z := signedNames(b, 10_000, DNSSEC{Denial: mode, Algorithm: algorithmEd25519})
		r := testResponder(z)
		for name, question := range signedQuestions() {
			q := new(dns.Msg)
			q.Question = []dns.Question{question}
			wire, _ := q.SetEdns0(1232, true).Pack()
			b.Run(mode+" "+name, func(b *testing.B) {
				sc, dst := r.newScratch(), make([]byte, 0, 4096)
				from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353")}
				b.ReportAllocs()
				for b.Loop() {
					r.respond(sc, dst, wire, from)
				}
			})
		}
	}
}

// One signature of ours against the cryptography alone.
func BenchmarkSignature(b *testing.B) {
	for _, algorithm := range []uint8{dns.ECDSAP256SHA256, dns.ED25519} {
		k, err := newKey(false, algorithm, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		set := newSet(dns.TypeA, 300, []string{"\x01\x02\x03\x04"})
		b.Run(dns.AlgorithmToString[algorithm]+" set", func(b *testing.B) {
			full := DNSSEC{}.filled()
			m := full.newSigMaker("\x07example\x00", time.Now())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.sign("\x03www\x07example\x00", &set, []*key{k}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(dns.AlgorithmToString[algorithm]+" bare", func(b *testing.B) {
			text := make([]byte, 60)
			b.ReportAllocs()
			for b.Loop() {
				bareSignature(b, k, text)
			}
		})
	}
}

// Signing a whole zone.
func BenchmarkSignZone(b *testing.B) {
	for _, mode := range []string{denialNSEC, denialNSEC3} {
		for _, algorithm := range []string{algorithmECDSA, algorithmEd25519} {
			b.Run(fmt.Sprintf("%s %s 100000 names", mode, algorithm), func(b *testing.B) {
				z := manyNames(b, 100_000)
				s := testSigner(b, z.name, DNSSEC{Denial: mode, Algorithm: algorithm}, nil, &clock{time.Now()})
				for b.Loop() {
					b.StopTimer()
					e := unsigned(z)
					b.StartTimer()
					s.edited(b, e)
				}
			})
		}
	}
}

// A change of one record in a signed zone, names that come and go included.
func BenchmarkSignedUpdate(b *testing.B) {
	for _, mode := range []string{denialNSEC, denialNSEC3, denialCompact} {
		b.Run(mode+" 100000 names", func(b *testing.B) {
			s, z := signedNames(b, 100_000, DNSSEC{Denial: mode, Algorithm: algorithmECDSA})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e := z.change()
				r := record{"\x03new\x07host-99\x07example\x03com\x00", dns.TypeA, 60, "\x01\x02\x03\x04"}
				if i%2 == 0 {
					e.add(&r)
				} else {
					e.remove(r.name, r.rtype, r.data)
				}
				e.setSerial(e.serial() + 1)
				z = s.edited(b, e)
			}
		})
	}
}

func bareSignature(b *testing.B, k *key, text []byte) {
	var err error
	if private, ok := k.signer.(ed25519.PrivateKey); ok {
		ed25519.Sign(private, text)
	} else {
		sum := sha256.Sum256(text)
		_, err = ecdsa.SignASN1(rand.Reader, k.signer.(*ecdsa.PrivateKey), sum[:])
	}
	if err != nil {
		b.Fatal(err)
	}
}
