package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// ErrRunning is returned by Start when the Proxy is running or still stopping.
var ErrRunning = errors.New("proxy: already running")

// Proxy routes connections and requests. Make one with [New]. Its methods may
// be called from several goroutines.
type Proxy struct {
	cfg       Config // Routes aside, fixed by New
	times     Timeouts
	opts      options
	log       *slog.Logger
	trusted   *ipSet
	forwarder http.Handler
	buffers   sync.Pool  // *[]byte, for copying
	access    *accessLog // nil: none
	stats     counters
	waiting   atomic.Int64 // in the queues of all routes

	echFailures logLimit

	encoders encoders

	requestIDHeader string // "" where requests get no id

	// update serialises Start, UpdateRoutes and Stop's beginning. It guards
	// what follows.
	update   sync.Mutex
	routes   []*Route
	table    *table                 // of the last Start or update
	orphans  map[string]*routeState // of routes that are gone and not idle yet
	targets  map[targetKey]*target
	rounds   uint64 // how many tables have been assembled, also in vain
	healths  map[healthKey]*health
	policies map[tlsPolicyKey]*tlsPolicy
	limiters map[rateLimiterKey]*rateLimiter

	// By the host, and not in use yet.
	given        map[string]net.Listener
	givenPackets map[string]net.PacketConn

	// mu guards run for those who only look at it.
	mu  sync.Mutex
	run *run // nil before Start; kept after Stop for Wait
}

// New makes a Proxy. It checks the whole configuration and does no I/O; the
// error joins all mistakes, each a [*FieldError].
func New(cfg Config, opts ...Option) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, times: cfg.Timeouts.withDefaults(), routes: cloneRoutes(cfg.Routes)}
	p.targets = make(map[targetKey]*target)
	p.cfg.Routes = nil
	for _, o := range opts {
		o(&p.opts)
	}
	for addr, ln := range p.opts.listeners {
		if ln == nil {
			return nil, fmt.Errorf("proxy: the listener for %s is nil", addr)
		}
	}
	for addr, pc := range p.opts.packetConns {
		if pc == nil {
			return nil, fmt.Errorf("proxy: the packet connection for %s is nil", addr)
		}
	}
	p.log = p.opts.log
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.log = p.log.With("component", "proxy")
	p.given, p.givenPackets = maps.Clone(p.opts.listeners), maps.Clone(p.opts.packetConns)
	p.buffers.New = func() any { b := make([]byte, 32<<10); return &b }
	p.access = newAccessLog(cfg.AccessLog, p.opts.accessLog, p.log)
	p.requestIDHeader = newRequestIDHeader(cfg.RequestID)
	p.trusted, _ = newIPSet(cfg.TrustedProxies) // validated above
	p.stats.init()
	p.forwarder = newForwarder(p)
	return p, nil
}

func (t Timeouts) withDefaults() Timeouts {
	t.Route = defaultTo(t.Route, 10*time.Second)
	t.RequestHead = defaultTo(t.RequestHead, 10*time.Second)
	t.KeepAlive = defaultTo(t.KeepAlive, 2*time.Minute)
	t.Connect = defaultTo(t.Connect, 5*time.Second)
	t.ResponseHead = defaultTo(t.ResponseHead, time.Minute)
	t.Idle = defaultTo(t.Idle, time.Hour)
	t.UDPIdle = defaultTo(t.UDPIdle, time.Minute)
	t.Drain = defaultTo(t.Drain, 30*time.Second)
	return t
}

// Check reads the files that the configuration names, as Start would, and
// returns all mistakes in them at once.
func (p *Proxy) Check() error {
	p.update.Lock()
	defer p.update.Unlock()
	_, err := p.assemble(p.routes)
	return err
}

// Unready returns what keeps Start from serving though the configuration is
// valid: routes with certificate "auto" where there is no source of certificates.
// Each is a [*FieldError]; UpdateRoutes refuses such routes with the same error.
func (p *Proxy) Unready() error {
	p.update.Lock()
	defer p.update.Unlock()
	return p.unready(p.routes)
}

