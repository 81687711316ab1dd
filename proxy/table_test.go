package proxy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// routeWorld makes routes and queries out of few values, so that they meet.
type routeWorld struct{ *rand.Rand }

func (w routeWorld) pick(list ...string) string { return list[w.IntN(len(list))] }

func (w routeWorld) pickInt(list ...int) int { return list[w.IntN(len(list))] }

func (w routeWorld) some(chance float64, list ...string) []string {
	var out []string
	for w.Float64() < chance && len(out) < 3 {
		out = append(out, w.pick(list...))
	}
	return out
}

var (
	worldDomains = []string{"a.test", "a.test", "a.test", "b.test", "x.a.test", "y.x.a.test", "*.test", "*.test", "*.a.test", "*.x.a.test", "*", "test", "192.0.2.1", "B.TEST."}
	worldHosts   = []string{"", "a.test", "a.test", "b.test", "x.a.test", "y.x.a.test", "z.y.x.a.test", "c.test", "test", "192.0.2.1", "other"}
	worldPaths   = []string{"", "", "/", "/a", "/a/*", "/a/b", "/a/b*", "/a*", "/*", "/a/*/c", "/a/b/*", "/?", "/?/*", "*b", "*", "/a/b/c", "/a/b/c/*", "/ab*",
		"~^/a", "~^/a/b", "~b$", "~^/[ab]+$", "~(?i)^/A", "~^(/a|/b)", "~^/a|c$", "~/a/", "~(?m)^/b", `~^/a\.`, "~^/ab?", "~^/a/b/c$"}
	worldClients = []string{"127.0.0.1", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"}
	worldPorts   = [][]PortRange{Ports(80), Ports(80), Ports(81), Ports(80, 81), Ports(82, 80), {{79, 81}}, {{80, 80}, {81, 90}}, {{70, 84}, {83, 100}}}
)

func (w routeWorld) route(i int) Route {
	r := Route{Name: fmt.Sprint(i), Priority: max(w.IntN(6)-3, 0) - max(w.IntN(4)-2, 0), Match: Match{
		Ports: worldPorts[w.IntN(len(worldPorts))], Domains: w.some(0.7, worldDomains...), Path: w.pick(worldPaths...),
		Methods: w.some(0.15, "GET", "POST"), ClientIP: w.some(0.15, worldClients...),
	}}
	if w.IntN(6) == 0 {
		r.Match.Headers = map[string]string{"x-a": w.pick("1", "*", "/^[0-9]$/")}
	}
	if w.IntN(12) == 0 {
		r.Match.Headers = map[string]string{"host": w.pick("a.test", "*.test", "/:/")}
	}
	if w.IntN(6) == 0 {
		r.Match.Query = map[string]string{w.pick("q", "q", "", "ü"): w.pick("1", "2", "*", "", "a b")}
	}
	r.Action = forwardTo(Target{Host: "127.0.0.1", Port: 1})
	switch w.IntN(8) {
	case 0:
		r.Action = Action{Handler: http.NotFoundHandler()}
	case 1:
		r.noHTTP()
		r.Match.Protocol = w.pick("", "tcp")
	case 2:
		r.noHTTP()
		r.Action = Action{SocketHandler: SocketHandlerFunc(nil)}
	case 3:
		r.noHTTP()
		r.Action.TLS = &TLS{Mode: Passthrough}
	case 4, 5:
		r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}}
	}
	return r
}

func (r *Route) noHTTP() {
	r.Match.Path, r.Match.Methods, r.Match.Headers, r.Match.Query = "", nil, nil, nil
}

func (w routeWorld) query(traffic int) query {
	q := query{client: netip.MustParseAddr(w.pick("127.0.0.1", "10.1.2.3", "10.2.0.0", "2001:db8::1", "192.0.2.9")), host: w.pick(worldHosts...)}
	if traffic != httpTraffic || w.IntN(5) == 0 {
		return q
	}
	q.path = w.pick("/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/a/bc", "/a/x/c", "/a/x/y/c", "/A", "/b", "/ab", "/abb", "/a.b", "/x\n/b", "/\xff", "//", "*")
	q.http, q.method, q.rawHost = true, w.pick("GET", "POST", "PUT"), q.host+w.pick("", ":80")
	q.rawQuery = w.pick("", "q=1", "q=2", "q=3&q=1", "q", "q=1;q=2&x", "%71=%31", "=1", "&&", "%C3%BC=a+b", "q=%zz&q=2", "%zz=1")
	header := http.Header{}
	if v := w.pick("", "1", "x"); v != "" {
		header.Add("X-A", w.pick(v, "y"))
		header.Add("X-A", v)
	}
	q.header = header
	return q
}

