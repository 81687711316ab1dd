package radius

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2868"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// users is an Authorizer with one user.
func users(_ context.Context, r *Request) (Decision, error) {
	if r.UserName == "alice" && r.CheckPassword("wonderland") {
		return Decision{Accept: true, VLANName: "staff", FilterID: "f"}, nil
	}
	return Decision{ReplyMessage: "no"}, nil
}

func TestUsersRadclient(t *testing.T) {
	s := startServer(t, Config{}, WithAuthorizer(users))
	for _, test := range []struct {
		password, want string
	}{
		{`User-Password = "wonderland"`, "Access-Accept"},
		{`CHAP-Password = "wonderland"`, "Access-Accept"},
		{`User-Password = "wrong"`, "Access-Reject"},
		{`CHAP-Password = "wrong"`, "Access-Reject"},
		{`MS-CHAP-Password = "wonderland"`, "Access-Reject"}, // version 1, which radclient makes of it
		{`NAS-Port = 1`, "Access-Reject"},
	} {
		out := radclient(t, authAddr(s), "auth", testSecret, `User-Name = "alice"`, test.password, "Message-Authenticator = 0x00")
		if !strings.Contains(out, "Received "+test.want) {
			t.Errorf("%s: %s", test.password, out)
		}
		if test.want == "Access-Accept" && (!strings.Contains(out, `Tunnel-Private-Group-Id:0 = "staff"`) || !strings.Contains(out, `Filter-Id = "f"`)) {
			t.Errorf("%s: %s", test.password, out)
		}
	}
}

func TestMD4(t *testing.T) { // RFC 1320 appendix A.5
	for text, want := range map[string]string{
		"": "31d6cfe0d16ae931b73c59d7e0c089c0", "abc": "a448017aaf21d8525fc10ae87aa6729d",
		"12345678901234567890123456789012345678901234567890123456789012345678901234567890": "e33b4ddc9c38f2199c3e7b164fcc0536",
	} {
		if got := md4([]byte(text)); hex.EncodeToString(got[:]) != want {
			t.Errorf("%q: got %x, want %s", text, got, want)
		}
	}
}

// The exchange of RFC 2759 section 9.2 and the keys of RFC 3079 section 3.5.3.
func TestMSCHAPv2Vectors(t *testing.T) {
	m := rfcExchange()
	if m.check("User", ntHash("clientpas")) || !m.check("User", ntHash("clientPass")) || !m.check(`DOMAIN\User`, ntHash("clientPass")) {
		t.Fatal("the password is not told from another")
	}
	if got := string(m.success("User")[1:]); got != "S=407A5589115FD0D6209F510FE9C04566932CDA56" {
		t.Errorf("got %s", got)
	}
	send, _ := m.keys()
	if hex.EncodeToString(send) != "8b7cdc149b993a1ba118cb153f56dccb" {
		t.Errorf("the key to send with is %x", send)
	}
}

func rfcExchange() *msChap {
	m := &msChap{id: 7}
	hex.Decode(m.challenge[:], []byte("5B5D7C7D7B3F2F3E3C2C602132262628"))
	hex.Decode(m.peer[:], []byte("21402324255E262A28295F2B3A337C7E"))
	hex.Decode(m.response[:], []byte("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF"))
	return m
}

// msChapRequest is the exchange above as a NAS sends it.
func msChapRequest(user string) request {
	m := rfcExchange()
	response := append([]byte{m.id, 0}, m.peer[:]...)
	response = append(append(response, make([]byte, 8)...), m.response[:]...)
	return request{sign: true, attrs: []layeh.AVP{
		avp(rfc2865.UserName_Type, user),
		{Type: rfc2865.VendorSpecific_Type, Attribute: vendorAttribute(microsoft, msChapChallenge, m.challenge[:])},
		{Type: rfc2865.VendorSpecific_Type, Attribute: vendorAttribute(microsoft, msChap2Response, response)},
	}}
}

// msChapAnswer are the Microsoft attributes of an answer, keys in the clear.
func msChapAnswer(t *testing.T, p *layeh.Packet, request datagram) string {
	t.Helper()
	value := func(kind byte) []byte {
		v, ok := vendorValue(p.Attributes, microsoft, kind)
		if !ok {
			t.Fatalf("the answer has no attribute %d of Microsoft", kind)
		}
		return v
	}
	text := string(value(msChap2Success)[1:])
	for _, kind := range []byte{msMPPESendKey, msMPPERecvKey} {
		key, ok := saltDecrypt(value(kind), []byte(testSecret), request.authenticator())
		if !ok {
			t.Fatal("a key cannot be read")
		}
		text += fmt.Sprintf(" %x", key)
	}
	return text
}

