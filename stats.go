package dcrouter

import (
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// Stats is a snapshot of the counters of every subsystem.
type Stats struct {
	Proxy proxy.Stats `json:"proxy"`
	// DNS is nil where no DNS server is configured.
	DNS *dnsserver.Stats `json:"dns,omitempty"`
	// RADIUS is nil where no RADIUS server is configured.
	RADIUS *radius.Stats `json:"radius,omitempty"`
	// Email is nil where no mail system is configured.
	Email *email.Stats `json:"email,omitempty"`
	// Blocking is nil where no blocking is configured.
	Blocking *BlockingStats `json:"blocking,omitempty"`
	// Certificates are the automatic ones, by name.
	Certificates []CertificateState `json:"certificates,omitempty"`
}

// Stats returns a snapshot of the counters.
func (r *Router) Stats() Stats {
	s := Stats{Proxy: r.proxy.Stats()}
	if r.dns != nil {
		d := r.dns.Stats()
		s.DNS = &d
	}
	if r.radius != nil {
		n := r.radius.Stats()
		s.RADIUS = &n
	}
	if r.email != nil {
		m := r.email.Stats()
		s.Email = &m
	}
	if r.blocking != nil {
		s.Blocking = r.blocking.stats()
	}
	if r.certs != nil {
		for _, state := range r.certs.States() {
			s.Certificates = append(s.Certificates, CertificateState(state))
		}
	}
	return s
}
