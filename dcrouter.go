package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/certs"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/sockets"
	"github.com/dcrouter/dcrouter/storage"
)

// Router is the gateway: every configured subsystem, started and stopped
// together. Make one with [New]. Its methods may be called from several
// goroutines.
type Router struct {
	config   Config // routes aside, which the proxy keeps
	limited  Config // the same with its Limits in the sections
	log      *slog.Logger
	backend  storage.Backend
	sockets  sockets.Set
	succeeds map[owner]bool     // who has options of the host's; nil unless there are sockets of another process
	proxy    *proxy.Proxy       // always there, so that routes can come later
	dns      *dnsserver.Server  // nil: not configured
	radius   *radius.Server     // nil: not configured
	email    *email.Server      // nil: not configured
	certs    *certs.Manager     // nil: certificates are not obtained
	local    *localCertificates // nil: and not made here
	mailCert *mailCertificate   // nil: mail has a better one
	hello    *encryptedHello    // nil: nobody hides what server he asks for
	ops      *opsapi.Server     // nil: not configured
	logs     *opsapi.LogBuffer  // what ops shows of the log; nil without it

	blocking *blocking   // nil: not configured
	shown    shownEvents // of security, on the operations API

	records  *mailRecords // nil: no mail domain has its records here
	policies bool         // of MTA-STS can be served

	onDemand  bool       // certificates come at handshakes, too
	following sync.Mutex // held by followRoutes

	lifecycle chan struct{} // has an element while Start, Handover or the beginning of a Stop is under way
	mu        sync.Mutex
	run       *run      // nil before Start; kept after Stop for Wait
	underWay  *underWay // nil if there is none
	stops     int       // how many Stops wait for its end
}

// run is a Router between one Start and its Stop.
type run struct {
	store   *storage.Store
	hurry   context.CancelFunc // ends the patience of a Stop under way; nil before. Guarded by Router.mu
	stopped chan struct{}      // closed when Stop is through
	err     error              // what Stop returns; set before stopped is closed

	handedOver bool // only the proxy is left; stopped is closed until Stop. Guarded by Router.mu
}

// New makes a Router. It checks the whole configuration and does no I/O. The
// error joins all mistakes that were found; see [FieldErrors].
func New(opts ...Option) (*Router, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	r := &Router{lifecycle: make(chan struct{}, 1)}
	var problems []error
	for _, add := range o.sockets {
		problems = append(problems, add(&r.sockets))
	}
	if err := errors.Join(problems...); err != nil {
		r.sockets.Close()
		return nil, err
	}
	if err := r.setUp(&o); err != nil {
		r.sockets.Close()
		return nil, err
	}
	return r, nil
}

// setUp makes all parts.
func (r *Router) setUp(o *options) error {
	if err := o.config.Validate(); err != nil {
		return err
	}
	if o.succeeds {
		r.succeeds = map[owner]bool{proxyOwner: len(o.proxy) > 0, emailOwner: len(o.email) > 0, dnsOwner: len(o.dns) > 0, radiusOwner: len(o.radius) > 0, opsOwner: len(o.ops) > 0}
	}
	r.config, r.limited, r.log, r.backend, r.onDemand = o.config, o.config.limited(), o.log, o.backend, o.onDemand != nil
	r.setUpLogs()
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if s := o.config.Storage; r.backend == nil && s != nil && s.FSPath != "" {
		r.backend = storage.Dir(s.FSPath)
	}
	if err := r.setUpCertificates(o); err != nil {
		return err
	}
	r.setUpBlocking(o)
	source, _ := r.certificateSources(o.getCertificate)
	r.policies = r.config.servesPolicies() && source != nil
	if r.config.publishesMailRecords() {
		r.records = newMailRecords(r)
		o.dns = append(o.dns, dnsserver.WithZoneChanged(r.records.zoneChanged))
		o.email = append(o.email, email.WithDNSPublisher(r.records))
	}
	if r.config.hasDNS() {
		d, err := dnsserver.New(r.limited.dnsConfig(), append([]dnsserver.Option{dnsserver.WithLogger(r.log), dnsserver.WithSockets(&r.sockets)}, o.dns...)...)
		if err != nil {
			return inSection("dnsServerConfig", "dns", err)
		}
		r.dns = d
	}
	if r.config.RADIUS != nil {
		s, err := radius.New(*r.limited.RADIUS, append([]radius.Option{radius.WithLogger(r.log), radius.WithSockets(&r.sockets)}, o.radius...)...)
		if err != nil {
			return inSection("radiusConfig", "radius", err)
		}
		r.radius = s
	}
	if r.config.Email != nil {
		s, err := r.newEmail(o)
		if err != nil {
			return inSection("emailConfig", "email", err)
		}
		r.email = s
	}
	pc := *r.limited.Proxy
	given := len(pc.Routes)
	pc.Routes = r.withOwnRoutes(pc.Routes)
	p, err := proxy.New(pc, append([]proxy.Option{proxy.WithLogger(r.log), proxy.WithSockets(&r.sockets)}, o.proxy...)...)
	if err != nil {
		return r.routesError(given, err)
	}
	r.proxy = p
	r.followRoutes()
	if err := r.setUpOps(o); err != nil {
		return err
	}
	return nil
}