// Start begins to serve. It returns when all ports are bound; if one cannot
// be, it takes everything back. ctx limits the start alone. A Proxy that has
// stopped can be started again, and one that [Proxy.Pause] has paused altogether
// goes on.
func (p *Proxy) Start(ctx context.Context) error {
	p.update.Lock()
	defer p.update.Unlock()
	if r := p.current(); r != nil && r.leaving.Load() {
		return r.resume(ctx)
	}
	if p.run != nil {
		select {
		case <-p.run.stopped:
		default:
			return ErrRunning
		}
	}
	if err := p.unready(p.routes); err != nil {
		return err
	}
	a, err := p.assemble(p.routes)
	if err != nil {
		return err
	}
	r := newRun(p)
	opened, err := r.bind(ctx, a.table)
	if err != nil {
		r.cancel()
		return err
	}
	a.commit()
	r.table.Store(a.table)
	p.mu.Lock()
	p.run = r // before anything runs: targets dial on behalf of the latest run
	p.mu.Unlock()
	r.working.Add(1)
	go func() {
		defer r.working.Done()
		if err := r.server.Serve(r.queue); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			r.fail(err)
		}
	}()
	if p.times.Drain >= 0 {
		r.working.Add(1)
		go func() {
			defer r.working.Done()
			r.drain()
		}()
	}
	r.lot.open()
	r.working.Go(r.lot.watch)
	r.working.Go(r.sweep)
	r.working.Go(r.sweepPools)
	r.working.Go(r.rotateTickets)
	r.startChecks()
	r.listen(opened)
	for addr := range p.given {
		r.log.Warn("no route needs the listener that the host gave", "addr", addr)
	}
	for addr := range p.givenPackets {
		r.log.Warn("no route needs the packet connection that the host gave", "addr", addr)
	}
	return nil
}

// latest returns the run of the last Start, or nil.
func (p *Proxy) latest() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// current returns the run that is serving, or nil.
func (p *Proxy) current() *run {
	if r := p.latest(); r != nil && !r.isStopping() {
		return r
	}
	return nil
}

// Stop stops accepting at once and waits for open connections to finish until
// ctx ends, or for as long as Timeouts.Drain if ctx has no deadline; then it
// closes them and returns an error. Afterwards no goroutine of the Proxy is
// left. It may be called at any time, also several times at once.
func (p *Proxy) Stop(ctx context.Context) error {
	p.update.Lock() // a Start or update under way is brought to its end
	r := p.latest()
	first := r != nil && r.beginStop()
	if r == nil {
		p.closeGiven()
	}
	p.update.Unlock()
	if r == nil {
		return nil
	}
	if !first {
		select {
		case <-r.stopped:
		case <-ctx.Done():
			// This caller's patience ends before that of the first one.
			r.cut()
			<-r.stopped
		}
		return r.stopErr
	}
	r.stopErr = r.stop(ctx)
	p.update.Lock()
	for _, t := range p.targets {
		t.conns.closeAll()
	}
	for _, h := range p.healths {
		if h.stop != nil {
			h.stop()
			h.stop = nil // a later Start watches again
		}
	}
	p.closeGiven()
	p.update.Unlock()
	close(r.stopped)
	return r.stopErr
}

// closeGiven closes the host's sockets that no route has needed.
func (p *Proxy) closeGiven() {
	for addr, ln := range p.given {
		ln.Close()
		delete(p.given, addr)
	}
	for addr, pc := range p.givenPackets {
		pc.Close()
		delete(p.givenPackets, addr)
	}
}

// Wait blocks until the Proxy has stopped or cannot go on, and returns the
// error in the latter case. Before Start it returns nil at once.
func (p *Proxy) Wait() error {
	r := p.latest()
	if r == nil {
		return nil
	}
	select {
	case err := <-r.fatal:
		r.fail(err) // for others who wait
		return err
	case <-r.stopped:
	}
	select {
	case err := <-r.fatal:
		r.fail(err)
		return err
	default:
		return nil
	}
}

// UpdateRoutes replaces all routes. It reads the files that they name, binds
// new ports, switches over in one step and then closes the ports that no route
// names any more. On any error everything stays as it was; the error joins all
// mistakes, each a [*FieldError] where it is about a field.
//
// A route is the same as before if its name is, or without a name its match.
// Such a route keeps its counters and limits. Targets keep their connections,
// health and counters as long as any route has them. Connections and requests
// under way go on; only those whose route, or target in their route, is gone
// have Timeouts.Drain to finish.
//
// Before Start it sets the routes to start with.
func (p *Proxy) UpdateRoutes(ctx context.Context, routes []Route) error {
	check := conf.NewChecker()
	validateRoutes(check, routes)
	p.cfg.HTTP3.validateRoutes(check, routes)
	if err := check.Err(); err != nil {
		return err
	}
	p.update.Lock()
	defer p.update.Unlock()
	own := p.takeOver(routes)
	if err := ctx.Err(); err != nil {
		return err
	}
	r := p.current()
	if r == nil {
		p.routes = own
		return nil
	}
	if err := p.unready(own); err != nil {
		return err
	}
	a, err := p.assemble(own)
	if err != nil {
		return err
	}
	opened, err := r.bind(ctx, a.table)
	if err != nil {
		return err
	}
	a.commit()
	p.routes = own
	r.table.Store(a.table)
	r.startChecks()
	r.listen(opened)
	r.unlisten(a.table)
	r.wakeDrainer()
	return nil
}

