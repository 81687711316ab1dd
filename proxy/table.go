package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// table is a compiled set of routes. It is immutable and replaced as a whole.
type table struct {
	routes []*route
	byKey  map[string]*route
	ports  map[int]*portRoutes
}

// portRoutes are the routes of one port, arranged by how far a connection has
// been read when they are looked up.
type portRoutes struct {
	// direct says that every route is decided by the client's address alone,
	// so that nothing needs to be read before a target is chosen.
	direct bool
	// hello has what may take a TLS ClientHello: routes that terminate TLS or
	// pass it through, and streams that are not looked into.
	hello hostIndex
	// terminated has the routes for what comes out of terminated TLS.
	terminated hostIndex
	// plain has the routes for what comes without TLS.
	plain hostIndex
	// hasTLS, plainHTTP: any route terminates or passes TLS through; any takes
	// HTTP without TLS. secureHTTP: any takes HTTP in TLS that it terminates; quic:
	// so HTTP/3 is served.
	hasTLS, plainHTTP, secureHTTP, quic bool
	// datagrams has the routes for UDP, all of the above those for TCP. tcp and
	// udp say whether there are any.
	datagrams hostIndex
	tcp, udp  bool
	// proxies are the peers whose connections begin with a PROXY header. It is
	// read before the route is known, so they are those of any route.
	proxies *ipSet
}

// needsPackets reports whether something reads datagrams on the port.
func (p *portRoutes) needsPackets() bool { return p.udp || p.quic }

// hostIndex finds routes by host. Each list is in the order of compareRoutes.
type hostIndex struct {
	exact map[string][]*route
	wild  map[string][]*route // by what follows "*."
	any   []*route
}

// query is what a lookup knows about a connection or request.
type query struct {
	client netip.Addr
	host   string // canonical, "" if unknown

	// Of a request; without http conditions on it are not looked at.
	http     bool
	method   string
	path     string // canonical
	rawQuery string
	rawHost  string // as the client sent it
	header   fieldValues
}

// fieldValues finds the values of a header by its canonical name. Each front
// end has headers in a form of its own; an http.Header is one.
type fieldValues interface {
	Values(name string) []string
}

// kinds of traffic to look routes up for.
const (
	anyTraffic = iota
	streamTraffic
	opaqueTraffic // streams of routes that never look inside
	httpTraffic
)

// newTable arranges compiled routes for lookup.
func newTable(routes []*route) *table {
	t := &table{
		routes: routes,
		byKey:  make(map[string]*route, len(routes)),
		ports:  make(map[int]*portRoutes),
	}
	sorted := slices.Clone(routes)
	slices.SortFunc(sorted, compareRoutes)
	for _, r := range sorted {
		t.byKey[r.key] = r
		for _, pr := range r.Match.Ports {
			for port := pr.From; port <= pr.To; port++ {
				p := t.ports[port]
				if p == nil {
					p = &portRoutes{direct: true}
					t.ports[port] = p
				}
				p.add(r)
			}
		}
	}
	return t
}

func (p *portRoutes) add(r *route) {
	if r.Match.Protocol == "udp" {
		p.udp = true
		p.datagrams.add(r)
		return
	}
	p.tcp = true
	if r.Action.ProxyProtocol != nil {
		p.proxies = p.proxies.with(r.Action.ProxyProtocol.Accept)
	}
	switch {
	case r.terminatesTLS():
		p.hello.add(r)
		p.terminated.add(r)
		p.hasTLS = true
		p.secureHTTP = p.secureHTTP || r.http
	case r.Action.TLS != nil:
		p.hello.add(r)
		p.hasTLS = true
	default:
		if r.streams {
			p.hello.add(r)
		}
		p.plain.add(r)
		p.plainHTTP = p.plainHTTP || r.http
	}
	if r.Action.TLS != nil || !r.streams || r.Match.hasDomains() {
		p.direct = false
	}
}

func (x *hostIndex) add(r *route) {
	if len(r.domains) == 0 {
		x.any = appendRoute(x.any, r)
	}
	for _, d := range r.domains {
		switch d.kind {
		case anyDomain:
			x.any = appendRoute(x.any, r)
		case wildDomain:
			if x.wild == nil {
				x.wild = make(map[string][]*route)
			}
			x.wild[d.name] = appendRoute(x.wild[d.name], r)
		case exactDomain:
			if x.exact == nil {
				x.exact = make(map[string][]*route)
			}
			x.exact[d.name] = appendRoute(x.exact[d.name], r)
		}
	}
}

// appendRoute appends r once, also if a route names a domain or port twice.
func appendRoute(list []*route, r *route) []*route {
	if n := len(list); n > 0 && list[n-1] == r {
		return list
	}
	return append(list, r)
}

// find returns the route for q, or nil. The best route of each list is the
// first that matches; among those three, priority decides before the kind of
// domain does.
func (x *hostIndex) find(q *query, traffic int) *route {
	var best *route
	if q.host != "" {
		best = first(x.exact[q.host], q, traffic)
		if _, parent, ok := strings.Cut(q.host, "."); ok {
			if r := first(x.wild[parent], q, traffic); r != nil && (best == nil || r.Priority > best.Priority) {
				best = r
			}
		}
	}
	if r := first(x.any, q, traffic); r != nil && (best == nil || r.Priority > best.Priority) {
		best = r
	}
	return best
}

func first(list []*route, q *query, traffic int) *route {
	for _, r := range list {
		switch traffic {
		case streamTraffic:
			if !r.streams {
				continue
			}
		case opaqueTraffic:
			if !r.streams || r.http {
				continue
			}
		case httpTraffic:
			if !r.http {
				continue
			}
		}
		if !r.match.matchesClient(q.client) {
			continue
		}
		if q.http && !r.match.matchesRequest(q) {
			continue
		}
		return r
	}
	return nil
}
