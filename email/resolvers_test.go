package email

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

// The DNS servers of the configuration are asked about those who send, and about
// the hosts that policies and reports lead to.
func TestResolvers(t *testing.T) {
	dns := dnstest.New(t, dnstest.Zone{
		"example.net": {"TXT v=spf1 ip4:127.0.0.1 -all"}, "mta-sts.example.org": {"A 127.0.0.9", "A 127.0.0.1"},
	})
	box := newMailbox(nil)
	s := start(t, Config{
		Resolvers: []string{dns.Addr()}, Outbound: Outbound{PrivateNetworks: true},
		Routes: []Route{{Name: "all", Match: Match{Recipients: []string{"b@example.com"}}, Action: Action{Type: Deliver}}},
	}, WithResolver(nil), WithMailbox(box.take))
	if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250 ") {
		t.Fatal(got)
	}
	if mail := box.all(); len(mail) != 1 || !strings.Contains(mail[0].content, "spf=pass") {
		t.Errorf("%+v", mail)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0") // and not on the other address
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	conn, err := s.strangersDialer().DialContext(t.Context(), "tcp", "mta-sts.example.org:"+port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := s.strangersDialer().DialContext(t.Context(), "tcp", "nowhere.example.org:"+port); err == nil {
		t.Error("connected to a host that there is not")
	}
	s.cfg.Outbound.PrivateNetworks = false
	for _, host := range []string{"mta-sts.example.org", "127.0.0.1"} {
		_, err = s.strangersDialer().DialContext(t.Context(), "tcp", host+":"+port)
		if err == nil || !strings.Contains(err.Error(), "not an address of the internet") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestResolversAreAddresses(t *testing.T) {
	c := Config{Ports: Ports(25), Hostname: "mx.example.com", Resolvers: []string{"192.0.2.1", "[2001:db8::1]:53", "dns.example", "192.0.2.1:0"}}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "resolvers[2]: ") || !strings.Contains(err.Error(), "resolvers[3]: ") || strings.Contains(err.Error(), "[1]: ") {
		t.Errorf("%v", err)
	}
	c.Resolvers = slices.Repeat([]string{"192.0.2.1"}, 9)
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "resolvers: 9 are too many") {
		t.Errorf("%v", err)
	}
}

// Mail goes to no address of our own network because a stranger's MX or an address
// literal says so, unless the configuration or the host's dialer lets it.
func TestInnerMX(t *testing.T) {
	dns := hosts{"inner.example": "10.0.0.5", "outer.example": "192.0.2.5"}
	look := func(cfg Outbound, domain string, opts ...Option) error {
		s := start(t, Config{Outbound: cfg}, append([]Option{WithResolver(dns)}, opts...)...)
		_, err := s.latest().mx.Lookup(t.Context(), domain)
		return err
	}
	for _, domain := range []string{"inner.example", "[10.0.0.5]"} {
		if err := look(Outbound{}, domain); err == nil {
			t.Errorf("mail to %s goes to 10.0.0.5", domain)
		}
		if err := look(Outbound{PrivateNetworks: true}, domain); err != nil {
			t.Errorf("%s, with privateNetworks: %v", domain, err)
		}
		if err := look(Outbound{}, domain, WithDialer((&network{}).dial)); err != nil {
			t.Errorf("%s, with a dialer: %v", domain, err)
		}
	}
	if err := look(Outbound{}, "outer.example"); err != nil {
		t.Error(err)
	}
}