// Which of the indices of a port a lookup goes to.
const (
	inHello = iota
	inTerminated
	inPlain
)

// naiveFind looks at every route and takes the best by the order that Route
// documents. It knows nothing of what has been compiled.
func naiveFind(routes []Route, port, index int, q *query, traffic int) (found int) {
	found = -1
	var foundKind domainKind
	strict := slices.ContainsFunc(routes, func(r Route) bool {
		streams, _ := r.carries()
		return !streams && naivePort(&r, port)
	})
	for i := range routes {
		r := &routes[i]
		kind := domainKind(-1)
		if len(r.Match.Domains) == 0 {
			kind = anyDomain
		}
		for _, d := range r.Match.Domains {
			if k, ok := naiveDomain(d, q.host); ok && k > kind {
				kind = k
			}
		}
		streams, carriesHTTP := r.carries()
		streams = streams && (!carriesHTTP || !strict || r.Match.Protocol == "tcp")
		inIndex := false
		switch index {
		case inHello:
			inIndex = r.Action.TLS != nil || streams
		case inTerminated:
			inIndex = r.Action.TLS != nil && r.Action.TLS.Mode != Passthrough
		case inPlain:
			inIndex = r.Action.TLS == nil
		}
		switch {
		case kind < 0, !inIndex,
			!naivePort(r, port),
			traffic == streamTraffic && !streams, traffic == httpTraffic && !carriesHTTP,
			traffic == opaqueTraffic && (!streams || carriesHTTP),
			len(r.Match.ClientIP) > 0 && !slices.ContainsFunc(r.Match.ClientIP, func(s string) bool { return naiveClient(s, q.client) }),
			q.http && !naiveRequest(&r.Match, q):
			continue
		}
		if found < 0 || naiveBetter(r, kind, &routes[found], foundKind) {
			found, foundKind = i, kind
		}
	}
	return found
}

func naivePort(r *Route, port int) bool {
	return slices.ContainsFunc(r.Match.Ports, func(p PortRange) bool { return p.From <= port && port <= p.To })
}

func naiveDomain(pattern, host string) (domainKind, bool) {
	if pattern == "*" {
		return anyDomain, true
	}
	if host == "" {
		return 0, false
	}
	pattern = strings.ToLower(strings.TrimSuffix(pattern, "."))
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		label, found := strings.CutSuffix(host, "."+rest)
		return wildDomain, found && label != "" && !strings.Contains(label, ".")
	}
	return exactDomain, pattern == host
}

func naiveClient(block string, client netip.Addr) bool {
	if !strings.Contains(block, "/") {
		return netip.MustParseAddr(block) == client
	}
	return netip.MustParsePrefix(block).Contains(client)
}

func naiveRequest(m *Match, q *query) bool {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, q.method) {
		return false
	}
	switch {
	case m.Path == "":
	case m.Path[0] == '~':
		if !regexp.MustCompile(m.Path[1:]).MatchString(q.path) {
			return false
		}
	default:
		expr := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(m.Path))
		if !regexp.MustCompile("^(?s:" + expr + ")$").MatchString(q.path) {
			return false
		}
	}
	for name, value := range m.Headers {
		values := q.header.Values(http.CanonicalHeaderKey(name))
		if name == "host" {
			values = []string{q.rawHost}
		}
		if !slices.ContainsFunc(values, func(v string) bool { return naiveValue(value, v) }) {
			return false
		}
	}
	params, _ := url.ParseQuery(q.rawQuery)
	for name, value := range m.Query {
		if !slices.ContainsFunc(params[name], func(v string) bool { return naiveValue(value, v) }) {
			return false
		}
	}
	return true
}

func naiveValue(pattern, value string) bool {
	switch {
	case pattern == "*":
		return true
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(value, pattern[1:])
	case strings.HasPrefix(pattern, "/"):
		return regexp.MustCompile(strings.Trim(pattern, "/")).MatchString(value)
	}
	return value == pattern
}

