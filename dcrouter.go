package dcrouter

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// Router is the gateway: every configured subsystem, started and stopped
// together. Make one with [New]. Its methods may be called from several
// goroutines.
type Router struct {
	config  Config // routes aside, which the proxy keeps
	log     *slog.Logger
	backend storage.Backend
	proxy   *proxy.Proxy // always there, so that routes can come later

	lifecycle sync.Mutex // held by Start
	mu        sync.Mutex
	run       *run               // nil before Start; kept after Stop for Wait
	giveUp    context.CancelFunc // ends a Start under way; nil if there is none
}

// run is a Router between one Start and its Stop.
type run struct {
	store   *storage.Store
	hurry   context.CancelFunc // ends the patience of a Stop under way; nil before. Guarded by Router.mu
	stopped chan struct{}      // closed when Stop is through
	err     error              // what Stop returns; set before stopped is closed
}

// New makes a Router. It checks the whole configuration and does no I/O. The
// error joins all mistakes that were found; see [FieldErrors].
func New(opts ...Option) (*Router, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.config.Validate(); err != nil {
		return nil, err
	}
	r := &Router{config: o.config, log: o.log, backend: o.backend}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if s := o.config.Storage; r.backend == nil && s != nil && s.FSPath != "" {
		r.backend = storage.Dir(s.FSPath)
	}
	var pc proxy.Config
	if o.config.Proxy != nil {
		pc = *o.config.Proxy
	}
	p, err := proxy.New(pc, append([]proxy.Option{proxy.WithLogger(r.log)}, o.proxy...)...)
	if err != nil {
		return nil, inSection("smartProxyConfig", "proxy", err)
	}
	r.proxy = p
	return r, nil
}

// Check reads the files that the configuration names, as Start would, and
// returns all mistakes in them. Together with New it finds what is wrong with a
// configuration without serving it.
func (r *Router) Check() error {
	return inSection("smartProxyConfig", "proxy", r.proxy.Check())
}

// Unavailable names what the configuration asks for and this version does not
// have. Start refuses such a configuration with the same error: it would be
// wrong to serve a part of it and say nothing.
func (r *Router) Unavailable() error {
	check := conf.NewChecker()
	c := &r.config
	missing := func(configured bool, field, what string) {
		if configured {
			check.Field(field).Errorf("%s not available in this version", what)
		}
	}
	missing(c.Email != nil, "emailConfig", "the mail system is")
	missing(c.DNS != nil, "dnsServerConfig", "the DNS server is")
	missing(c.DNSDomain != "", "dnsDomain", "the DNS server is")
	missing(len(c.DNSNSDomains) > 0, "dnsNsDomains", "the DNS server is")
	missing(c.RADIUS != nil, "radiusConfig", "the RADIUS server is")
	missing(c.Ops != nil, "opsServerConfig", "the operations server is")
	missing(c.TLS != nil, "tls", "automatic certificates are")
	missing(c.DNSChallenge != nil, "dnsChallenge", "automatic certificates are")
	check.Add(inSection("smartProxyConfig", "proxy", r.proxy.Unavailable()))
	return check.Err()
}

// Start opens the storage and starts every configured subsystem. It returns
// when all of them have bound their ports; on an error it takes everything
// back. ctx limits the start alone. A Router that has stopped can be started
// again.
func (r *Router) Start(ctx context.Context) error {
	r.lifecycle.Lock()
	defer r.lifecycle.Unlock()
	if old := r.latest(); old != nil {
		select {
		case <-old.stopped:
		default:
			return ErrRunning
		}
	}
	if err := r.Unavailable(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	r.giveUp = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.giveUp = nil
		r.mu.Unlock()
	}()

	backend := r.backend
	if backend == nil {
		r.log.Warn("no storage is configured: everything is kept in memory and lost when the process ends")
		backend = storage.Memory()
	}
	store, err := storage.Open(ctx, backend, storage.WithLogger(r.log))
	if err != nil {
		return err
	}
	if err := r.proxy.Start(ctx); err != nil {
		return errors.Join(inSection("smartProxyConfig", "proxy", err), store.Close())
	}
	r.mu.Lock()
	r.run = &run{store: store, stopped: make(chan struct{})}
	r.mu.Unlock()
	return nil
}

func (r *Router) latest() *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run
}

// Stop stops accepting at once, waits for what is under way until ctx ends (or
// without a deadline as long as the subsystems' own limits say), closes what
// is left, which is an error, and closes the storage. Afterwards no goroutine
// of the Router is left. It may be called at any time, also several times at
// once.
func (r *Router) Stop(ctx context.Context) error {
	r.mu.Lock()
	if r.giveUp != nil {
		r.giveUp()
	}
	r.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	r.lifecycle.Lock() // a Start under way is brought to its end
	r.mu.Lock()
	run := r.run
	first := run != nil && run.hurry == nil
	if first {
		run.hurry = cancel
	}
	r.mu.Unlock()
	r.lifecycle.Unlock()
	switch {
	case run == nil:
		return r.proxy.Stop(ctx)
	case !first:
		select {
		case <-run.stopped:
		case <-ctx.Done():
			// This caller's patience ends before that of the first one.
			run.hurry()
			<-run.stopped
		}
		return run.err
	}
	run.err = errors.Join(inSection("smartProxyConfig", "proxy", r.proxy.Stop(ctx)), run.store.Close())
	close(run.stopped)
	return run.err
}

// Wait blocks until the Router has stopped or a subsystem cannot go on, and
// returns the error in the latter case: the host should Stop then. Before
// Start it returns nil at once.
func (r *Router) Wait() error {
	run := r.latest()
	if run == nil {
		return nil
	}
	failed := make(chan error, 1)
	go func() { failed <- r.proxy.Wait() }() // ends at the latest when the proxy stops
	select {
	case err := <-failed:
		if err != nil {
			return inSection("smartProxyConfig", "proxy", err)
		}
		<-run.stopped
	case <-run.stopped:
	}
	return nil
}

// UpdateRoutes replaces the proxy's routes, all of them or on an error none;
// see [proxy.Proxy.UpdateRoutes]. Before Start it sets the routes to start
// with.
func (r *Router) UpdateRoutes(ctx context.Context, routes []proxy.Route) error {
	return inSection("smartProxyConfig", "proxy", r.proxy.UpdateRoutes(ctx, routes))
}

// Routes returns a copy of the proxy's routes.
func (r *Router) Routes() []proxy.Route { return r.proxy.Routes() }

// Addrs returns the bound addresses of each component that listens: "proxy".
// Addresses that are not TCP have their network behind a slash.
func (r *Router) Addrs() map[string][]string {
	addrs := make(map[string][]string)
	for _, a := range r.proxy.Addrs() {
		text := a.String()
		if network := a.Network(); network != "tcp" {
			text += "/" + network
		}
		addrs["proxy"] = append(addrs["proxy"], text)
	}
	return addrs
}

// Store returns the Router's storage while it runs, and nil otherwise.
func (r *Router) Store() *storage.Store {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run == nil || r.run.hurry != nil {
		return nil
	}
	return r.run.store
}
