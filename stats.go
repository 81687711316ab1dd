package dcrouter

import "github.com/dcrouter/dcrouter/proxy"

// Stats is a snapshot of the counters of every subsystem.
type Stats struct {
	Proxy proxy.Stats `json:"proxy"`
}

// Stats returns a snapshot of the counters.
func (r *Router) Stats() Stats {
	return Stats{Proxy: r.proxy.Stats()}
}