// FreeRADIUS gives the same answer to the same MS-CHAPv2 request as we do.
func TestMSCHAPv2AsFreeRADIUS(t *testing.T) {
	authorize := func(_ context.Context, r *Request) (Decision, error) {
		return Decision{Accept: r.UserName == "User" && r.CheckPassword("clientPass")}, nil
	}
	ours := startServer(t, Config{}, WithAuthorizer(authorize))
	theirs := startFreeRADIUS(t, `User Cleartext-Password := "clientPass"`)
	d := msChapRequest("User").encode(t)
	got, want := ask(t, authAddr(ours), d, testSecret), askFreeRADIUS(t, theirs.auth, d)
	if got.Code != layeh.CodeAccessAccept || want.Code != layeh.CodeAccessAccept {
		t.Fatalf("got %v, FreeRADIUS %v", got.Code, want.Code)
	}
	if got, want := msChapAnswer(t, got, d), msChapAnswer(t, want, d); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	hash := ntHash("clientPass")
	byHash := startServer(t, Config{}, WithAuthorizer(func(_ context.Context, r *Request) (Decision, error) {
		return Decision{Accept: r.CheckNTHash(hash)}, nil
	}))
	if p := ask(t, authAddr(byHash), d, testSecret); p.Code != layeh.CodeAccessAccept {
		t.Errorf("by its hash: %v", p.Code)
	}
	p := ask(t, authAddr(ours), msChapRequest("Other").encode(t), testSecret)
	if v, _ := vendorValue(p.Attributes, microsoft, msChapError); p.Code != layeh.CodeAccessReject || !strings.HasPrefix(string(v[1:]), "E=691 R=0 C=") {
		t.Errorf("a wrong password: %v %q", p.Code, v)
	}
	// An Accept that proves nothing to the client would be of no use.
	careless := startServer(t, Config{}, WithAuthorizer(func(context.Context, *Request) (Decision, error) { return Decision{Accept: true}, nil }))
	silence(t, careless, dialServer(t, authAddr(careless)), d, authorizerFailed)
}

// freeRADIUS is one that runs.
type freeRADIUS struct{ auth, acct string }

// startFreeRADIUS starts one with the given lines of its users file, which
// signs as current versions do.
func startFreeRADIUS(t testing.TB, users ...string) freeRADIUS {
	t.Helper()
	path := testenv.Need(t, "freeradius", "apt-get install freeradius")
	dir := testenv.Folder(t)
	auth, acct := testenv.FreePort(t), testenv.FreePort(t)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("users", strings.Join(users, "\n")+"\n")
	write("radiusd.conf", fmt.Sprintf(`
prefix = /usr
logdir = %[1]s
raddbdir = %[1]s
run_dir = %[1]s
db_dir = %[1]s
libdir = /usr/lib/freeradius
pidfile = %[1]s/pid
max_request_time = 5
cleanup_delay = 5
max_requests = 65536
hostname_lookups = no
log { destination = files
 file = %[1]s/radius.log }
security { allow_core_dumps = no
 max_attributes = 200
 reject_delay = 0
 status_server = yes }
client test { ipaddr = 127.0.0.0/8
 secret = "%[4]s" }
thread pool { start_servers = 2
 max_servers = 4
 min_spare_servers = 1
 max_spare_servers = 4
 max_requests_per_server = 0
 auto_limit_acct = no }
modules {
 pap { }
 chap { }
 mschap { use_mppe = yes
  require_encryption = no
  require_strong = no }
 files { filename = %[1]s/users
  acctusersfile = %[1]s/users }
 detail { filename = %[1]s/detail
  permissions = 0600 }
}
server default {
 listen { type = auth
  ipaddr = 127.0.0.1
  port = %[2]d }
 listen { type = acct
  ipaddr = 127.0.0.1
  port = %[3]d }
 authorize { chap
  mschap
  files
  pap
 }
 authenticate {
  Auth-Type PAP {
   pap
  }
  Auth-Type CHAP {
   chap
  }
  Auth-Type MS-CHAP {
   mschap
  }
 }
 preacct {
 }
 accounting {
  detail
 }
 post-auth {
  update reply {
   Message-Authenticator := 0x00
  }
  Post-Auth-Type REJECT {
   update reply {
    Message-Authenticator := 0x00
   }
  }
 }
}
`, dir, auth, acct, testSecret))
	p := testenv.Start(t, testenv.Opts{Dir: dir}, path, "-f", "-l", "stdout", "-d", dir)
	f := freeRADIUS{fmt.Sprintf("127.0.0.1:%d", auth), fmt.Sprintf("127.0.0.1:%d", acct)}
	testenv.WaitFor(t, testPatience, func() error {
		select {
		case <-p.Done():
			t.Fatalf("FreeRADIUS has ended: %s", p.Output())
		default:
		}
		n := dialServer(t, f.auth)
		n.conn.Write(request{code: layeh.CodeStatusServer, sign: true}.encode(t))
		if n.receive(testPatience/100) == nil {
			return fmt.Errorf("no answer: %s", p.Output())
		}
		return nil
	})
	return f
}

