package radius

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2869"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// The forgery needs an answer in which something unknown stands before the
// part that it makes collide: so Message-Authenticator is first in each.
func TestBlastRADIUSAnswersBeginWithMessageAuthenticator(t *testing.T) {
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"aa*"}}})
	eap := mab("aabbccddeeff")
	eap.pap = nil
	eap.attrs = append(eap.attrs, avp(rfc2869.EAPMessage_Type, "\x02\x01\x00\x05\x01"))
	unsigned := mab("aabbccddeeff")
	unsigned.sign = false
	for want, q := range map[layeh.Code]request{
		layeh.CodeAccessAccept: unsigned, layeh.CodeAccessReject: mab("bbbbccddeeff"), layeh.CodeAccessChallenge: eap,
	} {
		// Each from an address of its own: the signed ones latch.
		d := q.encode(t)
		n := dialFrom(t, "127.0.0."+string(rune('1'+int(want)%8)), authAddr(s))
		n.send(d)
		if p := parseReply(t, n, d, testSecret); p.Code != want {
			t.Errorf("got %v, want %v", p.Code, want)
		}
	}
}

func TestBlastRADIUSForgedMessageAuthenticator(t *testing.T) {
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
	d := mab("aabbccddeeff").encode(t)
	d[headerLength+2] ^= 1
	silence(t, s, dialServer(t, authAddr(s)), d, badSignature)
	acct := request{code: layeh.CodeAccountingRequest, sign: true, attrs: []layeh.AVP{avp(rfc2866.AcctSessionID_Type, "x"), avp(rfc2866.AcctStatusType_Type, "\x00\x00\x00\x01")}}.encode(t)
	acct[headerLength+2] ^= 1
	sum := acct.digest([]byte(testSecret), make([]byte, 16))
	copy(acct[authenticatorAt:], sum[:])
	silence(t, s, dialServer(t, acctAddr(s)), acct, badSignature)
}

