package proxy

import "github.com/dcrouter/dcrouter/internal/conf"

// unready names what routes ask for and nobody has given. It would be wrong
// to serve them without it and say nothing.
func (p *Proxy) unready(routes []*Route) error {
	check := conf.NewChecker()
	for i, r := range routes {
		if !r.enabled() {
			continue
		}
		if t := r.Action.TLS; t != nil && t.Certificate.Auto && p.opts.getCertificate == nil {
			check.Field("routes").Index(i).Field("action").Field("tls").Field("certificate").Errorf(
				"\"auto\" needs a source of certificates: give the section acme to a Router, certPath and keyPath, or in Go WithGetCertificate")
		}
	}
	return check.Err()
}