// naiveBetter reports whether a goes before b, which was given earlier.
func naiveBetter(a *Route, ka domainKind, b *Route, kb domainKind) bool {
	tls := func(r *Route) int {
		if r.Action.TLS != nil {
			return 1
		}
		return 0
	}
	path := func(r *Route) (kind, length int) {
		switch p := r.Match.Path; {
		case p == "":
			return 0, 0
		case p[0] == '~':
			return 2, 0
		case strings.ContainsAny(p, "*?"):
			return 1, strings.IndexAny(p, "*?")
		default:
			return 3, len(p)
		}
	}
	conditions := func(r *Route) int {
		n := len(r.Match.Headers) + len(r.Match.Query)
		if len(r.Match.Methods) > 0 {
			n++
		}
		if len(r.Match.ClientIP) > 0 {
			n++
		}
		return n
	}
	aKind, aLength := path(a)
	bKind, bLength := path(b)
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(ka, kb), cmp.Compare(tls(a), tls(b)),
		cmp.Compare(aKind, bKind), cmp.Compare(aLength, bLength), cmp.Compare(conditions(a), conditions(b))) > 0
}

// The table finds what a scan of all routes finds, also after updates that take
// over some of them.
func TestTableAgainstScan(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := routeWorld{rand.New(rand.NewPCG(seed, 1))}
	found, byPath, merged, takenOver := 0, 0, 0, 0
	for range 60 {
		p := newProxy(t, Config{})
		routes := make([]Route, 1+w.IntN(w.pickInt(10, 50, 300)))
		streams := w.IntN(3) == 0 // no route is about HTTP alone, at first
		for i := range routes {
			routes[i] = w.route(i)
			for streams && routes[i].Action.Handler != nil {
				routes[i] = w.route(i)
			}
			if streams {
				routes[i].noHTTP()
			}
		}
		for range 4 {
			a, err := p.assemble(p.takeOver(routes))
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range a.table.routes {
				if p.table.find(r.key, i) == r {
					takenOver++
				}
			}
			a.commit()
			for range 100 {
				port, index := w.pickInt(80, 80, 80, 79, 81, 82, 83, 90), w.pickInt(inHello, inTerminated, inPlain, inPlain)
				traffic := w.pickInt(anyTraffic, streamTraffic, opaqueTraffic, httpTraffic, httpTraffic, httpTraffic)
				q := w.query(traffic)
				var got *route
				if pr := p.table.ports[port]; pr != nil {
					x := []*hostIndex{&pr.hello, &pr.terminated, &pr.plain}[index]
					got = x.find(&q, traffic)
					if b := x.narrowest(q.host); b != nil && b.paths != nil && q.http {
						byPath++
						if b.wider != nil {
							merged++
						}
					}
				}
				name := func(i int) string {
					if i < 0 {
						return "none"
					}
					return fmt.Sprintf("%d %s priority %d %+v", i, routes[i].Action.Type, routes[i].Priority, routes[i].Match)
				}
				gotIndex := -1
				if got != nil {
					gotIndex = slices.IndexFunc(routes, func(r Route) bool { return r.Name == got.Name })
					found++
				}
				if want := naiveFind(routes, port, index, &q, traffic); gotIndex != want {
					t.Fatalf("port %d, index %d, traffic %d, %+v:\nfound %s\nwant  %s", port, index, traffic, q, name(gotIndex), name(want))
				}
			}
			// The next update changes some, moves some and leaves some out.
			for range w.IntN(5) {
				i := w.IntN(len(routes))
				name := routes[i].Name
				routes[i] = w.route(1000 + w.IntN(1_000_000_000))
				if w.IntN(2) == 0 {
					routes[i].Name = name
				}
			}
			if n := len(routes); n > 1 && w.IntN(2) == 0 {
				i, j := w.IntN(n), w.IntN(n)
				routes[i], routes[j] = routes[j], routes[i]
				routes = routes[w.IntN(2):]
			}
		}
	}
	t.Logf("found %d, by path %d, of these with wider patterns %d, taken over %d", found, byPath, merged, takenOver)
	if found < 3000 || byPath < 300 || merged < 100 || takenOver < 1000 {
		t.Error("too few of some for the comparison to mean anything")
	}
}

