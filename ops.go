package dcrouter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/opsapi/dashboard"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// setUpLogs puts a buffer in front of the host's log where the operations API
// is to show it. It comes first: all subsystems log through it.
func (r *Router) setUpLogs() {
	if r.config.Ops == nil {
		return
	}
	var next slog.Handler
	if r.log != nil {
		next = r.log.Handler()
	}
	r.logs = opsapi.NewLogBuffer(next)
	r.log = slog.New(r.logs)
}

// setUpOps makes the operations API, which sees all other subsystems. It comes
// last.
func (r *Router) setUpOps(o *options) error {
	if r.config.Ops == nil {
		return nil
	}
	registry := prometheus.NewRegistry()
	// The process's own figures are here and not in Collector: a host that collects
	// that has them already.
	for _, c := range []prometheus.Collector{r.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	configuration, err := newOpsConfiguration(r)
	if err != nil {
		return err
	}
	all := []opsapi.Option{
		opsapi.WithLogger(r.log), opsapi.WithLogs(r.logs), opsapi.WithSockets(&r.sockets),
		opsapi.WithStats(func() any { return r.Stats() }),
		opsapi.WithLimits(r.opsLimits),
		opsapi.WithHealth(r.health),
		opsapi.WithMetrics(&metricsHandler{next: promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})}),
		opsapi.WithConfiguration(configuration),
		opsapi.WithRoutesAt("smartProxyConfig", "routes"),
		opsapi.WithDashboard(dashboard.Files()),
	}
	if r.email != nil {
		all = append(all, opsapi.WithMailQueue(opsMail{r.email}), opsapi.WithSuppression(opsSuppression{r.email}), opsapi.WithMailDomains(opsDomains{r.email}))
		if lists := r.limited.Email.IPReputation; lists != nil {
			checker, err := email.NewReputationChecker(*lists, append([]email.Option{email.WithLogger(r.log)}, o.email...)...)
			if err != nil {
				return inSection("emailConfig.ipReputation", "email", err)
			}
			all = append(all, opsapi.WithReputation(opsReputation{checker}))
		}
	}
	if r.dns != nil {
		all = append(all, opsapi.WithDNS(opsDNS{r.dns}))
	}
	if c := (opsCertificates{r}); c.has() {
		all = append(all, opsapi.WithCertificates(c))
	}
	if r.radius != nil {
		all = append(all, opsapi.WithRADIUS(opsRADIUS{r.radius}))
	}
	if r.blocking != nil {
		all = append(all, opsapi.WithBlocks(opsBlocks{r}))
	}
	r.ops, err = opsapi.New(*r.config.Ops, append(all, o.ops...)...)
	return inSection("opsServerConfig", "operations API", err)
}

// Ops returns the operations API, or nil if none is configured.
func (r *Router) Ops() *opsapi.Server { return r.ops }

// opsConfiguration is the configuration as the operations API changes it.
type opsConfiguration struct {
	router *Router
	given  json.RawMessage
	mu     sync.Mutex // held while it is changed

	codeMu sync.Mutex
	code   map[string]routeCode // of routes with code that there are or were, by name
	learnt uint64               // how often it was looked for
}

// routeCode is a route's action that is code.
type routeCode struct {
	proxy.Action
	seen uint64 // when it was in force last, by learnt
}

// maxRouteCode is how many routes with code are remembered that are in force no more.
const maxRouteCode = 1000

func newOpsConfiguration(r *Router) (*opsConfiguration, error) {
	given, err := conf.Encode(canonical(r.config), true)
	if err != nil {
		return nil, err
	}
	o := &opsConfiguration{router: r, given: given}
	o.learnCode()
	return o, nil
}

// canonical is a configuration in the form in which two that mean the same are
// the same: a section about nothing but routes, of which there are none, is
// none.
func canonical(c Config) Config {
	if c.Proxy != nil && reflect.DeepEqual(*c.Proxy, proxy.Config{}) {
		c.Proxy = nil
	}
	return c
}

