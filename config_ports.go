package dcrouter

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strconv"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/sockets"
)

// binding is a range of ports that a subsystem listens on.
type binding struct {
	at       *conf.Checker // the field that asks for it
	owner    owner
	network  string
	host     string
	from, to int
}

// owner is who listens. One owner sorts its own ports out.
type owner int

const (
	proxyOwner owner = iota
	emailOwner
	dnsOwner
	radiusOwner
	opsOwner
)

// checkPorts finds ports that two subsystems want.
func (c *Config) checkPorts(check *conf.Checker) {
	ofProxy := c.proxyBindings(check)
	var others []binding
	for _, b := range c.serverBindings(check) {
		for _, earlier := range others {
			b.checkAgainst(earlier)
		}
		for _, earlier := range ofProxy {
			b.checkAgainst(earlier)
		}
		others = append(others, b)
	}
}

// probe finds ports that are not in the set and cannot be bound. It leaves out those
// of owners that have options of the host's, as these may have brought listeners.
func (c *Config) probe(set *sockets.Set, haveOptions map[owner]bool) error {
	check := conf.NewChecker()
	tried := make(map[string]bool)
	for _, b := range append(c.proxyBindings(check), c.serverBindings(check)...) {
		if haveOptions[b.owner] {
			continue
		}
		network := b.network
		if b.owner == dnsOwner {
			if network == "udp" {
				continue // its sockets share the port, also with others; that for TCP tells enough
			}
			if addr, err := netip.ParseAddr(b.host); err == nil && addr.Is4() {
				network = "tcp4"
			}
		}
		for port := b.from; port <= b.to; port++ {
			addr := net.JoinHostPort(b.host, strconv.Itoa(port))
			if tried[network+addr] {
				continue
			}
			tried[network+addr] = true
			if err := set.Probe(context.Background(), network, addr); err != nil {
				b.at.Add(&conf.FieldError{Msg: err.Error(), Err: err})
			}
		}
	}
	return check.Err()
}

func (b binding) checkAgainst(earlier binding) {
	if b.owner == earlier.owner || b.network != earlier.network || !hostsOverlap(b.host, earlier.host) {
		return
	}
	if port := max(b.from, earlier.from); port <= min(b.to, earlier.to) {
		b.at.Errorf("%s port %d is that of %s already", b.network, port, earlier.at.Path())
	}
}

// hostsOverlap reports whether a port cannot be bound on both hosts. All
// wildcard addresses are one: Go listens on IPv4 and IPv6 for any of them.
func hostsOverlap(a, b string) bool {
	x, y := listenAddr(a), listenAddr(b)
	return x.IsUnspecified() || y.IsUnspecified() || x == y
}

func listenAddr(host string) netip.Addr {
	if host == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	addr, err := netip.ParseAddr(host)
	if err != nil { // "", or a mistake that is reported elsewhere
		return netip.IPv6Unspecified()
	}
	return addr.Unmap()
}

func (c *Config) proxyBindings(check *conf.Checker) []binding {
	if c.Proxy == nil {
		return nil
	}
	var list []binding
	routes := check.Field("smartProxyConfig").Field("routes")
	for i, r := range c.Proxy.Routes {
		if r.Enabled != nil && !*r.Enabled {
			continue
		}
		network := "tcp"
		if r.Match.Protocol == "udp" {
			network = "udp"
		}
		for j, p := range r.Match.Ports {
			if p.From > 0 { // 0 is any free port
				at := routes.Index(i).Field("match").Field("ports").Index(j)
				list = append(list, binding{at, proxyOwner, network, c.listenHost(c.Proxy.ListenHost), p.From, p.To})
			}
		}
	}
	return list
}

