package proxy

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
)

// route is a compiled Route. It is immutable; what changes while it serves
// lives in its state and targets, which survive updates of the routing table.
type route struct {
	*Route         // the configuration, a copy of our own
	index   int    // position in the configuration; it does not follow a name
	key     string // identity across updates
	match   matcher
	domains []domain
	streams bool // may carry a stream that is not looked into
	http    bool // may carry HTTP requests

	policy   *tlsPolicy // nil unless TLS is terminated
	allow    *ipSet     // nil: everyone
	block    *ipSet
	balancer *balancer // nil unless the route forwards
	handler  http.Handler
	compress *compression // nil: responses stay as they are
	limiter  *rateLimiter // nil: no limit
	state    *routeState

	requestEdits, responseEdits edits
	fast                        bool // requests may take the fast lane
}

// routeState is what is counted and limited by route. It belongs to the
// route's identity and outlives routing tables.
type routeState struct {
	active    atomic.Int64 // streams and requests in flight
	streams   atomic.Uint64
	requests  atomic.Uint64
	responses [6]atomic.Uint64 // by status class; 0: no response was sent
	bytesIn   atomic.Uint64    // from clients
	bytesOut  atomic.Uint64    // to clients
	blocked   atomic.Uint64    // refused by Security
	queue     queue            // for a target that is not at its limit
	retries   retryBudget
}

// permits checks the client's address against the route's lists.
func (r *route) permits(client netip.Addr) bool {
	return (r.allow == nil || r.allow.contains(client)) && !r.block.contains(client)
}

// acquire takes one place of the route's limit; release gives it back.
func (r *route) acquire() bool {
	n := r.state.active.Add(1)
	if limit := r.Action.Security.MaxConnections; limit > 0 && n > int64(limit) {
		r.state.active.Add(-1)
		return false
	}
	return true
}

func (r *route) release() { r.state.active.Add(-1) }

// hasTarget reports whether the route sends traffic to t, or t is nil.
func (r *route) hasTarget(t *target) bool {
	if t == nil {
		return true
	}
	return r.balancer != nil && slices.ContainsFunc(r.balancer.entries, func(e entry) bool { return e.target.key == t.key })
}

// provoked reports whether an attempt may have failed for what the client wants.
// If that counted against the target, anybody could take it from the others.
func (r *route) provoked(e *entry, err error) bool {
	if t := asTLSError(err); t != nil && t.asked != "" {
		// The target has no certificate for every name, and servers say so in many
		// ways. But one that others do not reach either may be broken.
		return !r.names(t.asked) && (isNameError(err) || e.target.doesWell())
	}
	return isOversized(err) || isDialError(err) && e.target.key.port == PreservePort && r.hasPorts()
}

// unreached is the outcome where there is no connection and it is not provoked.
func (r *route) unreached(err error) outcome {
	if t := asTLSError(err); t != nil && t.asked != "" && !r.names(t.asked) {
		return doubtful
	}
	return unreachable
}

// hasPorts reports whether clients have a choice of ports. That one of a target's is
// closed says nothing of the others.
func (r *route) hasPorts() bool {
	return len(r.Match.Ports) > 1 || len(r.Match.Ports) == 1 && r.Match.Ports[0].To > r.Match.Ports[0].From
}

// names reports whether a server name is of the configuration's choosing.
func (r *route) names(name string) bool {
	name, ok := canonicalHost(name)
	fixed, _ := canonicalHost(r.requestEdits.set.Get("Host"))
	return ok && (slices.Contains(r.domains, domain{exactDomain, name}) || fixed == name)
}

// checkName is the name that the route asks a target for where no client does: the
// host that it sets, or else the first of its domains that is one name. It is ""
// if there is none.
func (r *route) checkName() string {
	isName := func(host string) bool { _, err := netip.ParseAddr(host); return err != nil }
	if set := r.requestEdits.set.Get("Host"); set != "" {
		if host, ok := canonicalHost(set); ok && isName(host) {
			return host
		}
		return ""
	}
	for _, d := range r.domains {
		if d.kind == exactDomain && isName(d.name) {
			return d.name
		}
	}
	return ""
}

// carries tells which traffic a route may carry, from its configuration alone.
func (r *Route) carries() (streams, http bool) {
	a := &r.Action
	h := &a.Headers
	switch {
	case a.SocketHandler != nil || a.TLS != nil && a.TLS.Mode == Passthrough:
		return true, false
	case a.Handler != nil || a.Type == Redirect || a.Type == Serve || r.Match.isHTTP(),
		!h.Request.isZero(), !h.Response.isZero(),
		a.Security.RateLimit != nil, a.LoadBalancing.Sticky != nil, a.Compression != nil, a.upstreamHTTP2() != "":
		return false, true
	case r.Match.Protocol == "tcp" && (a.TLS != nil || !r.Match.hasDomains()):
		return true, false
	}
	return true, true
}

// takesStreams reports whether the route may carry streams on a port where, if
// strict is set, they have to be asked for.
func (r *route) takesStreams(strict bool) bool {
	return r.streams && (!strict || !r.http || r.Match.Protocol == "tcp")
}

// hasDomains reports whether the route is limited to certain domains.
func (m *Match) hasDomains() bool {
	return len(m.Domains) > 0 && !slices.Contains(m.Domains, "*")
}

func (e *HeaderEdit) isZero() bool {
	return len(e.Set) == 0 && len(e.Add) == 0 && len(e.Remove) == 0
}

// terminatesTLS reports whether clients' TLS ends here.
func (r *Route) terminatesTLS() bool {
	return r.Action.TLS != nil && r.Action.TLS.Mode != Passthrough
}

func (r *Route) enabled() bool { return r.Enabled == nil || *r.Enabled }

// compareRoutes orders the routes of one domain pattern: priority, routes for
// TLS before those that would take it as any other stream, path, number of
// conditions. What is equal stays in the order given.
func compareRoutes(a, b *route) int {
	// Not cmp.Or, which evaluates all of it: this is called a million times for
	// an update of many routes.
	if c := cmp.Compare(b.Priority, a.Priority); c != 0 {
		return c
	}
	if tls := a.Action.TLS != nil; tls != (b.Action.TLS != nil) {
		if tls {
			return -1
		}
		return 1
	}
	if c := cmp.Compare(b.match.path.kind, a.match.path.kind); c != 0 {
		return c
	}
	if c := cmp.Compare(len(b.match.path.exact), len(a.match.path.exact)); c != 0 {
		return c
	}
	return cmp.Compare(b.match.conditions(), a.match.conditions())
}

// conditions counts the kinds of conditions beside domain and path.
func (m *matcher) conditions() int {
	n := len(m.headers) + len(m.query)
	if len(m.methods) > 0 {
		n++
	}
	if m.clients != nil {
		n++
	}
	return n
}
