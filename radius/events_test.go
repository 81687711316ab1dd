package radius

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// The observer hears of wrong secrets, strangers and those who fail again and
// again, once a minute for each, and of nobody else.
func TestObserver(t *testing.T) {
	events := make(chan Event, 100)
	s := startServer(t, Config{
		Clients: []Client{{Name: "local", IP: "127.0.0.1"}, {Name: "elsewhere", IP: "192.0.2.1"}},
		MACAuth: &MACAuth{Enabled: new(true), AllowedMACs: []string{"aa:bb:cc:*"}}, Limits: Limits{MaxFailures: 2},
	}, WithObserver(func(e Event) { events <- e }))
	want := func(reason, client, user string) {
		t.Helper()
		e := testenv.Receive(t, events)
		if e.Reason != reason || e.Client != client || e.User != user || e.Remote.Addr() != loopbackAddr() || e.Proven || e.Detail == "" || e.Time.IsZero() {
			t.Errorf("%+v, want %s of %q about %q", e, reason, client, user)
		}
	}
	mac := func(mac, secret string) {
		t.Helper()
		radclient(t, authAddr(s), "auth", secret, "User-Name = "+mac, "User-Password = "+mac, "Calling-Station-Id = "+mac, "Message-Authenticator = 0x00")
	}
	mac("aabbcc000001", testSecret)
	for range 2 {
		mac("aabbcc000001", "not the secret at all")
	}
	want("badMessageAuthenticator", "local", "")
	for range 4 {
		mac("112233000001", testSecret)
	}
	want("tooManyFailures", "local", "11:22:33:00:00:01")
	if len(events) > 0 {
		t.Errorf("more than was abuse: %+v", <-events)
	}
}

// By RadSec, an address is proven, and each connection of a stranger is an event.
func TestObserverOfRadSec(t *testing.T) {
	cfg, _, _, _ := radSecConfig(t)
	cfg.Clients = []Client{{Name: "elsewhere", IP: "192.0.2.1", Secret: testSecret}}
	events := make(chan Event, 10)
	s := startServer(t, cfg, WithObserver(func(e Event) { events <- e }))
	for range 3 {
		c, err := net.Dial("tcp", radSecAddr(s))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if e := testenv.Receive(t, events); !e.Proven || e.Reason != "unknownClient" || e.Client != "" || e.Remote.Addr() != loopbackAddr() {
			t.Errorf("%+v", e)
		}
	}
}

// A client without a name is no stranger.
func TestObserverOfANamelessClient(t *testing.T) {
	for _, block := range []string{"127.0.0.0/8", ""} {
		cfg, _, _, _ := radSecConfig(t)
		if block != "" {
			cfg.Clients = []Client{{IP: block, Secret: testSecret}}
		}
		events := make(chan Event, 10)
		s := startServer(t, cfg, WithObserver(func(e Event) { events <- e }))
		c, err := net.Dial("tcp", radSecAddr(s))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if e := testenv.Receive(t, events); e.Reason != "badRadSec" || e.Client != block {
			t.Errorf("%+v, want the client %q", e, block)
		}
	}
}

// A session shows the VLAN that its device was let in with, or what its records
// say, also after a restart.
func TestVLANOfSessions(t *testing.T) {
	store := openStore(t, storage.Memory())
	cfg := Config{Clients: []Client{{Name: "local", IP: "127.0.0.1"}},
		MACAuth:        &MACAuth{Enabled: new(true), AllowedMACs: []string{"aa:bb:cc:*"}, DefaultVLAN: 100},
		VLANAssignment: []VLANRule{{Match: VLANMatch{MAC: "aa:bb:cc:00:00:02"}, VLANName: "guests"}}}
	s := startServer(t, cfg, WithStorage(store))
	vlans := func(s *Server) string {
		var all []string
		for _, id := range openSessions(s) {
			for session := range s.Sessions() {
				if session.ID == id {
					all = append(all, id+"="+session.VLAN)
				}
			}
		}
		return strings.Join(all, " ")
	}
	for i, mac := range []string{"aabbcc000001", "aabbcc000002", "aabbcc000003"} {
		id := string(rune('a' + i))
		radclient(t, authAddr(s), "auth", testSecret, "User-Name = "+mac, "User-Password = "+mac, "Calling-Station-Id = AA-BB-CC-00-00-0"+mac[11:], "Message-Authenticator = 0x00")
		attrs := []string{"Acct-Status-Type = Start", "Acct-Session-Id = " + id, "User-Name = " + mac, "Calling-Station-Id = AA-BB-CC-00-00-0" + mac[11:]}
		if id == "c" {
			attrs = append(attrs, `Tunnel-Private-Group-Id:1 = "300"`)
		}
		radclient(t, acctAddr(s), "acct", testSecret, attrs...)
	}
	radclient(t, acctAddr(s), "acct", testSecret, "Acct-Status-Type = Start", "Acct-Session-Id = d", "User-Name = somebody")
	const want = "a=100 b=guests c=300 d="
	if got := vlans(s); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = startServer(t, cfg, WithStorage(store))
	radclient(t, acctAddr(s), "acct", testSecret, "Acct-Status-Type = Interim-Update", "Acct-Session-Id = a", "User-Name = aabbcc000001")
	if got := vlans(s); got != want {
		t.Errorf("after a restart: %s, want %s", got, want)
	}
}

// What is remembered of VLANs is bounded.
func TestVLANsAreBounded(t *testing.T) {
	var v vlans
	accept := datagram(append(make([]byte, headerLength), 81, 5, '1', '0', '0'))
	for n := range maxTracked + 1000 {
		v.accepted(subject{netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), "x"}, accept)
	}
	if len(v.of) != maxTracked {
		t.Errorf("%d are remembered", len(v.of))
	}
	if got := v.find(subject{netip.MustParseAddr("10.255.0.0"), "x"}); got != "" {
		t.Error(got)
	}
	one := subject{netip.MustParseAddr("10.255.0.0"), "x"}
	v.accepted(one, accept)
	if got := v.find(one); got != "100" {
		t.Error(got)
	}
	if v.accepted(one, make(datagram, headerLength)); v.find(one) != "" {
		t.Error("an Accept without a VLAN is one with the last one's")
	}
	for _, broken := range [][]byte{{81}, {81, 0}, {81, 9, 'x'}, {1, 1, 81}, {81, 2}, {81, 3, 1}} {
		if got := datagram(append(make([]byte, headerLength), broken...)).vlan(); got != "" {
			t.Errorf("%v: %q", broken, got)
		}
	}
}
