package radius

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	layeh "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func split(t testing.TB, addr string) (host string, port int) {
	t.Helper()
	host, text, _ := strings.Cut(addr, ":")
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// home is a home server as configured.
func (f freeRADIUS) home(t testing.TB) HomeServer {
	host, port := split(t, f.auth)
	_, acct := split(t, f.acct)
	return HomeServer{Host: host, Port: port, AccountingPort: acct, Secret: testSecret, Timeout: 2 * time.Second}
}

// FreeRADIUS decides about the users of a realm, after a server that is dead.
func TestProxyFreeRADIUS(t *testing.T) {
	f := startFreeRADIUS(t, `alice Cleartext-Password := "wonderland"
	Reply-Message := "hello", Class := 0x6162, Tunnel-Password:1 := "tunnel"`, `User Cleartext-Password := "clientPass"`)
	dead := HomeServer{Host: "127.0.0.1", Port: testenv.FreePort(t), AccountingPort: testenv.FreePort(t), Secret: testSecret, Timeout: 200 * time.Millisecond}
	const nasSecret = "between the NAS and the proxy"
	s := startServer(t, Config{Secret: nasSecret, Realms: []Realm{{Name: "example.com", StripRealm: true, HomeServers: []HomeServer{dead, f.home(t)}}}})
	for _, test := range []struct{ password, want string }{
		{`User-Password = "wonderland"`, "Access-Accept"}, {`CHAP-Password = "wonderland"`, "Access-Accept"},
		{`User-Password = "wrong"`, "Access-Reject"}, {`CHAP-Password = "wrong"`, "Access-Reject"},
	} {
		out := radclient(t, authAddr(s), "auth", nasSecret, `User-Name = "alice@Example.COM"`, test.password, `Proxy-State = 0x31`, "Message-Authenticator = 0x00")
		if !strings.Contains(out, "Received "+test.want) || strings.Count(out, "Proxy-State = 0x31") != 2 {
			t.Errorf("%s: %s", test.password, out)
		}
		if test.want == "Access-Accept" && (!strings.Contains(out, `Reply-Message = "hello"`) || !strings.Contains(out, `Tunnel-Password:1 = "tunnel"`)) {
			t.Errorf("%s: %s", test.password, out)
		}
	}
	// Keys are hidden anew for the NAS.
	q := msChapRequest("User@example.com")
	q.secret = nasSecret
	d := q.encode(t)
	p := ask(t, authAddr(s), d, nasSecret)
	value, _ := vendorValue(p.Attributes, microsoft, msMPPESendKey)
	if key, ok := saltDecrypt(value, []byte(nasSecret), d.authenticator()); p.Code != layeh.CodeAccessAccept || !ok || len(key) != 16 {
		t.Errorf("%v with key %x, %v", p.Code, key, ok)
	}
	out := radclient(t, acctAddr(s), "acct", nasSecret, `User-Name = "alice@example.com"`, "Acct-Status-Type = Start", `Acct-Session-Id = "1"`)
	if !strings.Contains(out, "Received Accounting-Response") || s.Stats().Sessions != 1 {
		t.Errorf("%d sessions, %s", s.Stats().Sessions, out)
	}
	// What no server could make anything of is no server's fault.
	n := dialServer(t, authAddr(s))
	broken := request{secret: nasSecret, sign: true, attrs: []layeh.AVP{avp(rfc2865.UserName_Type, "alice@example.com"), avp(rfc2865.UserPassword_Type, "short")}}
	silence(t, s, n, broken.encode(t), malformed)
	stats := s.Stats()
	if stats.Proxied != 7 || len(stats.HomeServers) != 2 || stats.HomeServers[0].Alive || stats.HomeServers[0].Failures != 2 || !stats.HomeServers[1].Alive || stats.HomeServers[1].Requests != 7 {
		t.Errorf("counted %+v", stats)
	}
}

// A home server's answer that is not signed counts for nothing, unless that is
// allowed; one that comes back is used again.
func TestHomeServers(t *testing.T) {
	old := unsignedHome(t)
	realm := Realm{Name: "*", HomeServers: []HomeServer{{Host: "127.0.0.1", Port: old, Secret: testSecret, Timeout: 300 * time.Millisecond}}}
	s := startServer(t, Config{Realms: []Realm{realm}})
	silence(t, s, dialServer(t, authAddr(s)), mab("bob@example.org").encode(t), noHomeServer)
	realm.HomeServers[0].AllowUnsignedReplies = true
	s = startServer(t, Config{Realms: []Realm{realm}})
	if p := ask(t, authAddr(s), mab("bob@example.org").encode(t), testSecret); p.Code != layeh.CodeAccessAccept {
		t.Errorf("got %v", p.Code)
	}
	s.realms[0].servers[0].auth.down.Store(true)
	testenv.WaitFor(t, 3*probePause, func() error {
		if !s.Stats().HomeServers[0].Alive {
			return fmt.Errorf("it is not back")
		}
		return nil
	})
}

