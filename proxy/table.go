package proxy

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// table is a compiled set of routes. It is immutable and replaced as a whole.
// What lasts, such as a connection, refers to it by version at most, or each
// would keep a table of its time in memory.
type table struct {
	version uint64 // another one for each table
	routes  []*route
	byKey   map[string]*route
	ports   map[int]*portRoutes // those with the same routes share them
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
	type placed struct {
		*route
		place int
	}
	sorted := make([]placed, len(routes))
	var spans portSpans
	for i, r := range routes {
		sorted[i] = placed{r, i}
		t.byKey[r.key] = r
		spans = spans.cut(r.Match.Ports)
	}
	slices.SortFunc(sorted, func(a, b placed) int {
		if c := compareRoutes(a.route, b.route); c != 0 {
			return c
		}
		return a.place - b.place
	})
	spans = spans.sorted()
	lists := make([][]*route, len(spans))
	places := make([][]byte, len(spans)) // of the routes in lists, to tell equal ones
	for _, r := range sorted {
		for _, pr := range r.Match.Ports {
			from, to := spans.of(pr)
			for i := from; i < to; i++ {
				n := len(lists[i])
				if lists[i] = appendRoute(lists[i], r.route); len(lists[i]) > n {
					places[i] = binary.AppendUvarint(places[i], uint64(r.place))
				}
			}
		}
	}
	// Ports that have the same routes share what they are compiled to: a route
	// may have thousands of ports.
	compiled := make(map[string]*portRoutes)
	for i, list := range lists {
		if len(list) == 0 {
			continue
		}
		p := compiled[string(places[i])]
		if p == nil {
			p = newPortRoutes(list)
			compiled[string(places[i])] = p
		}
		for port := spans[i]; port < spans[i+1]; port++ {
			t.ports[port] = p
		}
	}
	return t
}

// find returns the route with this identity, or nil; a nil table has none. It is
// found soonest near the place given, where it is unless others have come or gone.
func (t *table) find(key string, near int) *route {
	switch {
	case t == nil:
		return nil
	case near < len(t.routes) && t.routes[near].key == key:
		return t.routes[near]
	}
	return t.byKey[key]
}

func newPortRoutes(routes []*route) *portRoutes {
	p := &portRoutes{direct: true}
	strict := slices.ContainsFunc(routes, func(r *route) bool { return r.http && !r.streams && r.Match.Protocol != "udp" })
	p.hello.strict, p.terminated.strict, p.plain.strict = strict, strict, strict
	for _, r := range routes {
		p.add(r)
	}
	p.datagrams.compile()
	p.hello.compile()
	for _, x := range []*hostIndex{&p.terminated, &p.plain} {
		// Most often all routes of a port take the same traffic.
		if slices.Equal(x.routes, p.hello.routes) {
			*x = p.hello
		} else {
			x.compile()
		}
	}
	return p
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
		if r.takesStreams(p.hello.strict) {
			p.hello.add(r)
		}
		p.plain.add(r)
		p.plainHTTP = p.plainHTTP || r.http
	}
	if r.Action.TLS != nil || !r.streams || r.Match.hasDomains() {
		p.direct = false
	}
}

// appendRoute appends r once, also if a route names a domain or port twice.
func appendRoute(list []*route, r *route) []*route {
	if n := len(list); n > 0 && list[n-1] == r {
		return list
	}
	return append(list, r)
}

// portSpans cuts the range of all ports so that each range that routes name is
// made up of whole spans. It has the first port of each.
type portSpans []int

// cut adds the ends of some ranges; sorted is called after the last of them.
func (s portSpans) cut(ranges []PortRange) portSpans {
	for _, r := range ranges {
		// Most routes have the ports of the one before.
		if n := len(s); n < 2 || s[n-2] != r.From || s[n-1] != r.To+1 {
			s = append(s, r.From, r.To+1)
		}
	}
	return s
}

func (s portSpans) sorted() portSpans {
	slices.Sort(s)
	return slices.Compact(s)
}

// of returns the spans that make up r, by index, the second not included.
func (s portSpans) of(r PortRange) (from, to int) {
	from, _ = slices.BinarySearch(s, r.From)
	to, _ = slices.BinarySearch(s, r.To+1)
	return from, to
}