// component is a subsystem in the life of the Router.
type component struct {
	section, name string
	start, stop   func(context.Context) error
	wait          func() error
	// slow is set for one whose clients may take their time, which Handover begins
	// with: the others serve meanwhile.
	slow bool
	// talks is set for one that must end its conversations before the proxy, which
	// has their connections, can stop.
	talks bool
}

// components are all subsystems, in the order in which they start. They stop in
// the reverse order: the proxy has requests for others in flight.
func (r *Router) components() []component {
	nothing := func() error { return nil }
	var list []component
	if r.blocking != nil {
		k := &r.blocking.keeper
		list = append(list, component{section: "blocking", name: "blocking", start: k.start, stop: k.stop, wait: nothing})
	}
	if r.dns != nil {
		list = append(list, component{section: "dnsServerConfig", name: "dns", start: r.dns.Start, stop: r.dns.Stop, wait: r.dns.Wait})
	}
	if r.radius != nil {
		list = append(list, component{section: "radiusConfig", name: "radius", start: r.radius.Start, stop: r.radius.Stop, wait: r.radius.Wait})
	}
	if r.records != nil {
		list = append(list, component{section: "emailConfig", name: "mail records", start: r.records.start, stop: r.records.stop, wait: nothing})
	}
	if r.email != nil {
		list = append(list, component{section: "emailConfig", name: "email", start: r.email.Start, stop: r.email.Stop, wait: r.email.Wait, slow: true,
			talks: r.config.Email.UseSocketHandler})
	}
	list = append(list, component{section: "smartProxyConfig", name: "proxy", start: r.startProxy, stop: r.proxy.Stop, wait: r.proxy.Wait})
	if r.certs != nil {
		// Authorities come to the others.
		start := func(context.Context) error { r.certs.Start(); return nil }
		list = append(list, component{section: "smartProxyConfig.acme", name: "certificates", start: start, stop: r.certs.Stop, wait: nothing})
	}
	if r.hello != nil {
		list = append(list, component{section: "tls", name: "encrypted client hello", start: r.hello.start, stop: r.hello.stop, wait: nothing})
	}
	if r.ops != nil {
		list = append(list, component{section: "opsServerConfig", name: "ops", start: r.ops.Start, stop: r.ops.Stop, wait: r.ops.Wait, slow: true})
	}
	return list
}

// startProxy starts the proxy, and says where its routes are from if it fails.
func (r *Router) startProxy(ctx context.Context) error {
	err := r.proxy.Start(ctx)
	if c := r.config.Proxy; err != nil && r.ops != nil && c != nil && !same(r.Routes(), c.Routes) {
		err = fmt.Errorf("%w (with the routes as changed through the operations API: those of the configuration come back when anything in it is changed)", err)
	}
	return err
}

// sectionError is inSection for what a component says.
func (r *Router) sectionError(c *component, err error) error {
	if c.name == "proxy" {
		return r.routesError(len(r.Routes()), err)
	}
	return inSection(c.section, c.name, err)
}

// stop stops subsystems, the last one first.
func stop(ctx context.Context, list []component) error {
	list = slices.Clone(list)
	slices.Reverse(list)
	slices.SortStableFunc(list, func(a, b component) int {
		switch {
		case a.talks == b.talks:
			return 0
		case a.talks:
			return -1
		}
		return 1
	})
	var errs []error
	for _, c := range list {
		ctx, cancel := ctx, func() {}
		if ctx.Err() != nil {
			// That others have used up the time is no failure of one that has nothing
			// under way.
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), momentToStop)
		}
		err := patiently(ctx, errors.Join(errs...), func() error { return c.stop(ctx) })
		errs = append(errs, inSection(c.section, c.name, err))
		cancel()
	}
	return errors.Join(errs...)
}