// One that does not come back keeps no other from being found to be back.
func TestHomeServersAreProbedAtOnce(t *testing.T) {
	home := func(addr string) HomeServer {
		host, port := split(t, addr)
		return HomeServer{Host: host, Port: port, Secret: testSecret, Timeout: time.Minute}
	}
	back := startServer(t, Config{})
	s := startServer(t, Config{Realms: []Realm{{Name: "*", HomeServers: []HomeServer{home(listenUDP(t).LocalAddr().String()), home(authAddr(back))}}}})
	for _, h := range s.realms[0].servers {
		h.auth.down.Store(true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		s.latest().probeDown(ctx)
	}()
	testenv.WaitFor(t, testPatience, func() error {
		if !s.Stats().HomeServers[1].Alive {
			return errors.New("it is not back")
		}
		return nil
	})
	cancel()
	testenv.Receive(t, probed)
}

// The name within EAP cannot be changed, so neither is the one beside it.
func TestStripRealmLeavesEAPAlone(t *testing.T) {
	home := listenUDP(t)
	host, port := split(t, home.LocalAddr().String())
	s := startServer(t, Config{Realms: []Realm{{Name: "example.com", StripRealm: true, HomeServers: []HomeServer{{Host: host, Port: port, Secret: testSecret, Timeout: 50 * time.Millisecond}}}}})
	const user = "alice@example.com"
	for want, q := range map[string]request{
		"alice": mab(user),
		user:    {user: user, sign: true, attrs: []layeh.AVP{avp(rfc2869.EAPMessage_Type, "\x02\x01\x00\x16\x01"+user)}},
	} {
		dialServer(t, authAddr(s)).send(q.encode(t))
		home.SetReadDeadline(time.Now().Add(testPatience))
		b := make([]byte, 4096)
		for seen := false; !seen; { // what it is asked twice comes twice
			n, _, err := home.ReadFrom(b)
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			p, err := layeh.Parse(b[:n], []byte(testSecret))
			if err != nil {
				t.Fatal(err)
			}
			seen = rfc2865.UserName_GetString(p) == want
		}
	}
}

func TestRealms(t *testing.T) {
	s, err := New(Config{Secret: testSecret, Realms: []Realm{
		{Name: "*", HomeServers: []HomeServer{{Host: "127.0.0.1", Secret: testSecret}}},
		{Name: "a.example", StripRealm: true, HomeServers: []HomeServer{{Host: "127.0.0.1", Secret: testSecret}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"alice": "", "alice@A.example": "a.example alice", "x@y@a.example": "a.example x@y", "alice@b.example": "* alice@b.example", "aabbccddeeff": ""} {
		realm, name := s.realmOf(user)
		got := ""
		if realm != nil {
			got = realm.Name + " " + name
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", user, got, want)
		}
	}
}

// unsignedHome is a home server from before CVE-2024-3596 that accepts everybody.
func unsignedHome(t *testing.T) (port int) {
	t.Helper()
	pc := listenUDP(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			d := datagram(b[:n])
			p := newBuilder(nil, layeh.CodeAccessAccept, d.identifier(), false)
			p.addText(rfc2865.ReplyMessage_Type, "welcome")
			if reply, err := p.sign([]byte(testSecret), d.authenticator(), false); err == nil {
				pc.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	_, port = split(t, pc.LocalAddr().String())
	return port
}

// Stop ends what waits for a home server, when its patience is over.
func TestStopWhileForwarding(t *testing.T) {
	pc := listenUDP(t) // never answers
	_, port := split(t, pc.LocalAddr().String())
	s := startServer(t, Config{Realms: []Realm{{Name: "*", HomeServers: []HomeServer{{Host: "127.0.0.1", Port: port, Secret: testSecret, Timeout: time.Minute}}}}})
	dialServer(t, authAddr(s)).send(mab("bob@example.org").encode(t))
	testenv.WaitFor(t, 5*time.Second, func() error {
		if s.Stats().Proxied == 0 {
			return fmt.Errorf("it has not come")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := s.Stop(ctx); err == nil || time.Since(start) > 10*time.Second {
		t.Errorf("Stop took %v and returned %v", time.Since(start), err)
	}
}