func askFreeRADIUS(t *testing.T, addr string, d datagram) *layeh.Packet {
	t.Helper()
	n := dialServer(t, addr)
	n.send(d)
	reply := n.receive(testPatience)
	if reply == nil {
		t.Fatal("FreeRADIUS does not answer")
	}
	p, err := layeh.Parse(reply, []byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The tag of the VLAN is in all three attributes or in none: a literal zero
// before the name would be a part of it.
func TestVLANAttributes(t *testing.T) {
	for tag, want := range map[int]string{0: "0000000d 00000006 \"14\"", 3: "0300000d 03000006 \"\\x0314\""} {
		s := startServer(t, Config{VLANTag: tag, VLANAssignment: []VLANRule{{Match: VLANMatch{Default: true}, VLAN: 14, SessionTimeout: 90e9, Reauthenticate: true, FilterID: "f"}}})
		p := ask(t, authAddr(s), mab("aabbccddeeff").encode(t), testSecret)
		got := fmt.Sprintf("%x %x %q", p.Get(rfc2868.TunnelType_Type), p.Get(rfc2868.TunnelMediumType_Type), p.Get(rfc2868.TunnelPrivateGroupID_Type))
		if got != want {
			t.Errorf("tag %d: got %s, want %s", tag, got, want)
		}
		if rfc2865.SessionTimeout_Get(p) != 90 || rfc2865.TerminationAction_Get(p) != 1 || rfc2865.FilterID_GetString(p) != "f" {
			t.Errorf("got %v", p)
		}
	}
}

// What an Authorizer adds is left out where it does not belong, and what is
// impossible gets no answer.
func TestDecisions(t *testing.T) {
	var next atomic.Pointer[Decision]
	s := startServer(t, Config{Limits: Limits{MaxFailures: -1}}, WithAuthorizer(func(context.Context, *Request) (Decision, error) { return *next.Load(), nil }))
	extra := layeh.Attributes{{Type: rfc2865.Class_Type, Attribute: []byte("c")}, {Type: rfc2865.ReplyMessage_Type, Attribute: []byte("hi")},
		{Type: 80, Attribute: []byte("forged")}, {Type: rfc2865.State_Type, Attribute: []byte("s")}}
	next.Store(&Decision{Accept: true, Attributes: extra})
	p := ask(t, authAddr(s), mab("alice").encode(t), testSecret)
	if len(p.Attributes) != 3 || rfc2865.Class_GetString(p) != "c" || rfc2865.ReplyMessage_GetString(p) != "hi" {
		t.Errorf("an Accept has %d attributes", len(p.Attributes))
	}
	next.Store(&Decision{Attributes: extra})
	if p = ask(t, authAddr(s), mab("alice").encode(t), testSecret); len(p.Attributes) != 2 || rfc2865.ReplyMessage_GetString(p) != "hi" {
		t.Errorf("a Reject has %d attributes", len(p.Attributes))
	}
	// A long message takes several attributes.
	next.Store(&Decision{ReplyMessage: strings.Repeat("x", 300)})
	p = ask(t, authAddr(s), mab("alice").encode(t), testSecret)
	if parts, _ := rfc2865.ReplyMessage_GetStrings(p); len(parts) != 2 || len(parts[0])+len(parts[1]) != 300 {
		t.Errorf("the message came as %q", parts)
	}
	n := dialServer(t, authAddr(s))
	for _, bad := range []Decision{
		{Accept: true, VLAN: 5000}, {Accept: true, VLAN: 1, VLANName: "x"}, {Accept: true, FilterID: strings.Repeat("x", 254)},
		{Accept: true, Attributes: func() (a layeh.Attributes) {
			for range 20 {
				a.Add(rfc2865.Class_Type, make([]byte, 253))
			}
			return a
		}()},
	} {
		next.Store(&bad)
		silence(t, s, n, mab("alice").encode(t), tooLarge)
	}
}

// A host may log a request; the password is not for logs.
func TestRequestPrintsNoPassword(t *testing.T) {
	var printed atomic.Value
	s := startServer(t, Config{}, WithAuthorizer(func(_ context.Context, r *Request) (Decision, error) {
		password, _ := r.Password()
		printed.Store(fmt.Sprintf("%v %+v %#v %+v %v", r, *r, r, []*Request{r}, password == "hunter2"))
		return Decision{}, nil
	}))
	ask(t, authAddr(s), request{user: "alice", pap: new("hunter2"), sign: true}.encode(t), testSecret)
	if got, _ := printed.Load().(string); strings.Contains(got, "hunter2") || !strings.Contains(got, `user "alice" by pap`) || !strings.HasSuffix(got, "true") {
		t.Error(got)
	}
}
