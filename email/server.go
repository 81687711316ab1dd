package email

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsc"
	"github.com/dcrouter/dcrouter/email/internal/webhook"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/storage"
)

// ErrRunning is returned by Start when the Server is running or still stopping.
var ErrRunning = errors.New("email: already running")

// ErrNotRunning is returned by what needs a running Server.
var ErrNotRunning = errors.New("email: not running")

// Server is a mail server. Make one with [New]. Its methods may be called from
// several goroutines.
type Server struct {
	cfg  Config // Routes aside, fixed by New
	opts options
	log  *slog.Logger
	now  func() time.Time

	domains map[string]*Domain // by canonical name
	users   *users             // nil: nobody can sign in
	stats   counters

	webhooks atomic.Pointer[webhook.Sender] // of the run, nil without

	routes     atomic.Pointer[routeTable]
	routesMu   sync.Mutex // serialises changes of routes
	configured []byte     // the Config's routes as JSON

	start sync.Mutex          // serialises Start and Stop's beginning
	run   atomic.Pointer[run] // nil before Start; kept after Stop for Wait
}

// New makes a Server. It checks the whole configuration and does no I/O; the
// error joins all mistakes, each a [*FieldError].
func New(cfg Config, opts ...Option) (*Server, error) {
	s := &Server{cfg: cfg}
	for _, o := range opts {
		o(&s.opts)
	}
	check := conf.NewChecker()
	check.Add(cfg.Validate())
	s.opts.validate(check, &cfg)
	if err := check.Err(); err != nil {
		return nil, err
	}
	if s.opts.resolver == nil && len(cfg.Resolvers) > 0 {
		resolver, err := dnsc.New(dnsc.Config{Servers: cfg.Resolvers, TrustAD: cfg.TrustResolvers})
		if err != nil {
			return nil, fmt.Errorf("email: resolvers: %w", err)
		}
		s.opts.resolver = resolver
	}
	s.opts.setDefaults()
	switch s.opts.resolver.(type) {
	case *net.Resolver, *dnsc.Resolver:
	default:
		s.opts.resolver = safeResolver{s, s.opts.resolver}
	}
	s.log, s.now = s.opts.log, s.opts.now
	s.domains = make(map[string]*Domain, len(cfg.Domains))
	for i := range cfg.Domains {
		d := &cfg.Domains[i]
		s.domains[canonicalDomain(d.Domain)] = d
	}
	var err error
	if s.users, err = newUsers(&cfg, &s.opts); err != nil {
		return nil, err
	}
	if s.configured, err = conf.Encode(routeList{cfg.Routes}, true); err != nil {
		return nil, err
	}
	s.routes.Store(compileRoutes(cloneRoutes(cfg.Routes), s.forwards()))
	s.cfg.Routes = nil
	return s, nil
}

// validate checks what options and configuration must agree about.
func (o *options) validate(check *conf.Checker, cfg *Config) {
	for addr, ln := range o.listeners {
		used := false
		for _, p := range cfg.Ports {
			used = used || p.Port != 0 && addr == net.JoinHostPort(cfg.ListenHost, strconv.Itoa(p.Port))
		}
		switch {
		case ln == nil:
			check.Errorf("the listener for %s is nil", addr)
		case !used || cfg.UseSocketHandler:
			check.Errorf("no port uses the listener for %s", addr)
		}
	}
}

// Unready returns what keeps Start from serving though the configuration is
// valid: a port that needs a certificate where there is no source of any, routes
// that deliver where there is no place for mailboxes, and domains in mode
// [InternalDNS] where nobody publishes their records. Each is a [*FieldError].
func (s *Server) Unready() error {
	check := conf.NewChecker()
	for i, p := range s.cfg.Ports {
		if p.EffectiveMode() == SMTPS && !s.OffersTLS() {
			check.Field("ports").Index(i).Errorf("mode smtps needs a certificate: give tls, or a source of certificates")
		}
	}
	for i := range s.cfg.Domains {
		if s.opts.publisher == nil && s.cfg.DNSMode(&s.cfg.Domains[i]) == InternalDNS {
			check.Field("domains").Index(i).Field("dnsMode").Errorf("internal-dns needs a DNS server of ours: a DNSPublisher")
		}
	}
	s.opts.validatePlaces(check.Field("routes"), s.routes.Load().given, s.cfg.DataPath)
	return check.Err()
}

// validatePlaces wants a place for the mail of each route that delivers.
func (o *options) validatePlaces(check *conf.Checker, routes []Route, dataPath string) {
	if dataPath != "" || o.mailbox != nil {
		return
	}
	for i := range routes {
		a := &routes[i].Action
		if a.Type == Deliver && (a.Deliver == nil || a.Deliver.Maildir == "" && a.Deliver.LMTP == "") {
			check.Index(i).Field("action").Errorf("there is no place for mailboxes: give deliver.maildir or deliver.lmtp, dataPath in the configuration, or a Mailbox")
		}
	}
}

