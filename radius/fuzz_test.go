package radius

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
)

// record is a sender that keeps what is sent.
type record struct{ sent []datagram }

func (r *record) send(d datagram, _ *arrival) { r.sent = append(r.sent, d) }

// fuzzServer is one that nobody starts, with a run that has no sockets.
func fuzzServer(t testing.TB) *run {
	t.Helper()
	s, err := New(Config{Secret: testSecret, MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}, GuestVLAN: 9}, Limits: Limits{MaxFailures: -1},
		RequireMessageAuthenticator: new(false)}, WithAuthorizer(func(_ context.Context, r *Request) (Decision, error) {
		return Decision{Accept: r.CheckPassword("x")}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(s)
	if r.journal, err = openJournal(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	r.keeping.Go(r.journal.commitAll)
	t.Cleanup(func() {
		r.working.Wait()
		r.journal.stop()
		r.keeping.Wait()
		r.cancel()
	})
	return r
}

// Whatever comes, nothing breaks, an answer is an authentic packet, and there is
// one at most.
func FuzzPacket(f *testing.F) {
	for _, q := range []request{mab("aabbccddeeff"), mab("alice"), msChapRequest("alice"), acct(StatusStart, "x"), acct(StatusOn, ""), {code: layeh.CodeStatusServer, sign: true},
		{user: "aabbccddeeff", sign: true, attrs: []layeh.AVP{avp(rfc2869.EAPMessage_Type, "\x02\x01\x00\x05\x01")}}} {
		f.Add([]byte(q.encode(f)), true)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, resign bool) {
		r := fuzzServer(t)
		if d, ok := trim(b); ok && resign { // what a client could send that knows the secret
			o, _ := d.outline()
			p := builder{b: d, signature: o.signature}
			random := d.code() == layeh.CodeAccessRequest || d.code() == layeh.CodeStatusServer
			authenticator := make([]byte, 16)
			if random {
				copy(authenticator, d.authenticator())
			}
			if o.signature != 0 {
				clear(d[o.signature : o.signature+16])
			}
			p.sign([]byte(testSecret), authenticator, random)
		}
		before := slices.Clone(b)
		out := &record{}
		in := &arrival{from: netip.MustParseAddrPort("192.0.2.1:1"), client: r.s.clients.list[0], secret: []byte(testSecret), service: authService | acctService, at: time.Now(), out: out}
		r.take(in, b)
		r.working.Wait()
		if !bytes.Equal(b, before) {
			t.Error("the packet was changed")
		}
		if len(out.sent) > 1 {
			t.Fatalf("%d answers", len(out.sent))
		}
		for _, reply := range out.sent {
			d, _ := trim(b)
			if err := verifyReply(reply, d, []byte(testSecret), d.code() == layeh.CodeAccessRequest); err != nil {
				t.Error(err)
			}
			if n := int(reply[2])<<8 | int(reply[3]); n != len(reply) {
				t.Errorf("a length of %d for %d octets", n, len(reply))
			}
		}
	})
}

// EAP within sound attributes, with a State as of an earlier challenge.
func FuzzEAP(f *testing.F) {
	f.Add([]byte("\x02\x01\x00\x05\x01"), false)
	f.Add([]byte("\x02\x02\x00\x16\x04\x10"+"0123456789abcdef"), true)
	f.Add([]byte("\x02\x02\x00\x06\x03\x19"), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, eap []byte, state bool) {
		if len(eap) > 3000 {
			return
		}
		r := fuzzServer(t)
		var attrs []layeh.AVP
		if state && len(eap) > 1 {
			attrs = append(attrs, layeh.AVP{Type: rfc2865.State_Type, Attribute: r.s.newEAPState(make([]byte, 16), eap[1], netip.MustParseAddr("192.0.2.1"), "aabbccddeeff", time.Now())})
		}
		for len(eap) > 253 {
			attrs = append(attrs, layeh.AVP{Type: rfc2869.EAPMessage_Type, Attribute: eap[:253]})
			eap = eap[253:]
		}
		attrs = append(attrs, layeh.AVP{Type: rfc2869.EAPMessage_Type, Attribute: eap})
		d := request{user: "aabbccddeeff", sign: true, attrs: attrs}.encode(t)
		out := &record{}
		r.take(&arrival{from: netip.MustParseAddrPort("192.0.2.1:1"), client: r.s.clients.list[0], secret: []byte(testSecret), service: authService, at: time.Now(), out: out}, d)
		r.working.Wait()
		if len(out.sent) != 1 {
			t.Fatalf("%d answers", len(out.sent))
		}
		if out.sent[0].code() == layeh.CodeAccessAccept && !bytes.Contains(eap, []byte{0x04, 0x10}) {
			t.Error("it was let in without a password")
		}
	})
}

// Attributes of vendors, and what is hidden in answers of home servers.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x37\x10\x24"+"0123456789abcdef0123456789abcdef01"), []byte("0123456789abcdef01"))
	f.Add([]byte("\x00\x00\x01\x37\x0b\x00"), []byte{})
	f.Fuzz(func(t *testing.T, value, hidden []byte) {
		if len(value) > 253 || len(hidden) > 253 {
			return
		}
		attrs := layeh.Attributes{{Type: rfc2865.VendorSpecific_Type, Attribute: value}}
		vendorValue(attrs, microsoft, msChap2Response)
		parseMSChap(attrs)
		decryptPassword(hidden, []byte("s"), make([]byte, 16))
		saltDecrypt(hidden, []byte("s"), make([]byte, 16))
		if len(value) > 4 {
			recryptMicrosoft(value, func(v []byte) ([]byte, bool) { return saltDecrypt(v, []byte("s"), make([]byte, 16)) })
		}
		if plain, ok := saltDecrypt(saltEncrypt(hidden, []byte("s"), make([]byte, 16), 1), []byte("s"), make([]byte, 16)); !ok || !bytes.Equal(plain, hidden) {
			t.Errorf("%x came back as %x, %v", hidden, plain, ok)
		}
		p := newBuilder(nil, layeh.CodeAccessAccept, 1, true)
		p.add(rfc2865.VendorSpecific_Type, value)
		p.add(69, hidden)
		reply, err := p.sign([]byte("home"), make([]byte, 16), false)
		if err != nil {
			t.Fatal(err)
		}
		in, err := newAccess(&arrival{d: mab("alice").encode(t), secret: []byte(testSecret), client: &client{}, from: netip.MustParseAddrPort("192.0.2.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		in.bringBack(&homeServer{secret: []byte("home")}, reply, make([]byte, 16))
	})
}

// What was stored is read as it was written, and anything else is an error.
func FuzzSession(f *testing.F) {
	s := Session{Source: loopbackAddr(), NASIdentifier: "n", ID: "1", Class: []byte("c"), UserName: "u", Start: time.UnixMilli(1), Updated: time.UnixMilli(2), InputOctets: 1 << 40}
	f.Add(appendSession(nil, &s))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSession(string(b))
		if err != nil {
			return
		}
		decodeHead(string(b))
		again, err := decodeSession(string(appendSession(nil, &s)))
		if err != nil || !bytes.Equal(appendSession(nil, &again), appendSession(nil, &s)) {
			t.Errorf("%+v came back as %+v, %v", s, again, err)
		}
	})
}
