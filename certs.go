package dcrouter

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// automation returns how certificates are obtained, and whether they are.
//
// To have an account at an authority is to agree to its terms, so that happens
// only if a section says something about it.
func (c *Config) automation() (proxy.ACME, bool) {
	a := proxy.ACME{UseProduction: true}
	given := c.TLS != nil || c.DNSChallenge != nil
	if c.Proxy != nil && c.Proxy.ACME != nil {
		a, given = *c.Proxy.ACME, true
	}
	if a.Email == "" && c.TLS != nil {
		a.Email = c.TLS.ContactEmail
	}
	return a, given && (a.Enabled == nil || *a.Enabled)
}

// setUpCertificates makes what the configuration says certificates come from.
func (r *Router) setUpCertificates(o *options) (err error) {
	a, on := r.config.automation()
	switch {
	case on && a.LocalCA:
		r.local = new(localCertificates)
	case on:
		r.certs, err = r.newCertificates(&a, o)
	}
	if err != nil {
		return err
	}
	if forRoutes, forServers := r.certificateSources(o.getCertificate); forRoutes != nil {
		o.proxy = append(o.proxy, proxy.WithGetCertificate(forRoutes))
		o.dns = append(o.dns, dnsserver.WithGetCertificate(orOf(r.config.dnsName(), forServers)))
		o.radius = append(o.radius, radius.WithGetCertificate(orOf("", forServers)))
		o.email = append(o.email, email.WithGetCertificate(orOf(r.config.mailName(), forServers)))
	}
	if t := r.config.TLS; t != nil && t.ECHPublicName != "" {
		r.hello = &encryptedHello{router: r, wake: make(chan struct{}, 1)}
		o.proxy = append(o.proxy, proxy.WithECHKeys(r.hello.get))
	}
	if r.certs != nil {
		o.proxy = append(o.proxy, proxy.WithHTTPChallenge(r.certs.HTTPChallenge), proxy.WithTLSALPNChallenge(r.certs.TLSALPNChallenge))
	}
	return nil
}

// newCertificates makes what obtains certificates.
func (r *Router) newCertificates(a *proxy.ACME, o *options) (*certs.Manager, error) {
	cfg := certs.Config{
		Directory:     a.CADirectory,
		CARootPath:    a.CARootPath,
		Email:         a.Email,
		Profile:       a.Profile,
		KeyType:       a.KeyType,
		Challenges:    a.Challenges,
		NoRenewal:     a.AutoRenew != nil && !*a.AutoRenew,
		CloseWithout:  a.OnFailure == "close",
		PublishCAA:    a.PublishCAA != nil && *a.PublishCAA,
		RetryInterval: a.RetryInterval,
		Timeout:       a.Timeout,
	}
	switch {
	case cfg.Directory != "":
	case a.UseProduction:
		cfg.Directory = certs.LetsEncrypt
	default:
		cfg.Directory = certs.LetsEncryptStaging
	}
	if e := a.ExternalAccount; e != nil {
		cfg.ExternalAccount = &certs.ExternalAccount{KeyID: e.KeyID, MACKey: e.MACKey.Reveal()}
	}
	opts := []certs.Option{
		certs.WithLogger(r.log),
		certs.WithReachable(func(challenge string) bool { return r.reachable(a, challenge) }),
	}
	if r.config.hasDNS() {
		opts = append(opts, certs.WithDNS(challengeZones{r}))
	}
	if d := r.config.DNSChallenge; d != nil {
		cfg.PropagationTimeout = d.PropagationTimeout
		var client certs.HTTPClient // a nil pointer in it would be no nil
		if o.cloudflare != nil {
			client = o.cloudflare
		}
		opts = append(opts, certs.WithCloudflare(d.CloudflareAPIKey.Reveal(), client))
	}
	if o.onDemand != nil {
		opts = append(opts, certs.WithOnDemand(o.onDemand))
	}
	if o.certificateEvents != nil {
		opts = append(opts, certs.WithEvents(func(e certs.Event) {
			o.certificateEvents(CertificateEvent{Kind: e.Kind, State: CertificateState(e.State), Err: e.Err})
		}))
	}
	if o.getCertificate != nil {
		opts = append(opts, certs.WithOthers(func(name string) bool { return r.answersFor(o.getCertificate, name) }))
	}
	return certs.New(cfg, opts...)
}

