package dnsserver

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Signatures that are not right are answered as RFC 8945 section 5.2 says, with
// codes and MACs that another implementation takes.
func TestTSIGErrors(t *testing.T) {
	s := testServerOf(t, nil, Config{TSIGKeys: testKeys(), Zones: []Zone{{Name: "example.com", File: zoneFile(t, exampleZone), AllowTransfer: []string{"key:test.key"}}}}, 0)
	sign := func(name, algorithm, secret string, at time.Time) ([]byte, string) {
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.SetTsig(name, algorithm, 300, at.Unix())
		wire, mac, err := dns.TsigGenerate(m, secret, "", false)
		if err != nil {
			t.Fatal(err)
		}
		return wire, mac
	}
	ask := func(wire []byte) ([]byte, *dns.Msg, *dns.TSIG) {
		t.Helper()
		from := &asker{addr: netip.MustParseAddrPort("192.0.2.1:5353")}
		got := s.responder.respond(s.responder.newScratch(), []byte("before"), wire, from)[len("before"):]
		m := new(dns.Msg)
		if err := m.Unpack(got); err != nil {
			t.Fatal(err)
		}
		if (from.key != nil) != (m.Rcode == 0) {
			t.Errorf("key %v with %s", from.key, dns.RcodeToString[m.Rcode])
		}
		return got, m, m.IsTsig()
	}
	now := time.Now()
	for _, alg := range []string{"hmac-sha256.", "hmac-sha512."} {
		name, secret := "Test.Key.", testSecret
		if alg == "hmac-sha512." {
			name, secret = "other.key.", otherSecret
		}
		wire, mac := sign(name, alg, secret, now)
		got, m, ts := ask(wire)
		if m.Rcode != 0 || len(m.Answer) != 2 || ts == nil || dns.TsigVerify(got, secret, mac, false) != nil {
			t.Errorf("%s: %v", alg, m)
		}
	}
	for _, test := range []struct {
		name, algorithm, secret string
		at                      time.Time
		change                  func([]byte)
		want                    int
	}{
		{name: "no.key.", want: dns.RcodeBadKey},
		{algorithm: "hmac-sha1.", want: dns.RcodeBadKey},
		{secret: otherSecret, want: dns.RcodeBadSig},
		{change: func(b []byte) { b[13] = 'x' }, want: dns.RcodeBadSig},
		{at: now.Add(-301 * time.Second), want: dns.RcodeBadTime},
		{at: now.Add(302 * time.Second), want: dns.RcodeBadTime},
	} {
		name, algorithm, secret, at := "test.key.", "hmac-sha256.", testSecret, now
		if test.name != "" {
			name = test.name
		}
		if test.algorithm != "" {
			algorithm = test.algorithm
		}
		if test.secret != "" {
			secret = test.secret
		}
		if !test.at.IsZero() {
			at = test.at
		}
		wire, mac := sign(name, algorithm, secret, at)
		if test.change != nil {
			test.change(wire)
		}
		got, m, ts := ask(wire)
		if m.Rcode != dns.RcodeNotAuth || ts == nil || int(ts.Error) != test.want || len(m.Answer) > 0 {
			t.Errorf("%+v: %v", test, m)
			continue
		}
		if test.want != dns.RcodeBadTime {
			if ts.MACSize != 0 {
				t.Errorf("%+v: signed", test)
			}
			continue
		}
		// miekg/dns takes no MAC of an error, so look as if it were none.
		got[3] &^= 15
		stripped := new(dns.Msg)
		stripped.Unpack(got)
		if len(ts.OtherData) != 12 || ts.TimeSigned != uint64(at.Unix()) {
			t.Errorf("BADTIME with %q of %d", ts.OtherData, ts.TimeSigned)
		}
		key := s.transfers.key("\x04test\x03key\x00")
		rec, ok := readTSIG(got, len(got)-dns.Len(ts))
		if !ok {
			t.Fatal("no TSIG record at the end")
		}
		got[3] |= 9
		h := key.begin(unhex(t, mac))
		h.Write(rec.unsigned(got, len(got)-dns.Len(ts)))
		h.Write(rec.variables())
		if rec.verify(h) != 0 {
			t.Error("the answer of BADTIME is not signed right")
		}
	}
	// Cut MACs: BADTRUNC from half on, no sense below.
	for n, want := range map[int]int{16: dns.RcodeBadTrunc, 31: dns.RcodeBadTrunc, 15: dns.RcodeFormatError, 0: dns.RcodeFormatError} {
		wire, _ := sign("test.key.", "hmac-sha256.", testSecret, now)
		_, m, ts := ask(cutMAC(wire, n))
		if want == dns.RcodeFormatError && (m.Rcode != want || ts != nil) || want != dns.RcodeFormatError && (ts == nil || int(ts.Error) != want) {
			t.Errorf("MAC of %d octets: %v", n, m)
		}
	}
	// Over UDP all of it fits.
	m := new(dns.Msg).SetQuestion("example.com.", dns.TypeANY)
	m.SetTsig("test.key.", "hmac-sha256.", 300, now.Unix())
	wire, _, _ := dns.TsigGenerate(m, testSecret, "", false)
	if got, _, _ := ask(wire); len(got) > 512 {
		t.Errorf("%d octets", len(got))
	}
	if dig := s.dig(t, "www.example.com", "-y", "hmac-sha256:test.key:"+testSecret); !strings.Contains(dig, "status: NOERROR") || strings.Contains(dig, "Couldn't verify") {
		t.Error(dig)
	}
}

// cutMAC cuts the MAC of the TSIG record at the end of a message.
func cutMAC(wire []byte, n int) []byte {
	out := append([]byte(nil), wire[:len(wire)-6-32]...)
	binary.BigEndian.PutUint16(out[len(out)-2:], uint16(n))
	out = append(out, wire[len(wire)-6-32:len(wire)-6-32+n]...)
	out = append(out, wire[len(wire)-6:]...)
	length := len(wire) - (16 + 13 + 32) - 2
	binary.BigEndian.PutUint16(out[length:], uint16(16+13+n))
	return out
}