// What a path pattern begins with narrows the search. If it were longer than
// what paths that match have in common, they would not be found.
func TestPathPatternBegin(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]string{
		"": "", "/a": "/a", "/a/*": "/a/", "/a*b": "/a", "*a": "", "/?a": "/",
		"~/a": "", "~^/a": "/a", "~^/a$": "/a", "~^/a/[0-9]+": "/a/", "~^/ab?": "/a", "~^/ab*": "/a", "~^/a|/b": "", "~^/a|^/b": "", "~^(/a)": "", "~(?i)^/a": "",
		"~(?m)^/a": "", "~^/a{2}": "/", `~^/a\.b`: "/a.b", `~\A/a`: "/a", "~^": "", "~": "", "~^/(?i)a": "/", "~^(?:/a)b": "/ab", "~a^/b": "",
	} {
		p, err := newPathPattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if p.begin != want {
			t.Errorf("%q: %q, want %q", pattern, p.begin, want)
		}
	}
}

// Ports and ranges that overlap do not put a route twice into a list.
func TestTablePorts(t *testing.T) {
	t.Parallel()
	r := &route{Route: &Route{Match: Match{
		Ports:   []PortRange{{80, 80}, {79, 81}, {80, 80}},
		Domains: []string{"a.test", "a.test", "*", "*.test"},
	}}, streams: true, http: true}
	r.domains, _ = r.Match.domains()
	tab := newTable([]*route{r})
	if len(tab.ports) != 3 {
		t.Errorf("%d ports", len(tab.ports))
	}
	for port, p := range tab.ports {
		if len(p.plain.exact["a.test"].routes) != 1 || len(p.plain.any.routes) != 1 || len(p.plain.wild["test"].routes) != 1 {
			t.Errorf("port %d: %+v", port, p.plain)
		}
	}
}

// What ports have in common is there once.
func TestTablePortsShare(t *testing.T) {
	t.Parallel()
	var routes []*route
	for i, ports := range [][]PortRange{{{1000, 5000}}, {{80, 80}, {2000, 3000}}, {{80, 80}, {2000, 3000}}, {{5001, 9000}}, {{443, 443}, {8443, 8443}}} {
		routes = append(routes, &route{Route: &Route{Match: Match{Ports: ports}}, index: i, streams: true, http: true})
	}
	tab := newTable(routes)
	ports := make(map[*portRoutes]int)
	for _, p := range tab.ports {
		ports[p]++
	}
	// 1000-1999 with 3001-5000, 2000-3000, 80, 5001-8442 with 8444-9000, 443, 8443
	if len(tab.ports) != 8003 || len(ports) != 6 {
		t.Errorf("%d ports with %d sets of routes", len(tab.ports), len(ports))
	}
	for port, want := range map[int]int{80: 2, 443: 1, 1000: 1, 1999: 1, 2000: 3, 3000: 3, 3001: 1, 5000: 1, 5001: 1, 8442: 1, 8443: 2, 8444: 1, 9000: 1} {
		if got := len(tab.ports[port].plain.routes); got != want {
			t.Errorf("port %d has %d routes, want %d", port, got, want)
		}
	}
	for _, port := range []int{79, 81, 999, 9001} {
		if tab.ports[port] != nil {
			t.Errorf("port %d has routes", port)
		}
	}
}

// Routes are sorted by an order, in which none goes before itself.
func TestCompareRoutesIsAnOrder(t *testing.T) {
	t.Parallel()
	w := routeWorld{rand.New(rand.NewPCG(1, 2))}
	var routes []*route
	for i := range 60 {
		cfg := w.route(i)
		r := &route{Route: &cfg}
		r.match, _ = newMatcher(&r.Match)
		routes = append(routes, r)
	}
	for _, a := range routes {
		for _, b := range routes {
			ab := compareRoutes(a, b)
			if ab != -compareRoutes(b, a) {
				t.Fatalf("%+v and %+v go before each other", a.Match, b.Match)
			}
			for _, c := range routes {
				if bc := compareRoutes(b, c); ab <= 0 && bc <= 0 && compareRoutes(a, c) != min(ab, bc) {
					t.Fatalf("%+v, %+v, %+v go in a circle", a.Match, b.Match, c.Match)
				}
			}
		}
	}
}
