package proxy

import "strings"

// hostIndex finds routes by host, then by path. How long that takes does not
// depend on how many routes there are, but for those that only other conditions
// tell apart.
type hostIndex struct {
	routes []*route // all, in the order of compareRoutes
	exact  map[string]*bucket
	wild   map[string]*bucket // by what follows "*."
	any    *bucket
	fast   bool // some requests may take the fast lane
	// strict says that some route of the port is about HTTP alone. What it protects
	// must not be reached by a stream that the target takes for HTTP, though it is
	// none, so streams are only for routes that take nothing else or ask for them.
	strict bool
}

// bucket has the routes of one domain pattern, in the order of compareRoutes.
type bucket struct {
	routes  []*route
	one     [1]*route  // what routes is made of if there is but one, as most often
	streams []*route   // those that may carry streams
	paths   *pathIndex // those that may carry HTTP; nil if they are few
	wider   *bucket    // of the next wider pattern for the same hosts, or nil

	manyStreams, manyHTTP int
}

// fewRoutes are found fastest by looking at one after the other.
const fewRoutes = 8

// add puts r behind all routes that are there.
func (x *hostIndex) add(r *route) {
	x.routes = append(x.routes, r)
	x.fast = x.fast || r.fast
}

// compile makes the index of the routes that have been added.
func (x *hostIndex) compile() {
	x.exact, x.wild = make(map[string]*bucket), make(map[string]*bucket)
	for _, r := range x.routes {
		if len(r.domains) == 0 {
			x.bucket(anyDomain, "").add(r, x.strict)
		}
		for _, d := range r.domains {
			x.bucket(d.kind, d.name).add(r, x.strict)
		}
	}
	if x.any != nil {
		x.any.compile(nil, x.strict)
	}
	for _, b := range x.wild {
		b.compile(x.any, x.strict)
	}
	for name, b := range x.exact {
		b.compile(x.wildcard(name), x.strict)
	}
}

// bucket returns the bucket of a pattern, which is a new one if need be.
func (x *hostIndex) bucket(kind domainKind, name string) *bucket {
	if kind == anyDomain {
		if x.any == nil {
			x.any = newBucket()
		}
		return x.any
	}
	names := x.exact
	if kind == wildDomain {
		names = x.wild
	}
	b := names[name]
	if b == nil {
		b = newBucket()
		names[name] = b
	}
	return b
}

func newBucket() *bucket {
	b := new(bucket)
	b.routes = b.one[:0]
	return b
}

func (b *bucket) add(r *route, strict bool) {
	n := len(b.routes)
	if b.routes = appendRoute(b.routes, r); len(b.routes) == n {
		return
	}
	if r.takesStreams(strict) {
		b.manyStreams++
	}
	if r.http {
		b.manyHTTP++
	}
}

func (b *bucket) compile(wider *bucket, strict bool) {
	b.wider = wider
	b.streams = b.routes
	if b.manyStreams < len(b.routes) {
		b.streams = filter(b.routes, b.manyStreams, func(r *route) bool { return r.takesStreams(strict) })
	}
	if b.manyHTTP > fewRoutes {
		b.paths = newPathIndex(filter(b.routes, b.manyHTTP, func(r *route) bool { return r.http }))
	}
}

// filter returns those n routes of list that are wanted.
func filter(list []*route, n int, want func(*route) bool) []*route {
	some := make([]*route, 0, n)
	for _, r := range list {
		if want(r) {
			some = append(some, r)
		}
	}
	return some
}

// find returns the route for q, or nil. Of the best routes of all domain
// patterns that match, it is the one with the highest priority, and among those
// with the same priority that of the narrowest pattern.
func (x *hostIndex) find(q *query, traffic int) *route {
	var best *route
	for b := x.narrowest(q.host); b != nil; b = b.wider {
		if best != nil && best.Priority >= b.routes[0].Priority {
			continue
		}
		if r := b.find(q, traffic); r != nil && (best == nil || r.Priority > best.Priority) {
			best = r
		}
	}
	return best
}

// narrowest returns the routes of the narrowest pattern that matches host.
func (x *hostIndex) narrowest(host string) *bucket {
	if host == "" {
		return x.any
	}
	if b := x.exact[host]; b != nil {
		return b
	}
	return x.wildcard(host)
}

// wildcard is narrowest without regard to exact names.
func (x *hostIndex) wildcard(host string) *bucket {
	if len(x.wild) > 0 {
		if _, parent, ok := strings.Cut(host, "."); ok {
			if b := x.wild[parent]; b != nil {
				return b
			}
		}
	}
	return x.any
}

// find returns the first route of the bucket that takes q, or nil.
func (b *bucket) find(q *query, traffic int) *route {
	list := b.routes
	switch {
	case traffic == streamTraffic, traffic == opaqueTraffic:
		list = b.streams
	case traffic == httpTraffic && q.http && b.paths != nil:
		return b.paths.find(q)
	}
	for _, r := range list {
		if r.takes(q, traffic) {
			return r
		}
	}
	return nil
}

// takes reports whether all conditions hold, domain and port aside. That r takes
// streams, if q is one, is known.
func (r *route) takes(q *query, traffic int) bool {
	if traffic == opaqueTraffic && r.http || traffic == httpTraffic && !r.http {
		return false
	}
	return r.match.matchesClient(q.client) && (!q.http || r.match.matchesRequest(q))
}