const (
	// momentToStop is what a subsystem has to stop once the time of all is up.
	momentToStop = time.Second / 2
	// timeToTakeBack is what subsystems have to stop when the start of another fails.
	// They have little under way.
	timeToTakeBack = 5 * time.Second
	// timeToAnswer is how long what does not heed the end of its time, because the
	// storage does not, is waited for. The mail system takes 30 s of that for what
	// it has to note.
	timeToAnswer = 35 * time.Second
)

// patiently has something end, but does not wait without end for what hangs, and
// not long for what comes after that. before is what has come of the others.
func patiently(ctx context.Context, before error, end func() error) error {
	d := timeToAnswer
	if errors.Is(before, grace.ErrHangs) {
		d = momentToStop
	}
	return grace.Wait(ctx, d, end)
}

// closeStore closes the storage after the others, of which err has come, and adds
// to that.
func closeStore(ctx context.Context, store *storage.Store, err error) error {
	closeErr := patiently(ctx, err, store.Close)
	if errors.Is(closeErr, grace.ErrHangs) {
		closeErr = fmt.Errorf("dcrouter: closing the storage: %w", closeErr)
	}
	return errors.Join(err, closeErr)
}

// Check reads the files that the configuration names, as Start would, and
// returns all mistakes in them. Together with New it finds what is wrong with a
// configuration without serving it.
//
// With [WithSockets] it also finds ports that the first Start could not bind, beside
// those sockets: the other process goes on then, and has given up nothing. It leaves
// out the ports of parts that have options of their own, such as
// [proxy.WithListener], and does not know of routes that the operations API has.
func (r *Router) Check() error {
	var errs []error
	if r.succeeds != nil && r.isNew() {
		c, p := r.config, proxy.Config{}
		if c.Proxy != nil {
			p = *c.Proxy
		}
		p.Routes, c.Proxy = r.Routes(), &p
		errs = append(errs, c.probe(&r.sockets, r.succeeds))
	}
	if r.dns != nil {
		errs = append(errs, inSection("dnsServerConfig", "dns", r.dns.Check()))
	}
	if r.radius != nil {
		errs = append(errs, inSection("radiusConfig", "radius", r.radius.Check()))
	}
	if r.email != nil {
		errs = append(errs, inSection("emailConfig", "email", r.email.Check()))
	}
	if r.certs != nil {
		errs = append(errs, inSection("smartProxyConfig.acme", "certificates", r.certs.Check()))
	}
	return errors.Join(append(errs, r.routesError(len(r.Routes()), r.proxy.Check()))...)
}

// isNew reports whether nobody has called Start.
func (r *Router) isNew() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run == nil && r.underWay == nil
}

// Unready returns what keeps Start from serving though the configuration is
// valid: what [email.Server.Unready] and [proxy.Proxy.Unready] say, each a
// [*FieldError]. It would be wrong to serve a part of it and say nothing.
func (r *Router) Unready() error {
	check := conf.NewChecker()
	c := &r.config
	if c.Email != nil {
		check.Add(inSection("emailConfig", "email", r.email.Unready()))
	}
	check.Add(r.routesError(len(r.Routes()), r.proxy.Unready()))
	return check.Err()
}

// Start opens the storage and starts every configured subsystem. It returns
// when all of them have bound their ports; on an error it takes everything
// back. ctx limits the start alone. A Router that has stopped can be started
// again, and one that was handed over goes on.
func (r *Router) Start(ctx context.Context) error {
	ctx, u, err := r.begin(ctx)
	if err != nil {
		return err
	}
	err = r.start(ctx, u)
	late := !r.finish(u) // a Stop has not waited for it
	if late {
		err = errors.Join(err, r.end(ctx))
	}
	if late || err != nil && context.Cause(ctx) == errStopCalled {
		err = errors.Join(errStopCalled, err)
	}
	return err
}

