package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"

	"github.com/dcrouter/dcrouter/internal/certfile"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// assembly is a routing table in the making. Nothing that serves traffic is
// touched before commit.
type assembly struct {
	p        *Proxy
	table    *table
	round    uint64                // marks the targets that are in use
	fresh    map[targetKey]*target // those that the Proxy does not have
	healths  map[healthKey]*health
	circuits map[*target][]*circuit
	policies map[tlsPolicyKey]*tlsPolicy
	limiters map[rateLimiterKey]*rateLimiter
	loaded   map[policyFiles]*tlsPolicy
	files    map[*tlsPolicy]*certfile.Pair
	dead     map[namedTarget]bool // by any check; nil until asked for
	serving  bool
}

// assemble compiles routes that have been validated. It reads the files they
// name and takes over what the Proxy has in use already.
func (p *Proxy) assemble(routes []*Route) (*assembly, error) {
	p.rounds++
	a := &assembly{
		p:        p,
		round:    p.rounds,
		fresh:    make(map[targetKey]*target),
		healths:  make(map[healthKey]*health),
		circuits: make(map[*target][]*circuit),
		policies: make(map[tlsPolicyKey]*tlsPolicy),
		limiters: make(map[rateLimiterKey]*rateLimiter),
		loaded:   make(map[policyFiles]*tlsPolicy),
		files:    make(map[*tlsPolicy]*certfile.Pair),
		serving:  p.current() != nil,
	}
	known := maps.Clone(p.policies)
	if known == nil {
		known = make(map[tlsPolicyKey]*tlsPolicy)
	}
	compiled := make([]*route, 0, len(routes))
	var problems []error
	for i := range routes {
		if !routes[i].enabled() {
			continue
		}
		r, err := a.route(i, routes[i], known)
		if err != nil {
			problems = append(problems, conf.Prefix(fmt.Sprintf("routes[%d]", i), err))
			continue
		}
		compiled = append(compiled, r)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	a.table = newTable(compiled)
	if p.table != nil {
		a.table.version = p.table.version + 1
	}
	for _, port := range a.table.ports {
		port.quic = p.cfg.HTTP3.Enabled && port.secureHTTP
	}
	return a, nil
}

// route compiles one route.
func (a *assembly) route(index int, cfg *Route, known map[tlsPolicyKey]*tlsPolicy) (*route, error) {
	key := cfg.identity()
	old := a.p.table.find(key, index)
	if old != nil && old.Route == cfg && !cfg.readsFiles() {
		a.keep(old)
		return old, nil
	}
	r := &route{Route: cfg, index: index, key: key}
	r.streams, r.http = cfg.carries()
	r.domains, _ = cfg.Match.domains()
	r.requestEdits, r.responseEdits = compileEdits(&cfg.Action.Headers.Request), compileEdits(&cfg.Action.Headers.Response)
	// Before the balancer, which looks at it.
	if old != nil {
		r.state = old.state
	} else if r.state = a.p.orphans[key]; r.state == nil {
		r.state = new(routeState)
		r.state.queue.proxy = a.p
	}
	act := &cfg.Action
	var errs [7]error
	if act.Type == Serve {
		if info, err := os.Stat(act.Root); err == nil && !info.IsDir() {
			errs[5] = &FieldError{Path: "action.root", Msg: act.Root + " is not a folder"}
		}
	}
	r.match, errs[0] = newMatcher(&cfg.Match)
	r.allow, errs[1] = newIPSet(act.Security.IPAllowList)
	r.block, errs[2] = newIPSet(act.Security.IPBlockList)
	if r.terminatesTLS() {
		r.policy, errs[3] = a.policy(act.TLS, known)
		errs[3] = conf.Prefix("action.tls", errs[3])
	}
	switch {
	case act.Handler != nil:
		r.handler = act.Handler
	case act.Type == Forward:
		r.balancer, errs[4] = a.balancer(r, old)
		errs[4] = conf.Prefix("action.tls", errs[4])
		r.handler = a.p.forwarder
	case act.Type == Redirect:
		r.handler = redirect(act.Redirect)
	case act.Type == Serve:
		r.handler = static(act.Root)
	}
	if act.Compression != nil {
		r.compress, errs[6] = newCompression(act.Compression, &a.p.encoders)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	r.fast = act.Type == Forward && r.compress == nil && act.upstreamHTTP2() == ""
	if limit := act.Security.RateLimit; limit != nil {
		r.limiter = a.limiter(rateLimiterKey{r.key, *limit})
	}
	return r, nil
}

// keep takes over a route of the last table, whose configuration has not
// changed, with all that belongs to it.
func (a *assembly) keep(r *route) {
	if r.policy != nil {
		a.policies[r.policy.key] = r.policy
	}
	if r.limiter != nil {
		a.limiters[rateLimiterKey{r.key, *r.Action.Security.RateLimit}] = r.limiter
	}
	if r.balancer != nil {
		for i := range r.balancer.entries {
			e := &r.balancer.entries[i]
			e.target.round = a.round
			if h := e.health; h != nil {
				a.healths[healthKey{e.target.key, h.check, h.name}] = h
			}
			if c := e.circuit; c != nil && !slices.Contains(a.circuits[e.target], c) {
				a.circuits[e.target] = append(a.circuits[e.target], c)
			}
		}
	}
}

// readsFiles reports whether a route is to be compiled anew because files that
// it names may have changed.
func (r *Route) readsFiles() bool {
	t := r.Action.TLS
	return r.Action.Type == Serve || t != nil && (t.Certificate.CertPath != "" || t.ClientAuth != nil || t.Upstream.CAPath != "")
}

// policyFiles is what policies are loaded from.
type policyFiles struct {
	certificate Certificate
	clientCA    string
}

// policy returns the policy for t. Files are read once an update, however many
// routes name them.
func (a *assembly) policy(t *TLS, known map[tlsPolicyKey]*tlsPolicy) (*tlsPolicy, error) {
	files := policyFiles{certificate: t.Certificate}
	if t.ClientAuth != nil {
		files.clientCA = t.ClientAuth.CAPath
	}
	if policy := a.loaded[files]; policy != nil {
		return policy, nil
	}
	policy, pair, err := a.p.loadPolicy(t, known)
	if err != nil {
		return nil, err
	}
	a.loaded[files], a.policies[policy.key] = policy, policy
	if pair != nil {
		a.files[policy] = pair
	}
	return policy, nil
}

// limiter returns the limiter of a route.
func (a *assembly) limiter(key rateLimiterKey) *rateLimiter {
	l := a.limiters[key]
	if l == nil {
		l = a.p.limiters[key]
	}
	if l == nil {
		l = newRateLimiter(key.limit)
	}
	a.limiters[key] = l
	return l
}

// identity tells the same route in another configuration. That of a route
// without a name begins with a line break, which no name has.
func (r *Route) identity() string {
	if r.Name != "" {
		return r.Name
	}
	b := append(make([]byte, 0, 256), '\n')
	b = appendTexts(r.appendMatchKey(b), r.Match.Domains)
	for _, p := range r.Match.Ports {
		b = append(strconv.AppendInt(b, int64(p.From), 10), '-')
		b = append(strconv.AppendInt(b, int64(p.To), 10), ' ')
	}
	return string(b)
}

func newMatcher(m *Match) (matcher, error) {
	var c matcher
	var err error
	if c.clients, err = newIPSet(m.ClientIP); err != nil {
		return c, err
	}
	if c.path, err = newPathPattern(m.Path); err != nil {
		return c, err
	}
	c.methods = slices.Clone(m.Methods)
	for name, value := range sorted(m.Headers) {
		pattern, err := glob.Parse(value)
		if err != nil {
			return c, err
		}
		c.headers = append(c.headers, valuePattern{http.CanonicalHeaderKey(name), pattern})
	}
	for name, value := range sorted(m.Query) {
		pattern, err := glob.Parse(value)
		if err != nil {
			return c, err
		}
		c.query = append(c.query, valuePattern{name, pattern})
	}
	return c, nil
}

// balancer makes the balancer of a route. old is what the route was before, or
// nil.
func (a *assembly) balancer(r, old *route) (*balancer, error) {
	act := &r.Action
	base := targetKey{udp: r.Match.Protocol == "udp", protocol: act.upstreamHTTP2()}
	var tlsConfig *tls.Config
	if act.TLS != nil && act.TLS.Mode == TerminateAndReencrypt {
		var err error
		if tlsConfig, base.caPEM, err = act.TLS.Upstream.config(); err != nil {
			return nil, err
		}
		base.reencrypt, base.upstream = true, act.TLS.Upstream
	}
	if act.ProxyProtocol != nil {
		base.proxyVersion = act.ProxyProtocol.Send
	}
	var before []entry
	if old != nil && old.balancer != nil {
		before = old.balancer.entries
	}
	entries := make([]entry, 0, len(act.Targets))
	for i, cfg := range act.Targets {
		key := base
		key.host, _ = configuredHost(cfg.Host)
		key.port = cfg.Port
		if cfg.PortFunc != nil {
			key.port = PreservePort
		}
		var t *target
		if i < len(before) && before[i].target.key == key {
			t = before[i].target // as most often, and found fastest
		} else if t = a.p.targets[key]; t == nil {
			t = a.fresh[key]
		}
		if t == nil {
			t = a.p.newTarget(key, tlsConfig)
			if a.serving {
				t.returned() // among others that are warm
			}
			a.fresh[key] = t
		}
		t.round = a.round
		e := entry{target: t, weight: max(cfg.Weight, 1), portFunc: cfg.PortFunc}
		if check := act.LoadBalancing.HealthCheck; check != nil {
			e.health = a.health(t, check.withDefaults(), r.checkName())
		}
		if breaker := act.LoadBalancing.CircuitBreaker; breaker != nil {
			e.circuit = a.circuit(t, breaker.settings())
		}
		entries = append(entries, e)
	}
	return newBalancer(&act.LoadBalancing, entries, r.state), nil
}

// health returns the health of a target by a check. name is that to expect of the
// target with TLS, if it is up to clients.
func (a *assembly) health(t *target, check HealthCheck, name string) *health {
	if t.tls == nil || !t.namedByClients() {
		name = ""
	}
	key := healthKey{t.key, check, name}
	h := a.healths[key]
	if h == nil {
		h = a.p.healths[key]
	}
	if h == nil {
		h = &health{target: t, check: check, name: name}
		// A new check of a target that is known to be dead begins there.
		h.bad.Store(a.isDead(t, name))
	}
	a.healths[key] = h
	return h
}

// isDead reports whether any check that may ask for that name has found t dead.
func (a *assembly) isDead(t *target, name string) bool {
	if a.dead == nil {
		a.dead = make(map[namedTarget]bool)
		for _, h := range a.p.healths {
			if h.bad.Load() {
				a.dead[namedTarget{h.target, h.name}] = true
			}
		}
	}
	return a.dead[namedTarget{t, name}]
}

// namedTarget is a target as a health check sees it.
type namedTarget struct {
	*target
	name string
}

// commit makes the assembly the Proxy's. It cannot fail.
func (a *assembly) commit() {
	p := a.p
	for policy, pair := range a.files {
		policy.files.Store(pair)
	}
	// What is still in use outlives the table, so that a route or target that
	// comes back meanwhile finds its counts.
	orphans := make(map[string]*routeState)
	orphan := func(key string, s *routeState) {
		if s.active.Load() > 0 && a.table.byKey[key] == nil {
			orphans[key] = s
		}
	}
	for key, s := range p.orphans {
		orphan(key, s)
	}
	if p.table != nil {
		for _, r := range p.table.routes {
			orphan(r.key, r.state)
		}
	}
	for key, t := range p.targets {
		retired := t.round != a.round
		t.conns.retire(retired)
		if retired {
			if t.h2 != nil {
				t.h2.CloseIdleConnections()
			}
			if t.active.Load() > 0 {
				a.circuits[t] = t.circuits
			} else {
				delete(p.targets, key)
			}
		}
	}
	maps.Copy(p.targets, a.fresh)
	for key, h := range p.healths {
		if a.healths[key] == nil && h.stop != nil {
			h.stop()
		}
	}
	p.table, p.orphans = a.table, orphans
	p.healths, p.policies, p.limiters = a.healths, a.policies, a.limiters
	a.settle()
}

// startChecks begins to watch targets that are not watched yet.
func (r *run) startChecks() {
	for _, h := range r.p.healths {
		if h.stop != nil {
			continue
		}
		var ctx context.Context
		ctx, h.stop = context.WithCancel(r.ctx)
		r.working.Add(1)
		go func() {
			defer r.working.Done()
			h.watch(ctx, r.log)
		}()
	}
}
