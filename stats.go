package dcrouter

import (
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/proxy"
)

// Stats is a snapshot of the counters of every subsystem.
type Stats struct {
	Proxy proxy.Stats `json:"proxy"`
	// DNS is nil where no DNS server is configured.
	DNS *dnsserver.Stats `json:"dns,omitempty"`
}

// Stats returns a snapshot of the counters.
func (r *Router) Stats() Stats {
	s := Stats{Proxy: r.proxy.Stats()}
	if r.dns != nil {
		d := r.dns.Stats()
		s.DNS = &d
	}
	return s
}