// start is Start when nothing else is under way.
func (r *Router) start(ctx context.Context, u *underWay) error {
	resumes := false // after Handover
	if old := r.latest(); old != nil {
		r.mu.Lock()
		resumes = old.handedOver && old.hurry == nil
		r.mu.Unlock()
		select {
		case <-old.stopped:
		default:
			return ErrRunning
		}
	}
	if err := r.Unready(); err != nil {
		return err
	}
	r.note(u, "opening the storage")
	backend := r.backend
	if backend == nil {
		r.log.Warn("no storage is configured: everything is kept in memory and lost when the process ends")
		if r.certs != nil {
			r.log.Warn("certificates are ordered anew at each start, which authorities allow a few times a week only: set storage.fsPath", "component", "certificates")
		}
		backend = storage.Memory()
	}
	store, err := storage.Open(ctx, backend, storage.WithLogger(r.log))
	if err != nil {
		return err
	}
	all := r.components()
	if resumes {
		for i := range all {
			if c := &all[i]; c.name == "proxy" {
				c.stop = func(ctx context.Context) error { r.proxy.Pause(ctx); return nil }
			}
		}
	}
	r.note(u, "reading the storage")
	started, err := 0, r.load(ctx, store)
	if err == nil {
		started, err = r.startAll(ctx, u, all)
	}
	if err != nil {
		// A Stop that comes now does not hurry this: it waits, and what would be cut
		// off by it might say so at the next one.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeToTakeBack)
		defer cancel()
		err = errors.Join(err, stop(ctx, all[:started]))
		if r.certs != nil { // it may have been loaded
			err = errors.Join(err, r.certs.Stop(ctx))
		}
		return closeStore(ctx, store, err)
	}
	if r.hello == nil {
		r.withdrawOldHellos(ctx, store)
	}
	r.warnOfPolicies()
	r.mu.Lock()
	r.run = &run{store: store, stopped: make(chan struct{})}
	r.mu.Unlock()
	return nil
}

// startAll starts subsystems, and returns how many of them have, all of them if
// there is no error.
func (r *Router) startAll(ctx context.Context, u *underWay, all []component) (started int, err error) {
	for i := range all {
		if err := ctx.Err(); err != nil { // what came before may not have heeded it
			return i, err
		}
		r.note(u, "starting "+all[i].name)
		if err := all[i].start(ctx); err != nil {
			return i, r.sectionError(&all[i], err)
		}
	}
	if err := ctx.Err(); err != nil {
		return len(all), err
	}
	return len(all), r.takeSockets()
}

func (r *Router) latest() *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run
}

// Stop has the proxy stop accepting at once, waits for what is under way until
// ctx ends (or without a deadline as long as the subsystems' own limits say),
// closes what is left, which is an error, and closes the storage. The others
// stop after the proxy, whose requests may be for them, and have a moment for
// that also if it has used up the time. Afterwards no goroutine
// of the Router is left, unless the storage hangs: what waits for it is given up
// 35 s after the end of ctx, which is an error. A Start under way fails; one that
// does not, as the storage heeds no context, is waited for until ctx ends (without
// a deadline for 35 s). Then Stop returns an error, and the Start takes everything
// back when the storage answers. It may be called at any time, also several times
// at once.
func (r *Router) Stop(ctx context.Context) error {
	if err := r.interrupt(ctx); err != nil {
		return err
	}
	return r.end(ctx)
}

// end is Stop when nothing else is under way, and lets others begin then.
func (r *Router) end(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	latest := r.run
	if latest != nil && latest.handedOver && latest.hurry == nil { // and cannot be taken back any more
		latest = &run{stopped: make(chan struct{}), handedOver: true}
		r.run = latest
	}
	first := latest != nil && latest.hurry == nil
	if first {
		latest.hurry = cancel
	}
	r.mu.Unlock()
	if latest == nil {
		defer r.release() // else a Start would lose what it has started
		defer r.sockets.Close()
		return stop(ctx, r.components()) // they have listeners of the host's, perhaps
	}
	r.release()
	if !first {
		select {
		case <-latest.stopped:
		case <-ctx.Done():
			// This caller's patience ends before that of the first one.
			latest.hurry()
			<-latest.stopped
		}
		return latest.err
	}
	if latest.handedOver {
		r.sockets.Close()
		latest.err = inSection("smartProxyConfig", "proxy", r.proxy.Stop(ctx))
	} else {
		latest.err = closeStore(ctx, latest.store, stop(ctx, r.components()))
	}
	r.sockets.Close()
	close(latest.stopped)
	return latest.err
}

