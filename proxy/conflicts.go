package proxy

import (
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// maxPlaces bounds the pairs of port and domain over all routes, each of which
// costs memory: a few wide ranges are easily written down.
const maxPlaces = 1 << 20

// validateTogether finds routes that exclude each other.
func validateTogether(check *conf.Checker, routes []Route) {
	type candidate struct {
		index   int
		domains []domain
	}
	list := make([]candidate, 0, len(routes))
	var spans portSpans
	var tooMany *conf.Checker
	places := 0
collect:
	for i := range routes {
		r := &routes[i]
		if !r.enabled() {
			continue
		}
		domains, ok := r.Match.domains()
		if !ok {
			break // said already; comparing would only confuse
		}
		if len(domains) == 0 {
			domains = []domain{{kind: anyDomain}}
		}
		for _, pr := range r.Match.Ports {
			if pr.From < 0 || pr.To > 65535 || pr.To-pr.From >= maxRoutePorts {
				break collect
			}
			if places += max(0, pr.To-pr.From+1) * len(domains); places > maxPlaces {
				tooMany = check.Index(i).Field("match").Field("ports")
				break collect
			}
		}
		list = append(list, candidate{i, domains})
		spans = spans.cut(r.Match.Ports)
	}
	spans = spans.sorted()

	type place struct {
		span   int
		domain domain
		rest   int // what else tells routes apart, as a number
	}
	numbers := make(map[string]int, len(list))
	number := func(key []byte) int {
		n, ok := numbers[string(key)]
		if !ok {
			n = len(numbers)
			numbers[string(key)] = n
		}
		return n
	}
	same := make(map[place]int, len(list)) // the first route with just this match and priority
	tls := make(map[place]int)             // the first route that says what happens to TLS there
	var key []byte
	for _, c := range list {
		r := &routes[c.index]
		key = r.appendMatchKey(key[:0])
		exact, clients := number(key), 0
		if r.Action.TLS != nil {
			key = appendTexts(key[:0], inOrder(r.Match.ClientIP))
			clients = number(key)
		}
	ports:
		for _, pr := range r.Match.Ports {
			from, to := spans.of(pr)
			for span := from; span < to; span++ {
				for _, d := range c.domains {
					at := place{span, d, exact}
					if first, ok := same[at]; ok && first != c.index {
						check.Index(c.index).Field("match").Errorf("on port %d the same as of routes[%d]%s, and so is the priority: it could never be reached",
							spans[span], first, quotedName(routes[first].Name))
						continue ports
					}
					same[at] = c.index
					if r.Action.TLS == nil {
						continue
					}
					at.rest = clients
					if first, ok := tls[at]; ok && !sameTLS(r.Action.TLS, routes[first].Action.TLS) {
						check.Index(c.index).Field("action").Field("tls").Errorf("differs from that of routes[%d]%s, which has the same port %d and domain: TLS is decided before any request is seen",
							first, quotedName(routes[first].Name), spans[span])
						continue ports
					} else if !ok {
						tls[at] = c.index
					}
				}
			}
		}
	}
	if tooMany != nil {
		tooMany.Errorf("with this route there are more than %d pairs of port and domain; use fewer or smaller ranges", maxPlaces)
	}
}

// appendMatchKey appends what is equal for routes that match the same traffic,
// ports and domains aside, with the same priority. Routes for TLS and for
// plaintext differ.
func (r *Route) appendMatchKey(b []byte) []byte {
	m := &r.Match
	b = strconv.AppendInt(b, int64(r.Priority), 10)
	b = strconv.AppendBool(b, r.Action.TLS != nil)
	b = strconv.AppendBool(b, m.Protocol == "udp")
	b = appendText(b, m.Path)
	b = appendTexts(b, m.Methods)
	for _, values := range [...]map[string]string{m.Headers, m.Query} {
		b = append(strconv.AppendInt(b, int64(len(values)), 10), ':')
		for name, value := range sorted(values) {
			b = appendText(appendText(b, name), value)
		}
	}
	return appendTexts(b, inOrder(m.ClientIP))
}

func inOrder(list []string) []string {
	if len(list) < 2 {
		return list
	}
	return slices.Sorted(slices.Values(list))
}

// appendTexts appends a list such that no other list looks the same, whatever
// follows.
func appendTexts(b []byte, list []string) []byte {
	b = append(strconv.AppendInt(b, int64(len(list)), 10), ':')
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = append(strconv.AppendInt(b, int64(len(s)), 10), ':')
	return append(b, s...)
}

// sameTLS reports whether two routes treat clients' TLS alike; what they do
// towards targets may differ.
func sameTLS(a, b *TLS) bool {
	if (a.Mode == Passthrough) != (b.Mode == Passthrough) || a.Certificate != b.Certificate {
		return false
	}
	return equalPtr(a.ClientAuth, b.ClientAuth)
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