func TestBlastRADIUSRequired(t *testing.T) {
	unsigned := mab("aabbccddeeff")
	unsigned.sign = false
	for _, require := range []*bool{nil, new(true), new(false)} {
		s := startServer(t, Config{RequireMessageAuthenticator: require, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
		n := dialServer(t, authAddr(s))
		if require != nil && *require {
			silence(t, s, n, unsigned.encode(t), unsignedReason)
			continue
		}
		if p := ask(t, authAddr(s), unsigned.encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
			t.Errorf("got %v", p.Code)
		}
		// That EAP is signed says nothing of other requests.
		ask(t, authAddr(s), request{user: "alice", sign: true, attrs: []layeh.AVP{avp(rfc2869.EAPMessage_Type, "\x02\x01\x00\x0a\x01alice")}}.encode(t), testSecret)
		if p := ask(t, authAddr(s), unsigned.encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
			t.Errorf("got %v", p.Code)
		}
		// Auto latches with the first signed request of an address.
		ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)
		if require == nil {
			silence(t, s, n, unsigned.encode(t), unsignedReason)
			other := dialFrom(t, "127.0.0.9", authAddr(s))
			d := unsigned.encode(t)
			other.send(d)
			parseReply(t, other, d, testSecret)
		} else if p := ask(t, authAddr(s), unsigned.encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
			t.Errorf("got %v", p.Code)
		}
	}
}

// unsignedReason is the reason under a name that tests do not use otherwise.
const unsignedReason = unsigned

// Proxy-State is where the forgery puts its collision.
func TestBlastRADIUSProxyState(t *testing.T) {
	for _, require := range []*bool{nil, new(false)} {
		s := startServer(t, Config{RequireMessageAuthenticator: require, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
		q := mab("aabbccddeeff")
		q.sign = false
		q.attrs = []layeh.AVP{avp(rfc2865.ProxyState_Type, "one"), avp(rfc2865.ProxyState_Type, "two")}
		silence(t, s, dialServer(t, authAddr(s)), q.encode(t), proxyState)
		q.sign = true
		p := ask(t, authAddr(s), q.encode(t), testSecret)
		states, _ := rfc2865.ProxyState_GetStrings(p)
		if !slices.Equal(states, []string{"one", "two"}) {
			t.Errorf("Proxy-State came back as %q", states)
		}
	}
}

func TestBlastRADIUSEAPNeedsMessageAuthenticator(t *testing.T) {
	s := startServer(t, Config{RequireMessageAuthenticator: new(false)})
	q := request{user: "aabbccddeeff", attrs: []layeh.AVP{avp(rfc2869.EAPMessage_Type, "\x02\x01\x00\x05\x01")}}
	silence(t, s, dialServer(t, authAddr(s)), q.encode(t), unsigned)
}

// What is broken is ignored, counted, and logged once for a client and minute.
func TestMalformed(t *testing.T) {
	var log logBuffer
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"*"}}}, WithLogger(log.logger()))
	good := mab("aabbccddeeff").encode(t)
	change := func(f func(d datagram) []byte) []byte { return f(slices.Clone(good)) }
	tests := map[string][]byte{
		"short header": good[:19],
		"empty":        {},
		"truncated":    good[:len(good)-1],
		"length below header": change(func(d datagram) []byte {
			binary.BigEndian.PutUint16(d[2:], 19)
			return d
		}),
		"length over 4096": change(func(d datagram) []byte {
			binary.BigEndian.PutUint16(d[2:], 4097)
			return append(d, make([]byte, 4097-len(d))...)
		}),
		"attribute length 0":      change(func(d datagram) []byte { d[headerLength+1+18] = 0; return d }),
		"attribute length 1":      change(func(d datagram) []byte { d[headerLength+1+18] = 1; return d }),
		"attribute past the end":  change(func(d datagram) []byte { d[headerLength+1+18] = 255; return d }),
		"half an attribute":       request{}.raw(t, []byte{1}),
		"two signatures":          request{}.raw(t, append(signature(), signature()...)),
		"short signature":         request{}.raw(t, []byte{80, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}),
		"too many attributes":     request{}.raw(t, slices.Repeat([]byte{1, 2}, maxAttributes+1)),
		"a circle of Proxy-State": request{}.raw(t, slices.Repeat([]byte{33, 3, 1}, maxProxyStates+1)),
	}
	n := dialServer(t, authAddr(s))
	for name, b := range tests {
		t.Run(name, func(t *testing.T) { silence(t, s, n, b, malformed) })
	}
	if lines := strings.Count(log.String(), "reason=malformed"); lines != 1 {
		t.Errorf("%d lines about it, want 1:\n%s", lines, log.String())
	}
	if got := s.Stats(); got.Clients[0].Dropped != uint64(len(tests)) || got.Requests != 0 {
		t.Errorf("counted %+v", got)
	}
}

func signature() []byte { return append([]byte{80, 18}, make([]byte, 16)...) }