// Wait blocks until the Router has stopped or been handed over, or a subsystem
// cannot go on, and returns the error in the latter case: the host should Stop
// then. Before Start it returns nil at once.
func (r *Router) Wait() error {
	run := r.latest()
	if run == nil {
		return nil
	}
	all := r.components()
	failed := make(chan error, len(all))
	for _, c := range all {
		go func() { failed <- inSection(c.section, c.name, c.wait()) }() // ends at the latest when the subsystem stops
	}
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
		case <-run.stopped:
			return nil
		}
	}
}

// UpdateRoutes replaces the proxy's routes, all of them or on an error none;
// see [proxy.Proxy.UpdateRoutes]. Those that other sections ask for, such as
// dnsDomain, stay. Before Start it sets the routes to start with.
func (r *Router) UpdateRoutes(ctx context.Context, routes []proxy.Route) error {
	err := r.proxy.UpdateRoutes(ctx, r.withOwnRoutes(routes))
	r.followRoutes()
	return r.routesError(len(routes), err)
}

// followRoutes tells what depends on the routes of the proxy that there are others.
func (r *Router) followRoutes() {
	r.following.Lock()
	defer r.following.Unlock()
	routes := r.proxy.Routes()
	r.setCertificateNames(routes)
	if r.blocking != nil {
		r.blocking.set.SetAllowed(r.config.neverBlocked(routes))
	}
}

// Routes returns a copy of the proxy's routes, without those of other sections.
func (r *Router) Routes() []proxy.Route {
	routes := r.proxy.Routes()
	return routes[:len(routes)-len(r.ownRoutes())]
}

// routesError is inSection for routes, of which the first ones were given by
// the host. What is wrong with the others is a matter of the sections that they
// come from.
func (r *Router) routesError(given int, err error) error {
	var field *FieldError
	if !errors.As(err, &field) {
		return inSection("smartProxyConfig", "proxy", err)
	}
	var errs []error
	for _, e := range FieldErrors(err) {
		at := "smartProxyConfig"
		for i, own := range r.ownRoutes() {
			if place := fmt.Sprintf("routes[%d]", given+i); e.Path == place || strings.HasPrefix(e.Path, place+".") {
				e, at = &FieldError{Msg: "its route in the proxy: " + e.Error(), Err: e.Err}, own.section
			}
		}
		errs = append(errs, conf.Prefix(at, e))
	}
	return errors.Join(errs...)
}

// ownRoute is a route of the proxy that another section asks for.
type ownRoute struct {
	proxy.Route
	section string
}

func (r *Router) ownRoutes() []ownRoute {
	var list []ownRoute
	for _, rt := range r.dohRoutes() {
		list = append(list, ownRoute{rt, "dnsDomain"})
	}
	for _, rt := range r.policyRoutes() {
		list = append(list, ownRoute{rt, "emailConfig.domains"})
	}
	for i, rt := range r.mailRoutes() {
		list = append(list, ownRoute{rt, fmt.Sprintf("emailConfig.ports[%d]", i)})
	}
	return list
}

// withOwnRoutes adds the routes that come from other sections to those of the
// host.
func (r *Router) withOwnRoutes(routes []proxy.Route) []proxy.Route {
	all := slices.Clone(routes)
	for _, own := range r.ownRoutes() {
		all = append(all, own.Route)
	}
	return all
}

// Addrs returns the bound addresses of each component that listens: "proxy",
// "email", "dns", "radius" and "ops". Addresses that are not TCP have their network behind a slash.
func (r *Router) Addrs() map[string][]string {
	addrs := make(map[string][]string)
	add := func(name string, list []net.Addr) {
		for _, a := range list {
			text := a.String()
			if network := a.Network(); network != "tcp" {
				text += "/" + network
			}
			addrs[name] = append(addrs[name], text)
		}
	}
	add("proxy", r.proxy.Addrs())
	if r.email != nil {
		add("email", r.email.Addrs())
	}
	if r.radius != nil {
		add("radius", r.radius.Addrs())
	}
	if r.dns != nil {
		addrs["dns"] = r.dns.Addrs()
	}
	if r.ops != nil {
		if a := r.ops.Addr(); a != nil {
			add("ops", []net.Addr{a})
		}
	}
	return addrs
}

// RADIUS returns the RADIUS server, or nil if none is configured.
func (r *Router) RADIUS() *radius.Server { return r.radius }

// Store returns the Router's storage while it runs, and nil otherwise.
func (r *Router) Store() *storage.Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run == nil || r.run.hurry != nil || r.run.handedOver {
		return nil
	}
	return r.run.store
}