// Routes returns a copy of the routes.
func (p *Proxy) Routes() []Route {
	p.update.Lock()
	defer p.update.Unlock()
	list := make([]Route, len(p.routes))
	for i, r := range p.routes {
		list[i] = *cloneRoute(r)
	}
	return list
}

// Addrs returns the addresses that the Proxy listens on, in the order of the
// ports as configured: first those of TCP, then those of UDP, which are
// *net.UDPAddr.
func (p *Proxy) Addrs() []net.Addr {
	r := p.current()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var addrs []net.Addr
	for _, port := range slices.Sorted(maps.Keys(r.listeners)) {
		addrs = append(addrs, r.listeners[port].Addr())
	}
	for _, port := range slices.Sorted(maps.Keys(r.packets)) {
		if pc := r.readPort(port); pc != nil {
			addrs = append(addrs, pc.LocalAddr())
		}
	}
	return addrs
}

func cloneRoutes(routes []Route) []*Route {
	list := make([]*Route, len(routes))
	for i := range routes {
		list[i] = cloneRoute(&routes[i])
	}
	return list
}

// takeOver makes routes independent of the caller. Of those that are as they
// were before, by name or else by place, it returns what the Proxy has already,
// so that they need not be compiled again.
func (p *Proxy) takeOver(routes []Route) []*Route {
	list := make([]*Route, len(routes))
	for i := range routes {
		r := &routes[i]
		var old *Route
		if before := p.table.find(r.Name, i); before != nil {
			old = before.Route
		} else if i < len(p.routes) {
			old = p.routes[i]
		}
		if old != nil && old.equal(r) {
			list[i] = old
		} else {
			list[i] = cloneRoute(r)
		}
	}
	return list
}

// cloneRoute makes a route independent of the caller's slices and maps.
func cloneRoute(of *Route) *Route {
	r := clonePtr(of)
	r.Enabled = clonePtr(r.Enabled)
	m := &r.Match
	m.Ports, m.Domains, m.Methods, m.ClientIP = slices.Clone(m.Ports), slices.Clone(m.Domains), slices.Clone(m.Methods), slices.Clone(m.ClientIP)
	m.Headers, m.Query = maps.Clone(m.Headers), maps.Clone(m.Query)
	a := &r.Action
	a.Targets = slices.Clone(a.Targets)
	a.LoadBalancing.clone()
	if a.TLS = clonePtr(a.TLS); a.TLS != nil {
		a.TLS.ClientAuth = clonePtr(a.TLS.ClientAuth)
	}
	for _, e := range []*HeaderEdit{&a.Headers.Request, &a.Headers.Response} {
		e.Set, e.Add, e.Remove = maps.Clone(e.Set), maps.Clone(e.Add), slices.Clone(e.Remove)
	}
	if a.Compression = clonePtr(a.Compression); a.Compression != nil {
		a.Compression.Algorithms, a.Compression.Types = slices.Clone(a.Compression.Algorithms), slices.Clone(a.Compression.Types)
	}
	a.Security.IPAllowList, a.Security.IPBlockList = slices.Clone(a.Security.IPAllowList), slices.Clone(a.Security.IPBlockList)
	a.Security.RateLimit = clonePtr(a.Security.RateLimit)
	if a.ProxyProtocol = clonePtr(a.ProxyProtocol); a.ProxyProtocol != nil {
		a.ProxyProtocol.Accept = slices.Clone(a.ProxyProtocol.Accept)
	}
	return r
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// PacketAddr returns the address bound for datagrams of a port as the routes
// name it, or nil.
func (p *Proxy) PacketAddr(port int) net.Addr {
	if r := p.current(); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if pc := r.readPort(port); pc != nil {
			return pc.LocalAddr()
		}
	}
	return nil
}

// Addr returns the address bound for connections to a port as the routes name
// it, or nil.
func (p *Proxy) Addr(port int) net.Addr {
	if r := p.current(); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if ln := r.listeners[port]; ln != nil {
			return ln.Addr()
		}
	}
	return nil
}

// listenAddr is how options and errors write the address of a port.
func (p *Proxy) listenAddr(port int) string {
	return net.JoinHostPort(p.cfg.ListenHost, strconv.Itoa(port))
}