// certificateSources returns what is asked for every certificate that is "auto",
// by routes and by the other servers: only routes can demand certificates for
// names that nobody has configured. Both are nil if there is no source.
func (r *Router) certificateSources(host getCertificateFunc) (forRoutes, forServers getCertificateFunc) {
	switch {
	case r.certs != nil:
		return hostFirst(host, r.certs.GetCertificate), hostFirst(host, r.certs.GetManaged)
	case r.local != nil:
		own := hostFirst(host, r.local.getCertificate)
		return own, own
	}
	return host, host
}

// hostFirst asks the host for a certificate, if he has a func for it, and then own.
func hostFirst(host, own getCertificateFunc) getCertificateFunc {
	if host == nil {
		return own
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, hostErr := host(hello)
		if cert != nil && hostErr == nil {
			return cert, nil
		}
		cert, err := own(hello)
		if err != nil && hostErr != nil {
			return nil, hostErr
		}
		return cert, err
	}
}

// orOf returns the certificate of name to clients that ask for one that there is
// none for: servers have more names than are configured, of which most clients
// do not look whether the certificate has them. An empty name is that of clients
// that name no server.
func orOf(name string, get getCertificateFunc) getCertificateFunc {
	name = certs.CanonicalName(name)
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := get(hello)
		if cert != nil && err == nil {
			return cert, nil
		}
		own := *hello
		own.ServerName = name
		return get(&own)
	}
}

// mailName is the mail system's own name, or empty.
func (c *Config) mailName() string {
	if c.Email == nil {
		return ""
	}
	return c.Email.Hostname
}

// dnsName is the DNS server's own name, or empty.
func (c *Config) dnsName() string {
	if len(c.DNSNSDomains) > 0 {
		return c.DNSNSDomains[0]
	}
	return c.DNSDomain
}

// answersFor reports whether the host's code has a certificate for a name.
func (r *Router) answersFor(host getCertificateFunc, name string) (has bool) {
	defer func() {
		if v := recover(); v != nil { // it may look at the connection, and there is none
			r.log.Debug("panic while looking for a certificate", "component", "certificates", "name", name, "panic", v)
		}
	}()
	cert, err := host(&tls.ClientHelloInfo{ServerName: strings.Replace(name, "*", "any", 1)})
	return cert != nil && err == nil
}

// setCertificateNames tells what to have certificates for, the default one for
// clients that name no server first.
func (r *Router) setCertificateNames(routes []proxy.Route) {
	switch {
	case r.certs != nil:
		r.certs.SetNames(r.certificateNames(routes))
	case r.local != nil:
		names := r.certificateNames(routes)
		if slices.ContainsFunc(routes, func(rt proxy.Route) bool { return wantsCertificate(&rt) && len(rt.Match.Domains) == 0 }) {
			names = append(names, "*") // the route takes any name
		}
		r.local.setNames(names)
	}
	if r.hello != nil {
		r.hello.namesChanged()
	}
}

// certificateNames are all names to have certificates for, as certificates have
// them.
func (r *Router) certificateNames(routes []proxy.Route) []string {
	var names []string
	c := &r.config
	if c.TLS != nil && c.TLS.Domain != "" {
		names = append(names, c.TLS.Domain)
	}
	if c.TLS != nil && c.TLS.ECHPublicName != "" {
		names = append(names, c.TLS.ECHPublicName)
	}
	if c.Email != nil && c.Email.TLS == nil {
		names = append(names, c.Email.Hostname)
	}
	if c.DNS != nil && (c.DNS.DoT != nil || c.DNS.DoQ != nil || c.DNS.DoH != nil) {
		names = append(names, c.DNSNSDomains...)
	}
	for i := range routes {
		if wantsCertificate(&routes[i]) {
			for _, domain := range routes[i].Match.Domains {
				if r.onDemand && !isCertificateName(domain) {
					continue // whatever it stands for comes at its first handshake
				}
				names = append(names, domain)
			}
		}
	}
	for i := range names {
		names[i] = certs.CanonicalName(names[i])
	}
	return names
}

func wantsCertificate(r *proxy.Route) bool {
	return (r.Enabled == nil || *r.Enabled) && r.Action.TLS != nil && r.Action.TLS.Certificate.Auto && r.Action.TLS.Mode != proxy.Passthrough
}

// isCertificateName tells domains, with "*." in front or not, from other
// patterns.
func isCertificateName(domain string) bool {
	return !strings.ContainsAny(strings.TrimPrefix(domain, "*."), "*/?[")
}

// reachable reports whether a route listens where an authority comes for a
// challenge.
func (r *Router) reachable(a *proxy.ACME, challenge string) bool {
	port, encrypted := orDefault(a.HTTPPort, 80), false
	if challenge == certs.TLSALPN01 {
		port, encrypted = orDefault(a.TLSALPNPort, 443), true
	}
	for _, route := range r.proxy.Routes() {
		if route.Enabled != nil && !*route.Enabled || route.Match.Protocol == "udp" || encrypted != (route.Action.TLS != nil) {
			continue
		}
		for _, p := range route.Match.Ports {
			if p.From <= port && port <= p.To {
				return true
			}
		}
	}
	return false
}

