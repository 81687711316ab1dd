package proxy

import "github.com/dcrouter/dcrouter/internal/conf"

// unavailable names what routes can say and this version cannot do. It would
// be wrong to serve them without it and say nothing.
func (p *Proxy) unavailable(routes []Route) error {
	check := conf.NewChecker()
	for i := range routes {
		r := &routes[i]
		if !r.enabled() {
			continue
		}
		missing := func(asked bool, what string, path ...string) {
			at := check.Field("routes").Index(i)
			for _, name := range path {
				at = at.Field(name)
			}
			if asked {
				at.Errorf("not available in this version: %s", what)
			}
		}
		missing(r.Match.Protocol == "udp", "forwarding of udp", "match", "protocol")
		missing(r.Action.ProxyProtocol != nil, "the PROXY protocol", "action", "proxyProtocol")
		missing(r.Action.Security.RateLimit != nil, "rate limits", "action", "security", "rateLimit")
		if t := r.Action.TLS; t != nil && t.Certificate.Auto && p.opts.getCertificate == nil {
			check.Field("routes").Index(i).Field("action").Field("tls").Field("certificate").Errorf(
				"\"auto\" needs a source of certificates, and automatic ones are not available in this version: give certPath and keyPath, or in Go WithGetCertificate")
		}
	}
	return check.Err()
}
