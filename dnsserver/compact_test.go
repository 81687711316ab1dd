package dnsserver

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Signatures for questions have a budget, and what is remembered is bounded.
func TestCompactBudget(t *testing.T) {
	c := newClock()
	s := testSigner(t, "\x07example\x00", DNSSEC{Denial: denialCompact, SignaturesPerSecond: 20, Algorithm: algorithmEd25519}, nil, c)
	z := s.edited(t, parsedZone(t, "example.", signedExampleZone))
	r := testResponder(z)
	query := func(name string, rtype uint16, do bool) *dns.Msg {
		return answerTo(t, r, new(dns.Msg).SetQuestion(name, rtype).SetEdns0(1232, do), overUDP)
	}
	failed := 0
	for range 50 {
		if m := query("n"+dns.Fqdn(rand.Text())+"example.", dns.TypeA, true); m.Rcode == dns.RcodeServerFailure {
			failed++
			if m.Truncated || m.Authoritative || len(m.Answer)+len(m.Ns) > 0 {
				t.Fatalf("SERVFAIL with more:\n%v", m)
			}
		}
	}
	if failed != 30 {
		t.Errorf("%d of 50 failed, want 30", failed)
	}
	// What needs no signature of its own goes on.
	if m := query("web.example.", dns.TypeA, true); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 2 {
		t.Errorf("a plain answer:\n%v", m)
	}
	if m := query("nobody.example.", dns.TypeA, false); m.Rcode != dns.RcodeNameError {
		t.Errorf("without DNSSEC:\n%v", m)
	}
	for _, name := range []string{"a.wild.example.", "far.example."} { // nor a chain that begins well
		if m := query(name, dns.TypeTXT, true); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
			t.Errorf("a wildcard beyond the budget:\n%v", m)
		}
	}
	c.at = c.at.Add(time.Second)
	if m := query("far.example.", dns.TypeTXT, true); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 4 {
		t.Errorf("in the next second:\n%v", m)
	}
	s.config.SignaturesPerSecond = 1e6
	c.at = c.at.Add(time.Second)
	for range maxOnline * len(s.online.shards) * 5 / 4 {
		query("n"+dns.Fqdn(rand.Text())+"example.", dns.TypeA, true)
	}
	for i := range s.online.shards {
		if n := len(s.online.shards[i].sigs); n > maxOnline {
			t.Errorf("%d signatures remembered", n)
		}
	}
}

// Clients that know of compact proofs get the response code that is true.
// A signature that is remembered counts only once it has begun, as the clock
// that it was made by may have been ahead.
func TestCompactAfterClockWasAhead(t *testing.T) {
	c := newClock()
	s := testSigner(t, "\x07example\x00", DNSSEC{Denial: denialCompact}, nil, c)
	r := testResponder(s.edited(t, parsedZone(t, "example.", signedExampleZone)))
	for _, back := range []time.Duration{0, 20 * day} {
		c.at = c.at.Add(-back)
		m := answerTo(t, r, new(dns.Msg).SetQuestion("nobody.example.", dns.TypeA).SetEdns0(1232, true), overUDP)
		begun := 0
		for _, rr := range m.Ns {
			if sig, ok := rr.(*dns.RRSIG); ok && sig.TypeCovered == dns.TypeNSEC && sig.ValidityPeriod(c.at) {
				begun++
			}
		}
		if begun != 1 {
			t.Errorf("%v back: no good proof in\n%v", back, m)
		}
	}
}

func TestCompactAnswersOK(t *testing.T) {
	s := testSigner(t, "\x07example\x00", DNSSEC{Denial: denialCompact}, nil, newClock())
	r := testResponder(s.edited(t, parsedZone(t, "example.", signedExampleZone)))
	q := new(dns.Msg).SetQuestion("nobody.example.", dns.TypeA).SetEdns0(1232, true)
	if m := answerTo(t, r, q, overUDP); m.Rcode != dns.RcodeSuccess {
		t.Errorf("without the flag:\n%v", m)
	}
	q.IsEdns0().Hdr.Ttl |= 0x4000
	if m := answerTo(t, r, q, overUDP); m.Rcode != dns.RcodeNameError {
		t.Errorf("with the flag:\n%v", m)
	}
	if m := answerTo(t, r, new(dns.Msg).SetQuestion("web.example.", dns.TypeNXNAME), overUDP); m.Rcode != dns.RcodeFormatError {
		t.Errorf("NXNAME:\n%v", m)
	}
}

// The name that comes next is behind the one asked about, and nothing of the
// names that can be is between them but the ones below it.
func TestNextName(t *testing.T) {
	long := strings.Repeat("\x3f"+strings.Repeat("a", 63), 3) + "\x00"
	for _, name := range []string{
		"\x01a\x00", "\x3f" + strings.Repeat("a", 63) + "\x00", "\x3c" + strings.Repeat("b", 60) + long, "\x3d" + strings.Repeat("b", 61) + long,
		"\x3d" + strings.Repeat("b", 60) + "\xff" + long, "\x3d" + strings.Repeat("b", 60) + "@" + long, "\x3c" + strings.Repeat("\xff", 60) + long,
	} {
		next := string(appendNext(nil, []byte(name)))
		if nameLen(next) != len(next) || compareNames(name, next) >= 0 {
			t.Errorf("%q: %q", name, next)
		}
	}
	if next := appendNext(nil, []byte("\x3d"+strings.Repeat("\xff", 61)+long)); next != nil {
		t.Errorf("%q", next)
	}
}