// warn tells of what is no mistake, and still not what anybody wants.
func (s *Server) warn() {
	for _, p := range s.cfg.Ports {
		switch {
		case p.EffectiveMode() == SMTP:
		case s.users == nil:
			s.log.Warn("nobody can send mail to a port that is for users, as there are none: auth.users is empty, and there is no Authenticator", "port", p.Port)
		case !s.OffersTLS():
			s.log.Warn("nobody can send mail to a port that is for users, as they sign in under TLS only, and there is no certificate", "port", p.Port)
		}
	}
}

// OffersTLS reports whether there is a source of certificates, [Config.TLS] or
// [WithGetCertificate]: without one there is neither STARTTLS nor the mode smtps.
func (s *Server) OffersTLS() bool { return s.cfg.TLS != nil || s.opts.getCertificate != nil }

// EffectiveMode returns Mode, or what Port means where that is "".
func (p Port) EffectiveMode() string {
	switch {
	case p.Mode != "":
		return p.Mode
	case p.Port == 587:
		return Submission
	case p.Port == 465:
		return SMTPS
	}
	return SMTP
}

// Check reads the files that the configuration names, as Start would, and
// returns all mistakes in them.
func (s *Server) Check() error {
	check := conf.NewChecker()
	s.checkFiles(check)
	return check.Err()
}

// Start begins to serve. It opens the spool and returns when all ports are
// bound; on an error it takes everything back. ctx limits the start alone. A
// Server that has stopped can be started again.
func (s *Server) Start(ctx context.Context) error {
	s.start.Lock()
	defer s.start.Unlock()
	if r := s.run.Load(); r != nil {
		select {
		case <-r.stopped:
		default:
			return ErrRunning
		}
	}
	err := s.loadRoutes(ctx)
	if err == nil {
		err = s.Unready()
	}
	if err != nil {
		s.closeGiven()
		return err
	}
	r, err := s.open(ctx)
	if err != nil {
		s.closeGiven()
		return err
	}
	s.warn()
	s.run.Store(r)
	r.serve()
	return nil
}

// UseStorage is [WithStorage] for hosts that have no storage yet when they make
// the Server. It holds from the next Start on.
func (s *Server) UseStorage(store *storage.Store) {
	s.start.Lock()
	defer s.start.Unlock()
	s.routesMu.Lock() // UpdateRoutes may be under way
	defer s.routesMu.Unlock()
	s.opts.store = store
}

// latest returns the run of the last Start, or nil.
func (s *Server) latest() *run { return s.run.Load() }

// current returns the run that is serving, or nil.
func (s *Server) current() *run {
	if r := s.latest(); r != nil && r.stopping.Load() == 0 {
		return r
	}
	return nil
}

// Stop stops listening at once, tells clients that wait to come back (421), and
// waits until messages and deliveries under way are through or ctx ends; then it
// gives up on them and returns ctx's error. What was accepted is in the spool
// for the next Start. Afterwards no goroutine of the Server is left, unless the
// storage hangs: what waits for it is given up 32 s after that, which is an error.
// It may be called at any time, also several times at once.
func (s *Server) Stop(ctx context.Context) error {
	s.start.Lock() // a Start under way is brought to its end
	r := s.latest()
	s.start.Unlock()
	if r == nil {
		s.closeGiven()
		return nil
	}
	if !r.stopping.CompareAndSwap(0, 1) {
		select {
		case <-r.stopped:
		case <-ctx.Done():
			r.cancel() // this caller's patience ends before that of the first one
			<-r.stopped
		}
		return r.stopErr
	}
	r.stopErr = grace.Wait(r.ctx, lastWrites+lastAnswers, func() error { return r.stop(ctx) })
	close(r.stopped)
	return r.stopErr
}

// closeGiven closes the host's listeners.
func (s *Server) closeGiven() {
	for _, ln := range s.opts.listeners {
		ln.Close()
	}
}

// Wait blocks until the Server has stopped or cannot go on, and returns the
// error in the latter case. Before Start it returns nil at once.
func (s *Server) Wait() error {
	r := s.latest()
	if r == nil {
		return nil
	}
	select {
	case <-r.failed:
		return r.failErr
	case <-r.stopped:
		return nil
	}
}

// Addrs returns the addresses that the Server listens on, in the order of
// [Config.Ports].
func (s *Server) Addrs() []net.Addr {
	r := s.current()
	if r == nil {
		return nil
	}
	var addrs []net.Addr
	for _, l := range r.listeners {
		addrs = append(addrs, l.ln.Addr())
	}
	return addrs
}

// canonicalDomain is how domains are compared.
func canonicalDomain(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// domain returns the configured domain of this name, or nil. Subdomains are
// domains of their own.
func (s *Server) domain(name string) *Domain { return s.domains[canonicalDomain(name)] }

// postmasterDomain is whose postmaster the one without a domain is (RFC 5321
// section 4.5.1).
func (s *Server) postmasterDomain() string {
	if host := canonicalDomain(s.cfg.Hostname); s.isOurs(host) || len(s.cfg.Domains) == 0 {
		return host
	}
	return canonicalDomain(s.cfg.Domains[0].Domain)
}

func (s *Server) isOurs(domain string) bool { return s.domain(domain) != nil }