// serverBindings lists the ports of everything but the proxy.
func (c *Config) serverBindings(check *conf.Checker) []binding {
	var list []binding
	add := func(at *conf.Checker, o owner, network, host string, port int) {
		if port > 0 {
			list = append(list, binding{at, o, network, host, port, port})
		}
	}
	c.addEmailPorts(check.Field("emailConfig").Field("ports"), add)
	if c.hasDNS() {
		at, host, port := c.dnsPort(check)
		if c.DNS == nil || c.DNS.Listen == nil || *c.DNS.Listen {
			add(at, dnsOwner, "udp", host, port)
			add(at, dnsOwner, "tcp", host, port)
		}
		if d := c.DNS; d != nil && d.DoT != nil {
			add(check.Field("dnsServerConfig").Field("dot").Field("port"), dnsOwner, "tcp", host, orDefault(d.DoT.Port, dnsserver.DefaultEncryptedPort))
		}
		if d := c.DNS; d != nil && d.DoH != nil {
			add(check.Field("dnsServerConfig").Field("doh").Field("port"), dnsOwner, "tcp", host, orDefault(d.DoH.Port, dnsserver.DefaultHTTPSPort))
		}
		if d := c.DNS; d != nil && d.DoQ != nil {
			add(check.Field("dnsServerConfig").Field("doq").Field("port"), dnsOwner, "udp", host, orDefault(d.DoQ.Port, dnsserver.DefaultEncryptedPort))
		}
	}
	if c.DNSDomain != "" { // the proxy listens
		at := check.Field("dnsDomain")
		if c.DoHPort != nil {
			at = check.Field("dohPort")
		}
		add(at, proxyOwner, "tcp", c.proxyHost(), orDefault(c.DoHPort, defaultDoHPort))
	}
	if c.MTASTSPort != nil { // the proxy listens
		add(check.Field("mtaStsPort"), proxyOwner, "tcp", c.proxyHost(), *c.MTASTSPort)
	}
	if s := c.RADIUS; s != nil {
		at, host := check.Field("radiusConfig"), c.listenHost(s.ListenHost)
		add(at.Field("port"), radiusOwner, "udp", host, orDefault(s.Port, radius.DefaultPort))
		add(at.Field("accountingPort"), radiusOwner, "udp", host, orDefault(s.AccountingPort, radius.DefaultAccountingPort))
		if s.RadSec != nil {
			add(at.Field("radSec").Field("port"), radiusOwner, "tcp", host, orDefault(s.RadSec.Port, radius.DefaultRadSecPort))
		}
	}
	if s := c.Ops; s != nil {
		host := s.ListenHost
		if host == "" {
			host = opsapi.DefaultListenHost
		}
		add(check.Field("opsServerConfig").Field("port"), opsOwner, "tcp", host, orDefault(s.Port, opsapi.DefaultPort))
	}
	return list
}

func (c *Config) addEmailPorts(check *conf.Checker, add func(*conf.Checker, owner, string, string, int)) {
	if c.Email == nil {
		return
	}
	who, host := emailOwner, c.listenHost(c.Email.ListenHost)
	if c.Email.UseSocketHandler { // the proxy listens
		who, host = proxyOwner, c.proxyHost()
	}
	const enough = 100 // more are a mistake that is reported elsewhere
	for i, p := range c.Email.Ports[:min(len(c.Email.Ports), enough)] {
		add(check.Index(i), who, "tcp", host, p.Port)
	}
}

// dnsPort returns where the DNS server listens, and the field because of
// which it does.
func (c *Config) dnsPort(check *conf.Checker) (at *conf.Checker, host string, port int) {
	switch {
	case c.DNS != nil:
		return check.Field("dnsServerConfig").Field("port"), c.listenHost(c.DNS.ListenHost), orDefault(c.DNS.Port, dnsserver.DefaultPort)
	case c.DNSDomain != "":
		at = check.Field("dnsDomain")
	default:
		at = check.Field("dnsNsDomains")
	}
	return at, c.ListenHost, dnsserver.DefaultPort
}

// listenHost is a section's own address, or the shared one.
func (c *Config) listenHost(own string) string { return cmp.Or(own, c.ListenHost) }

// proxyHost is where the proxy listens, which is there without its section, too.
func (c *Config) proxyHost() string {
	if c.Proxy == nil {
		return c.ListenHost
	}
	return c.listenHost(c.Proxy.ListenHost)
}

func orDefault(port *int, standard int) int {
	if port == nil {
		return standard
	}
	return *port
}
