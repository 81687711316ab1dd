package proxy

import (
	"fmt"
	"iter"
	"slices"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// maxPlaces bounds the pairs of port and domain over all routes, each of which
// costs memory: a few wide ranges are easily written down.
const maxPlaces = 1 << 20

// validateTogether finds routes that exclude each other.
func validateTogether(check *conf.Checker, routes []Route) {
	type place struct {
		port   int
		domain domain
		rest   string
	}
	ports := 0
	same := make(map[place]int) // the first route with just this match and priority
	tls := make(map[place]int)  // the first route that says what happens to TLS there
	for i := range routes {
		r := &routes[i]
		if !r.enabled() {
			continue
		}
		domains := []domain{{kind: anyDomain}}
		if len(r.Match.Domains) > 0 {
			domains = domains[:0]
			for _, d := range r.Match.Domains {
				kind, name, ok := domainPattern(d)
				if !ok {
					return // said already; comparing would only confuse
				}
				domains = append(domains, domain{kind, name})
			}
		}
		exact := r.matchKey()
		clients := fmt.Sprintf("%q", slices.Sorted(slices.Values(r.Match.ClientIP)))
		for _, pr := range r.Match.Ports {
			if pr.From < 0 || pr.To > 65535 || pr.To-pr.From >= maxRoutePorts {
				return
			}
			if ports += max(0, pr.To-pr.From+1) * len(domains); ports > maxPlaces {
				check.Index(i).Field("match").Field("ports").Errorf("with this route there are more than %d pairs of port and domain; use fewer or smaller ranges", maxPlaces)
				return
			}
			conflict := false
			for port := pr.From; port <= pr.To && !conflict; port++ {
				for _, d := range domains {
					if first, ok := same[place{port, d, exact}]; ok && first != i {
						check.Index(i).Field("match").Errorf("on port %d the same as of routes[%d]%s, and so is the priority: it could never be reached",
							port, first, quotedName(routes[first].Name))
						conflict = true
						break
					}
					same[place{port, d, exact}] = i
					if r.Action.TLS == nil {
						continue
					}
					at := place{port, d, clients}
					if first, ok := tls[at]; ok && !sameTLS(r.Action.TLS, routes[first].Action.TLS) {
						check.Index(i).Field("action").Field("tls").Errorf("differs from that of routes[%d]%s, which has the same port %d and domain: TLS is decided before any request is seen",
							first, quotedName(routes[first].Name), port)
						conflict = true
						break
					} else if !ok {
						tls[at] = i
					}
				}
			}
		}
	}
}

// matchKey is equal for routes that match the same traffic, ports and domains
// aside, with the same priority. Routes for TLS and for plaintext differ.
func (r *Route) matchKey() string {
	m := &r.Match
	protocol := m.Protocol
	if protocol == "http" || protocol == "tcp" {
		protocol = ""
	}
	return fmt.Sprintf("%d %t %q %q %q %q %q %q", r.Priority, r.Action.TLS != nil, m.Path, m.Methods,
		m.Headers, m.Query, slices.Sorted(slices.Values(m.ClientIP)), protocol)
}

// sameTLS reports whether two routes treat clients' TLS alike; what they do
// towards targets may differ.
func sameTLS(a, b *TLS) bool {
	if (a.Mode == Passthrough) != (b.Mode == Passthrough) || a.Certificate != b.Certificate {
		return false
	}
	if a.ClientAuth == nil || b.ClientAuth == nil {
		return a.ClientAuth == b.ClientAuth
	}
	return *a.ClientAuth == *b.ClientAuth
}

func quotedName(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", name)
}

// validateRoutes finds ports whose datagrams would have two readers.
func (h *HTTP3) validateRoutes(check *conf.Checker, routes []Route) {
	if !h.Enabled {
		return
	}
	check = check.Field("routes")
	secure := make(map[int]int) // port to the first route with HTTP/3
	for i := range routes {
		r := &routes[i]
		if _, http := r.carries(); !r.enabled() || !http || !r.terminatesTLS() {
			continue
		}
		for port := range r.Match.everyPort() {
			if _, ok := secure[port]; !ok {
				secure[port] = i
			}
		}
	}
	for i := range routes {
		r := &routes[i]
		if !r.enabled() || r.Match.Protocol != "udp" {
			continue
		}
		for port := range r.Match.everyPort() {
			if other, ok := secure[port]; ok {
				check.Index(i).Field("match").Field("ports").Errorf("the UDP port %d serves HTTP/3 for routes[%d]%s", port, other, quotedName(routes[other].Name))
				break
			}
		}
	}
}

// everyPort goes through the ports of valid ranges.
func (m *Match) everyPort() iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, pr := range m.Ports {
			if pr.From < 0 || pr.To > 65535 || pr.To-pr.From >= maxRoutePorts {
				continue // said already
			}
			for port := pr.From; port <= pr.To; port++ {
				if !yield(port) {
					return
				}
			}
		}
	}
}