// checkCertificates finds what no authority could be convinced of.
func (c *Config) checkCertificates(check *conf.Checker) {
	a, on := c.automation()
	if !on || a.LocalCA {
		return
	}
	dns := c.hasDNS() || c.DNSChallenge != nil
	allowed := func(challenge string) bool {
		if len(a.Challenges) == 0 {
			return true
		}
		for _, other := range a.Challenges {
			if other == challenge {
				return true
			}
		}
		return false
	}
	at := check.Field("smartProxyConfig").Field("acme").Field("challenges")
	if len(a.Challenges) > 0 && !dns && !allowed(certs.TLSALPN01) && !allowed(certs.HTTP01) {
		at.Errorf("dns-01 needs a DNS server that is the source of the names (dnsServerConfig, dnsNsDomains) or dnsChallenge")
	}
	if c.Proxy == nil || dns && allowed(certs.DNS01) {
		return
	}
	need := "dnsServerConfig, dnsNsDomains or dnsChallenge"
	if dns {
		need = "dns-01 in smartProxyConfig.acme.challenges"
	}
	for i := range c.Proxy.Routes {
		route := &c.Proxy.Routes[i]
		for j, domain := range route.Match.Domains {
			if wantsCertificate(route) && strings.HasPrefix(domain, "*.") && isCertificateName(domain) {
				check.Field("smartProxyConfig").Field("routes").Index(i).Field("match").Field("domains").Index(j).Errorf(
					"an automatic certificate for %q is obtained by dns-01 only: this needs %s", domain, need)
			}
		}
	}
}

// challengeZones lets certificates be proven in the zones of the DNS server.
type challengeZones struct{ router *Router }

func (z challengeZones) Authoritative(name string) bool {
	_, err := z.router.dns.Source(name)
	return err == nil
}

// Owner is the wildcard if the name that is to be proven has what it has by
// one: below an alias a text would not be found, and where there is no other
// challenge it is better to be without the wildcard for some seconds than
// without a certificate.
func (z challengeZones) Owner(name string) string {
	_, proven, _ := strings.Cut(name, ".")
	star, err := z.router.dns.Wildcard(proven)
	if err != nil || star == "" {
		return name
	}
	if alias, err := z.router.dns.Lookup(star, "CNAME"); err != nil || len(alias) > 0 {
		return name
	}
	return star
}

// challengeTTL is the TTL of records for others to look at once, in seconds.
const challengeTTL = 60

func (z challengeZones) record(r certs.Record) dnsserver.Record {
	out := dnsserver.Record{Name: r.Name, Type: r.Type, Value: r.Value}
	if r.Type == "TXT" {
		out.Value, out.TTL = dnsserver.QuoteText(r.Value), challengeTTL
		if beside, err := z.router.dns.Lookup(r.Name, "TXT"); err == nil && len(beside) > 0 {
			out.TTL = beside[0].TTL // all take over that of the last one
		}
	}
	return out
}

func (z challengeZones) Add(ctx context.Context, r certs.Record) error {
	tx := new(dnsserver.Tx)
	tx.Add(z.record(r))
	return z.router.dns.Update(ctx, tx)
}

func (z challengeZones) Remove(ctx context.Context, r certs.Record) error {
	tx := new(dnsserver.Tx)
	tx.Remove(z.record(r))
	return z.router.dns.Update(ctx, tx)
}

func (z challengeZones) CAA(name string) (at string, values []string, err error) {
	zone, err := z.router.dns.Source(name)
	if err != nil {
		return "", nil, err
	}
	has, err := z.router.dns.HasRecords(name)
	if err != nil {
		return "", nil, err
	}
	alias, err := z.router.dns.Lookup(name, "CNAME")
	if err != nil {
		return "", nil, err
	}
	has = has && len(alias) == 0 // which has room for nothing else
	for at = plainDomain(name); ; {
		list, err := z.router.dns.Lookup(at, "CAA")
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", at, err)
		}
		for _, r := range list {
			values = append(values, r.Value)
		}
		_, above, ok := strings.Cut(at, ".")
		if len(values) > 0 {
			return at, values, nil
		}
		if sameDomain(at, zone) || !ok {
			if has {
				return name, nil, nil
			}
			return "", nil, nil
		}
		at = above
	}
}