// raw is an Access-Request with attributes as given.
func (q request) raw(t *testing.T, attrs []byte) []byte {
	b := append(slices.Clone(q.encode(t)[:headerLength]), attrs...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func TestWrongSecret(t *testing.T) {
	var log logBuffer
	s := startServer(t, Config{Clients: []Client{{IP: "127.0.0.1"}}, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}}, WithLogger(log.logger()))
	n := dialServer(t, authAddr(s))
	q := mab("aabbccddeeff")
	q.secret = "another secret than ours"
	silence(t, s, n, q.encode(t), badSignature)
	silence(t, s, n, q.encode(t), badSignature)
	acct := request{code: layeh.CodeAccountingRequest, secret: q.secret, attrs: []layeh.AVP{avp(rfc2866.AcctSessionID_Type, "x"), avp(rfc2866.AcctStatusType_Type, "\x00\x00\x00\x01")}}
	silence(t, s, dialServer(t, acctAddr(s)), acct.encode(t), badAuthenticator)
	if lines := strings.Count(log.String(), "reason=badMessageAuthenticator"); lines != 1 {
		t.Errorf("%d lines, want 1:\n%s", lines, log.String())
	}
	if strings.Contains(log.String(), testSecret) {
		t.Error("the secret is in the log")
	}
	// Unsigned, there is nothing but the password to tell by, which then is no
	// text: a Reject, that the client does not take for ours.
	q.sign = false
	d := q.encode(t)
	n.send(d)
	reply := n.receive(5 * time.Second)
	if reply == nil || reply.code() != layeh.CodeAccessReject {
		t.Fatalf("got %v, want a Reject", reply)
	}
	if verifyReply(reply, d, []byte(testSecret), true) != nil {
		t.Error("the Reject is not signed with our secret")
	}
	if got := s.Stats().Dropped[badPassword.String()]; got != 1 {
		t.Errorf("unreadablePassword is %d, want 1", got)
	}
}

// Where any of many addresses may ask, only those are answered who prove that they
// know the secret: others could ask about devices, and guess passwords and the
// secret.
func TestStrangersAmongManyAddresses(t *testing.T) {
	const mac = "aabbccddeeff"
	chap := avp(rfc2865.CHAPPassword_Type, strings.Repeat("x", 17))
	strangers := map[string]request{
		"no password":    {user: mac},
		"empty":          {user: mac, attrs: []layeh.AVP{avp(rfc2865.UserPassword_Type, "")}},
		"half a block":   {user: mac, attrs: []layeh.AVP{avp(rfc2865.UserPassword_Type, "12345678")}},
		"CHAP":           {user: mac, attrs: []layeh.AVP{chap}},
		"another secret": {user: mac, pap: new("a password of some length"), secret: "another secret than ours"},
	}
	clients := map[string]request{
		"password":          {user: mac, pap: new(mac)},
		"an empty password": {user: mac, attrs: []layeh.AVP{hiddenEmpty()}, random: make([]byte, 16)},
		"signed":            {user: mac, sign: true},
	}
	for name, test := range map[string]struct {
		clients []Client
		require *bool
		open    bool
	}{
		"anyone":             {},
		"a block":            {clients: []Client{{IP: "127.0.0.0/8"}}},
		"one address":        {clients: []Client{{IP: "127.0.0.1"}, {IP: "::/0"}}, open: true},
		"a block, by choice": {clients: []Client{{IP: "127.0.0.0/8", RequireMessageAuthenticator: new(false)}}, open: true},
		"anyone, by choice":  {require: new(false), open: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Config{Clients: test.clients, RequireMessageAuthenticator: test.require, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
			for kind, q := range strangers {
				n := dialServer(t, authAddr(s))
				if !test.open {
					silence(t, s, n, q.encode(t), unsigned)
					continue
				}
				n.send(q.encode(t))
				if n.receive(testPatience) == nil {
					t.Errorf("%s: no answer", kind)
				}
			}
			// A wrong one in another coding, which is rejected and not ignored.
			latin1 := request{user: mac, pap: new("m\xfcller")}
			if p := ask(t, authAddr(s), latin1.encode(t), testSecret); p.Code != layeh.CodeAccessReject {
				t.Errorf("Latin-1: got %v", p.Code)
			}
			for _, kind := range []string{"password", "an empty password", "signed"} { // which latches
				if p := ask(t, authAddr(s), clients[kind].encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
					t.Errorf("%s: got %v", kind, p.Code)
				}
			}
		})
	}
}

// hiddenEmpty is an empty User-Password under an authenticator of zeros, as MikroTik
// sends it.
func hiddenEmpty() layeh.AVP {
	sum := md5.Sum(append([]byte(testSecret), make([]byte, 16)...))
	return layeh.AVP{Type: rfc2865.UserPassword_Type, Attribute: sum[:]}
}

func TestUnknownClient(t *testing.T) {
	var log logBuffer
	s := startServer(t, Config{Clients: []Client{{IP: "127.0.0.1"}, {IP: "10.0.0.0/8"}}, MACAuth: &MACAuth{AllowedMACs: []string{"*"}}}, WithLogger(log.logger()))
	stranger := dialFrom(t, "127.0.0.77", authAddr(s))
	for range 20 {
		silence(t, s, stranger, mab("aabbccddeeff").encode(t), unknownClient)
	}
	if lines := strings.Count(log.String(), "reason=unknownClient"); lines != 1 {
		t.Errorf("%d lines, want 1", lines)
	}
	ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)
}

