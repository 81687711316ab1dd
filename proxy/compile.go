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

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/glob"
)

// assembly is a routing table in the making. Nothing that serves traffic is
// touched before commit.
type assembly struct {
	p        *Proxy
	table    *table
	states   map[string]*routeState
	targets  map[targetKey]*target
	healths  map[healthKey]*health
	circuits map[*target][]*circuit
	policies map[tlsPolicyKey]*tlsPolicy
	certs    map[*tlsPolicy]*tls.Certificate
}

// assemble compiles routes that have been validated. It reads the files they
// name and takes over what the Proxy has in use already.
func (p *Proxy) assemble(routes []Route) (*assembly, error) {
	a := &assembly{
		p:        p,
		states:   make(map[string]*routeState),
		targets:  make(map[targetKey]*target),
		healths:  make(map[healthKey]*health),
		circuits: make(map[*target][]*circuit),
		policies: make(map[tlsPolicyKey]*tlsPolicy),
		certs:    make(map[*tlsPolicy]*tls.Certificate),
	}
	known := maps.Clone(p.policies)
	if known == nil {
		known = make(map[tlsPolicyKey]*tlsPolicy)
	}
	var compiled []*route
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
	return a, nil
}

// route compiles one route.
func (a *assembly) route(index int, cfg Route, known map[tlsPolicyKey]*tlsPolicy) (*route, error) {
	r := &route{Route: cfg, index: index, key: cfg.identity()}
	r.streams, r.http = cfg.carries()
	r.state = a.state(r.key)
	for _, d := range cfg.Match.Domains {
		kind, name, _ := domainPattern(d)
		r.domains = append(r.domains, domain{kind, name})
	}
	act := &cfg.Action
	var errs [6]error
	if act.Type == Serve {
		if info, err := os.Stat(act.Root); err == nil && !info.IsDir() {
			errs[5] = &FieldError{Path: "action.root", Msg: act.Root + " is not a folder"}
		}
	}
	r.match, errs[0] = newMatcher(&cfg.Match)
	r.allow, errs[1] = newIPSet(act.Security.IPAllowList)
	r.block, errs[2] = newIPSet(act.Security.IPBlockList)
	if r.terminatesTLS() {
		var cert *tls.Certificate
		r.policy, cert, errs[3] = a.p.loadPolicy(act.TLS, known)
		errs[3] = conf.Prefix("action.tls", errs[3])
		if r.policy != nil {
			a.policies[r.policy.key] = r.policy
			if cert != nil {
				a.certs[r.policy] = cert
			}
		}
	}
	switch {
	case act.Handler != nil:
		r.handler = act.Handler
	case act.Type == Forward:
		r.balancer, errs[4] = a.balancer(act, r.state)
		errs[4] = conf.Prefix("action.tls", errs[4])
		r.handler = a.p.forwarder
	case act.Type == Redirect:
		r.handler = redirect(act.Redirect)
	case act.Type == Serve:
		r.handler = static(act.Root)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return r, nil
}

// state returns the state of the route with this identity.
func (a *assembly) state(key string) *routeState {
	s := a.p.states[key]
	if s == nil {
		if s = a.states[key]; s == nil {
			s = new(routeState)
			s.queue.proxy = a.p
		}
	}
	a.states[key] = s
	return s
}

// identity tells the same route in another configuration.
func (r *Route) identity() string {
	if r.Name != "" {
		return "name:" + r.Name
	}
	return fmt.Sprintf("match:%s %v %v", r.matchKey(), r.Match.Ports, r.Match.Domains)
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

func (a *assembly) balancer(act *Action, state *routeState) (*balancer, error) {
	base := targetKey{}
	var tlsConfig *tls.Config
	if act.TLS != nil && act.TLS.Mode == TerminateAndReencrypt {
		var err error
		if tlsConfig, base.caPEM, err = act.TLS.Upstream.config(); err != nil {
			return nil, err
		}
		base.reencrypt, base.upstream = true, act.TLS.Upstream
	}
	serving := a.p.current() != nil
	var entries []entry
	for _, cfg := range act.Targets {
		key := base
		key.host, _ = configuredHost(cfg.Host)
		key.port = cfg.Port
		if cfg.PortFunc != nil {
			key.port = PreservePort
		}
		t := a.targets[key]
		if t == nil {
			t = a.p.targets[key]
		}
		if t == nil {
			t = a.p.newTarget(key, tlsConfig)
			if serving {
				t.returned() // among others that are warm
			}
		}
		a.targets[key] = t
		e := entry{target: t, weight: max(cfg.Weight, 1), portFunc: cfg.PortFunc}
		if check := act.LoadBalancing.HealthCheck; check != nil {
			e.health = a.health(t, check.withDefaults())
		}
		if breaker := act.LoadBalancing.CircuitBreaker; breaker != nil {
			e.circuit = a.circuit(t, breaker.settings())
		}
		entries = append(entries, e)
	}
	return newBalancer(&act.LoadBalancing, entries, state), nil
}

// health returns the health of a target by a check.
func (a *assembly) health(t *target, check HealthCheck) *health {
	key := healthKey{t.key, check}
	h := a.healths[key]
	if h == nil {
		h = a.p.healths[key]
	}
	if h == nil {
		h = &health{target: t, check: check}
		// A new check of a target that is known to be dead begins there.
		for _, other := range a.p.healths {
			if other.target == t && other.bad.Load() {
				h.bad.Store(true)
			}
		}
	}
	a.healths[key] = h
	return h
}

// commit makes the assembly the Proxy's. It cannot fail.
func (a *assembly) commit() {
	p := a.p
	for policy, cert := range a.certs {
		policy.cert.Store(cert)
	}
	// What is still in use outlives the table, so that a route or target that
	// comes back meanwhile finds its counts.
	for key, s := range p.states {
		if a.states[key] == nil && s.active.Load() > 0 {
			a.states[key] = s
		}
	}
	for key, t := range p.targets {
		if a.targets[key] == nil {
			t.pool.CloseIdleConnections()
			if t.active.Load() > 0 {
				a.targets[key] = t
				a.circuits[t] = t.circuits
			}
		}
	}
	for key, h := range p.healths {
		if a.healths[key] == nil && h.stop != nil {
			h.stop()
		}
	}
	a.settle()
	p.states, p.targets, p.healths, p.policies = a.states, a.targets, a.healths, a.policies
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