// live is the configuration in force.
func (o *opsConfiguration) live() Config {
	r := o.router
	c := r.config
	var p proxy.Config
	if c.Proxy != nil {
		p = *c.Proxy
	}
	p.Routes = r.Routes()
	if len(p.Routes) == 0 {
		p.Routes = nil
	}
	c.Proxy = &p
	if r.email != nil {
		e := *c.Email
		e.Routes = r.email.Routes()
		c.Email = &e
	}
	if r.radius != nil {
		s, policy := *c.RADIUS, r.radius.Policy()
		s.MACAuth, s.VLANAssignment = policy.MACAuth, policy.VLANAssignment
		c.RADIUS = &s
	}
	return canonical(c)
}

// Given returns the configuration that the Router was made with.
func (o *opsConfiguration) Given(context.Context) (json.RawMessage, error) { return o.given, nil }

// Current returns the configuration in force.
func (o *opsConfiguration) Current(context.Context) (json.RawMessage, error) {
	return conf.Encode(o.live(), true)
}

// read decodes what Current or Parse has written.
func (o *opsConfiguration) read(doc json.RawMessage) (Config, error) {
	var c Config
	err := conf.Decode(doc, &c)
	return c, err
}

// Parse reads a configuration and validates it. Of what can change only at a
// start it refuses a change.
func (o *opsConfiguration) Parse(ctx context.Context, doc, prev json.RawMessage) (json.RawMessage, error) {
	before, err := o.read(prev)
	if err != nil {
		return nil, err
	}
	c, err := o.read(doc)
	if err != nil {
		return nil, err
	}
	if err := c.KeepSecrets(before); err != nil {
		return nil, err
	}
	c = canonical(c)
	o.keepCode(&c)
	if err := errors.Join(c.Validate(), o.onlyLive(before, c), onlyKnownFiles(ctx, before, c)); err != nil {
		return nil, err
	}
	return conf.Encode(c, true)
}

// learnCode remembers the code of the routes in force, by which they come back when
// their removal is taken back, and forgets what was in force longest ago.
func (o *opsConfiguration) learnCode() {
	o.learnt++
	for _, rt := range o.router.Routes() {
		a := rt.Action
		if rt.Name == "" || a.Handler == nil && a.SocketHandler == nil && !slices.ContainsFunc(a.Targets, func(t proxy.Target) bool { return t.PortFunc != nil }) {
			continue
		}
		if o.code == nil {
			o.code = map[string]routeCode{}
		}
		o.code[rt.Name] = routeCode{a, o.learnt}
	}
	var gone []string
	for name, c := range o.code {
		if c.seen < o.learnt {
			gone = append(gone, name)
		}
	}
	if len(gone) <= maxRouteCode {
		return
	}
	slices.SortFunc(gone, func(x, y string) int { return cmp.Compare(o.code[x].seen, o.code[y].seen) })
	for _, name := range gone[:len(gone)-maxRouteCode] {
		delete(o.code, name)
	}
}

// keepCode gives routes the code of the host that has no form in JSON, by their
// names.
func (o *opsConfiguration) keepCode(c *Config) {
	if c.Proxy == nil {
		return
	}
	o.codeMu.Lock()
	defer o.codeMu.Unlock()
	o.learnCode()
	for i := range c.Proxy.Routes {
		rt := &c.Proxy.Routes[i]
		had, ok := o.code[rt.Name]
		if !ok {
			continue
		}
		if rt.Action.Type == "" { // else it is another one of that name
			rt.Action.Handler, rt.Action.SocketHandler = had.Handler, had.SocketHandler
		}
		for j := range rt.Action.Targets {
			if j < len(had.Targets) && had.Targets[j].PortFunc != nil && rt.Action.Targets[j].Port == had.Targets[j].Port {
				rt.Action.Targets[j].PortFunc = had.Targets[j].PortFunc
			}
		}
	}
}