// Of several clients with an address the longest prefix counts, and each has a
// secret of its own.
func TestClientsByPrefix(t *testing.T) {
	s := startServer(t, Config{Secret: "the global secret is this", MACAuth: &MACAuth{AllowedMACs: []string{"*"}},
		Clients: []Client{{IP: "127.0.0.0/8"}, {IP: "127.0.5.0/24", Secret: "the secret of the block"}, {IP: "127.0.5.6", Secret: "the secret of the switch"}}})
	for local, secret := range map[string]string{"127.0.0.1": "the global secret is this", "127.0.5.5": "the secret of the block", "127.0.5.6": "the secret of the switch"} {
		q := mab("aabbccddeeff")
		q.secret = secret
		d := q.encode(t)
		n := dialFrom(t, local, authAddr(s))
		n.send(d)
		parseReply(t, n, d, secret)
	}
}

func TestCodesThatDoNotBelong(t *testing.T) {
	s := startServer(t, Config{MACAuth: &MACAuth{AllowedMACs: []string{"*"}}})
	silence(t, s, dialServer(t, acctAddr(s)), mab("aabbccddeeff").encode(t), unexpectedCode)
	acct := request{code: layeh.CodeAccountingRequest, attrs: []layeh.AVP{avp(rfc2866.AcctSessionID_Type, "x"), avp(rfc2866.AcctStatusType_Type, "\x00\x00\x00\x01")}}
	silence(t, s, dialServer(t, authAddr(s)), acct.encode(t), unexpectedCode)
	for _, code := range []layeh.Code{layeh.CodeAccessAccept, layeh.CodeDisconnectRequest, 255} {
		silence(t, s, dialServer(t, authAddr(s)), request{code: code, sign: true}.encode(t), unexpectedCode)
	}
}

func TestStatusServer(t *testing.T) {
	s := startServer(t, Config{})
	if out := radclient(t, authAddr(s), "status", testSecret, "Message-Authenticator = 0x00"); !strings.Contains(out, "Received Access-Accept") {
		t.Error(out)
	}
	if out := radclient(t, acctAddr(s), "status", testSecret, "Message-Authenticator = 0x00"); !strings.Contains(out, "Received Accounting-Response") {
		t.Error(out)
	}
	silence(t, s, dialServer(t, authAddr(s)), request{code: layeh.CodeStatusServer}.encode(t), unsigned)
	if got := s.Stats().Status; got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
}

// Retransmissions get the answer of the first, those that come meanwhile and
// those that come later.
func TestRetransmissions(t *testing.T) {
	var calls atomic.Int32
	proceed := make(chan struct{})
	s := startServer(t, Config{}, WithAuthorizer(func(ctx context.Context, r *Request) (Decision, error) {
		calls.Add(1)
		select {
		case <-proceed:
		case <-ctx.Done():
			return Decision{}, ctx.Err()
		}
		return Decision{Accept: true, ReplyMessage: "hello"}, nil
	}))
	n := dialServer(t, authAddr(s))
	d := mab("alice").encode(t)
	const early, late = 200, 800 // 200 answers at once fit into any socket's buffer
	for i := range uint64(early) {
		n.send(d)
		if i%100 == 99 { // not to lose any in the socket's buffer
			testenv.WaitFor(t, 10*time.Second, func() error {
				if got := s.Stats().Requests; got < i+1 {
					return fmt.Errorf("%d have come", got)
				}
				return nil
			})
		}
	}
	testenv.WaitFor(t, 10*time.Second, func() error {
		if s.Stats().Duplicates < early-1 {
			return errors.New("not all have come")
		}
		return nil
	})
	var replies []datagram
	var reading sync.WaitGroup
	reading.Go(func() {
		for len(replies) < early+late {
			reply := n.receive(5 * time.Second)
			if reply == nil {
				return
			}
			replies = append(replies, reply)
		}
	})
	close(proceed)
	for range late {
		want := s.Stats().Requests + 1
		n.send(d)
		testenv.WaitFor(t, 10*time.Second, func() error {
			if s.Stats().Requests < want {
				return errors.New("it has not come")
			}
			return nil
		})
	}
	reading.Wait()
	if len(replies) != early+late || calls.Load() != 1 {
		t.Fatalf("%d answers and %d calls, want %d and 1", len(replies), calls.Load(), early+late)
	}
	for _, reply := range replies {
		if !slices.Equal(reply, replies[0]) {
			t.Fatal("the answers differ")
		}
	}
	checkReply(t, replies[0], d, testSecret)
	// The same identifier with another authenticator is another request.
	other := mab("alice").encode(t)
	other[1] = d[1]
	other = resign(other)
	n.send(other)
	parseReply(t, n, other, testSecret)
	if calls.Load() != 2 {
		t.Errorf("%d calls, want 2", calls.Load())
	}
}

