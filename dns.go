package dcrouter

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy"
)

// defaultDoHPort is the port of DNS over HTTPS, that of HTTPS.
const defaultDoHPort = 443

// dnsConfig is the configuration of the DNS server, with what follows from the
// other sections.
func (c *Config) dnsConfig() dnsserver.Config {
	var d dnsserver.Config
	if c.DNS != nil {
		d = *c.DNS
	}
	d.NameServers = slices.Clone(d.NameServers)
	for i, name := range c.DNSNSDomains {
		if !slices.ContainsFunc(d.NameServers, func(other string) bool { return sameDomain(other, name) }) {
			d.NameServers = slices.Insert(d.NameServers, min(i, len(d.NameServers)), name) // the first is the primary one
		}
	}
	d.Zones = slices.Clone(d.Zones)
	have := func(zone string) bool {
		return slices.ContainsFunc(d.Zones, func(z dnsserver.Zone) bool { return sameDomain(z.Name, zone) })
	}
	for _, scope := range c.DNSScopes {
		if !have(scope) {
			d.Zones = append(d.Zones, dnsserver.Zone{Name: scope})
		}
	}
	d.DefaultRecords = slices.Clone(d.DefaultRecords)
	own := c.DNSNSDomains
	if c.DNSDomain != "" {
		own = append(slices.Clone(own), c.DNSDomain)
	}
	for _, name := range own {
		if !c.inScope(name) {
			continue
		}
		if !slices.ContainsFunc(d.Zones, func(z dnsserver.Zone) bool { return isWithin(name, z.Name) }) {
			d.Zones = append(d.Zones, dnsserver.Zone{Name: dnsserver.RegisteredDomain(name)})
		}
		d.DefaultRecords = append(d.DefaultRecords, c.ownAddresses(name)...)
	}
	c.addMailZones(&d)
	return d
}

// ownAddresses are records that lead to this machine.
func (c *Config) ownAddresses(name string) []dnsserver.Record {
	var list []dnsserver.Record
	for _, text := range c.PublicIP {
		r := dnsserver.Record{Name: name, Type: "A", Value: text}
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is6() {
			r.Type = "AAAA"
		}
		list = append(list, r)
	}
	return list
}

// inScope reports whether the DNS server is to be the source of a name.
func (c *Config) inScope(name string) bool {
	return len(c.DNSScopes) == 0 || slices.ContainsFunc(c.DNSScopes, func(scope string) bool { return isWithin(name, scope) })
}

// checkScopes finds records that the server is not to be the source of.
func (c *Config) checkScopes(check *conf.Checker) {
	if c.DNS == nil || len(c.DNSScopes) == 0 {
		return
	}
	inZone := func(name string) bool {
		return slices.ContainsFunc(c.DNS.Zones, func(z dnsserver.Zone) bool { return isWithin(name, z.Name) })
	}
	for i, r := range c.DNS.Records {
		if r.Name != "" && !c.inScope(r.Name) && !inZone(r.Name) {
			check.Field("records").Index(i).Field("name").Errorf("%q is in none of dnsScopes and in no zone", r.Name)
		}
	}
}

func plainDomain(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

func sameDomain(a, b string) bool { return plainDomain(a) == plainDomain(b) }

// isWithin reports whether a name is zone or below it.
func isWithin(name, zone string) bool {
	name, zone = plainDomain(name), plainDomain(zone)
	return name == zone || zone == "" || strings.HasSuffix(name, "."+zone)
}

// dohRoutes are the proxy's routes for DNS over HTTPS.
func (r *Router) dohRoutes() []proxy.Route {
	if r.config.DNSDomain == "" {
		return nil
	}
	port := orDefault(r.config.DoHPort, defaultDoHPort)
	return []proxy.Route{{
		Name: "dns-over-https",
		Match: proxy.Match{
			Ports:   []proxy.PortRange{{From: port, To: port}},
			Domains: []string{r.config.DNSDomain},
			Path:    "~^/(dns-query|resolve)$",
		},
		Action: proxy.Action{
			Handler: r.dns,
			TLS:     &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}},
		},
	}}
}

// UpdateDNS changes records of the DNS server; see [dnsserver.Server.Update].
// Without a DNS server it fails with [dnsserver.ErrNoZone].
func (r *Router) UpdateDNS(ctx context.Context, tx *dnsserver.Tx) error {
	if r.dns == nil {
		return dnsserver.ErrNoZone
	}
	return inSection("dnsServerConfig", "dns", r.dns.Update(ctx, tx))
}

// DNS returns the DNS server, or nil if none is configured.
func (r *Router) DNS() *dnsserver.Server { return r.dns }
