package email

import (
	"net/netip"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// ProxyProtocol is about load balancers in front of the mail server, which tell
// it by the PROXY protocol who its client is.
type ProxyProtocol struct {
	// Accept are their addresses and CIDR blocks. Connections from there must begin
	// with a PROXY header, of version 1 or 2, and are closed without; those of
	// anyone else must not.
	//
	// The client's address and the one it connected to are then those in the
	// header, for everything: Security, limits, reputation, SPF, routes, Received
	// fields, logs. Where the balancer speaks for itself (LOCAL, UNKNOWN) those of
	// the connection hold.
	Accept []string `json:"accept"`
}

// Security restricts who may connect. Who may not is closed without a word, as a
// server that sends mail then comes back for days; [IPReputation.BlockList] says
// 554 instead.
type Security struct {
	// IPAllowList, if not empty, is who may connect: addresses and CIDR blocks.
	IPAllowList []string `json:"ipAllowList"`
	// IPBlockList is who may not, even if allowed above.
	IPBlockList []string `json:"ipBlockList"`
	// MaxConnections is how many connections each of Ports takes at once, so that
	// a flood on one leaves the others free. More are closed. The default 0 means
	// no limit but [Connections.Max].
	MaxConnections int `json:"maxConnections"`
}

func (p *ProxyProtocol) validate(check *conf.Checker) { check.Field("accept").CIDRs(p.Accept) }

func (s *Security) validate(check *conf.Checker) {
	check.Field("ipAllowList").CIDRs(s.IPAllowList)
	check.Field("ipBlockList").CIDRs(s.IPBlockList)
	check.Field("maxConnections").NotNegative(s.MaxConnections)
}

// frontRules are the two as they are applied.
type frontRules struct {
	proxies, allow, block []netip.Prefix
	max                   int64 // 0: no limit
}

// frontRules returns nil if there are none.
func (c *Config) frontRules() *frontRules {
	r := &frontRules{allow: conf.ParseCIDRs(c.Security.IPAllowList), block: conf.ParseCIDRs(c.Security.IPBlockList), max: int64(c.Security.MaxConnections)}
	if c.ProxyProtocol != nil {
		r.proxies = conf.ParseCIDRs(c.ProxyProtocol.Accept)
	}
	if len(r.proxies) == 0 && len(r.allow) == 0 && len(r.block) == 0 && r.max == 0 {
		return nil
	}
	return r
}

// permits checks a client's address against the lists.
func (r *frontRules) permits(client netip.Addr) bool {
	return (len(r.allow) == 0 || within(r.allow, client)) && !within(r.block, client)
}

func within(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