// resign makes the Message-Authenticator right again.
func resign(d datagram) datagram {
	clear(d[headerLength+2 : headerLength+2+signatureLength])
	p := builder{b: d, signature: headerLength + 2}
	d, _ = p.sign([]byte(testSecret), slices.Clone(d.authenticator()), true)
	return d
}

// A request that failed is a new one when it comes again.
func TestRetransmissionAfterFailure(t *testing.T) {
	var calls atomic.Int32
	s := startServer(t, Config{}, WithAuthorizer(func(context.Context, *Request) (Decision, error) {
		switch calls.Add(1) {
		case 1:
			return Decision{}, errors.New("the database is away")
		case 2:
			panic("a mistake of the host's") // unreachable in earnest
		}
		return Decision{Accept: true}, nil
	}))
	n := dialServer(t, authAddr(s))
	d := mab("alice").encode(t)
	silence(t, s, n, d, authorizerFailed)
	silence(t, s, n, d, authorizerFailed)
	n.send(d)
	if p := parseReply(t, n, d, testSecret); p.Code != layeh.CodeAccessAccept {
		t.Errorf("got %v", p.Code)
	}
}

func TestDuplicatesAreBounded(t *testing.T) {
	var d duplicates
	now := time.Now()
	key := requestKey{}
	for i := range maxDuplicates + 1000 {
		binary.BigEndian.PutUint32(key.authenticator[:], uint32(i))
		d.begin(key, now)
		d.finish(key, datagram{1}, now)
	}
	if len(d.answers) != maxDuplicates || d.bytes != maxDuplicates {
		t.Errorf("%d of %d octets are kept, want %d", len(d.answers), d.bytes, maxDuplicates)
	}
	// What is under way is known for as long as it takes, and then for the
	// window.
	slow, later := requestKey{code: 1}, now.Add(10*duplicateWindow)
	d.begin(slow, now)
	if _, known := d.begin(slow, later); !known || len(d.answers) != 1 || d.bytes != 0 {
		t.Errorf("it is known: %v; %d of %d octets are left", known, len(d.answers), d.bytes)
	}
	if again := d.finish(slow, make(datagram, maxDuplicateBytes+1), later); again != 1 {
		t.Errorf("it is wanted %d times more, want 1", again)
	}
	// One that is too large goes first.
	if _, known := d.begin(slow, later); known {
		t.Error("it is known although it is too large")
	}
	d.finish(slow, datagram{1}, later)
	if reply, known := d.begin(slow, later.Add(duplicateWindow)); !known || len(reply) != 1 {
		t.Error("it is not known any more")
	}
	if _, known := d.begin(slow, later.Add(duplicateWindow+1)); known {
		t.Error("it is still known")
	}
}

// However many addresses strangers write on their packets, what is wrong with a
// client is logged.
func TestStrangersDoNotSilenceClients(t *testing.T) {
	var log logBuffer
	s, err := New(Config{Clients: []Client{{IP: "192.0.2.1", Secret: testSecret}}}, WithLogger(log.logger()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxNotices {
		s.drop(dropped{from: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1), why: unknownClient})
	}
	s.drop(dropped{from: netip.MustParseAddrPort("192.0.2.1:1"), client: s.clients.list[0], why: badSignature})
	if lines := strings.Count(log.String(), "\n"); lines != maxNotices+1 || !strings.Contains(log.String(), "192.0.2.1:1") {
		t.Errorf("%d lines", lines)
	}
}