// onlyLive finds changes of what cannot change while the Router runs.
func (o *opsConfiguration) onlyLive(before, after Config) error {
	check := conf.NewChecker()
	fixed := func(c Config) map[string]any {
		var p proxy.Config
		if c.Proxy != nil {
			p = *c.Proxy
		}
		p.Routes = nil
		var e email.Config
		if c.Email != nil {
			e = *c.Email
		}
		e.Routes = nil
		var s radius.Config
		if c.RADIUS != nil {
			s = *c.RADIUS
		}
		s.MACAuth, s.VLANAssignment = nil, nil
		rest := c
		rest.Proxy, rest.Email, rest.RADIUS = nil, nil, nil
		return map[string]any{"smartProxyConfig": p, "emailConfig": e, "radiusConfig": s, "": rest}
	}
	was, is := fixed(before), fixed(after)
	for section, v := range was {
		a, errA := conf.Encode(v, true)
		b, errB := conf.Encode(is[section], true)
		if errA != nil || errB != nil || string(a) != string(b) {
			at := check
			if section != "" {
				at = check.Field(section)
			}
			at.Errorf("only routes and the RADIUS policy can change while the Router runs: change the rest where the host keeps it, and start again")
		}
	}
	if (before.Email == nil) != (after.Email == nil) {
		check.Field("emailConfig").Errorf("comes and goes at a start only")
	}
	if (before.RADIUS == nil) != (after.RADIUS == nil) {
		check.Field("radiusConfig").Errorf("comes and goes at a start only")
	}
	return check.Err()
}

// Redact returns a configuration with *** for secrets.
func (o *opsConfiguration) Redact(doc json.RawMessage) (json.RawMessage, error) {
	c, err := o.read(doc)
	if err != nil {
		return nil, err
	}
	return conf.Encode(c, false)
}

// Apply makes a configuration take effect, as UpdateRoutes and the like do. On
// an error it takes back what it has done.
func (o *opsConfiguration) Apply(ctx context.Context, doc json.RawMessage) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	next, err := o.read(doc)
	if err != nil {
		return err
	}
	o.keepCode(&next)
	before := o.live()
	steps := []func(context.Context, Config) error{o.applyProxy, o.applyEmail, o.applyRADIUS}
	for i, step := range steps {
		err := step(ctx, next)
		if err == nil {
			continue
		}
		// It may be that the time of ctx was over: what was is brought back all the
		// same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
		defer cancel()
		for _, done := range slices.Backward(steps[:i+1]) {
			err = errors.Join(err, done(ctx, before))
		}
		return err
	}
	return nil
}

// takeBackTime bounds how long it may take to bring back what was.
const takeBackTime = 30 * time.Second

func (o *opsConfiguration) applyProxy(ctx context.Context, c Config) error {
	var routes []proxy.Route
	if c.Proxy != nil {
		routes = c.Proxy.Routes
	}
	if same(routes, o.router.Routes()) {
		return nil
	}
	if err := o.router.UpdateRoutes(ctx, routes); err != nil || len(o.router.proxy.Addrs()) > 0 {
		return err
	}
	// Before the start it has set them and no more. That they cannot be served is an
	// error here, so that those of the host are, and not the end of the start.
	return o.router.routesError(len(routes), errors.Join(o.router.proxy.Unready(), o.router.proxy.Check()))
}

func (o *opsConfiguration) applyEmail(ctx context.Context, c Config) error {
	if o.router.email == nil || c.Email == nil || same(c.Email.Routes, o.router.email.Routes()) {
		return nil
	}
	return o.router.UpdateDomainRules(ctx, c.Email.Routes)
}

func (o *opsConfiguration) applyRADIUS(ctx context.Context, c Config) error {
	if o.router.radius == nil || c.RADIUS == nil {
		return nil
	}
	policy := radius.Policy{MACAuth: c.RADIUS.MACAuth, VLANAssignment: c.RADIUS.VLANAssignment}
	if same(policy, o.router.radius.Policy()) {
		return nil
	}
	return inSection("radiusConfig", "radius", o.router.radius.UpdatePolicy(ctx, policy))
}

// same reports whether two parts of a configuration are written alike.
func same[T any](a, b T) bool {
	type holder struct{ V T }
	x, errX := conf.Encode(holder{a}, true)
	y, errY := conf.Encode(holder{b}, true)
	return errX == nil && errY == nil && string(x) == string(y)
}
