package radius

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// ErrRunning is returned by Start when the Server is running or still stopping.
var ErrRunning = errors.New("radius: already running")

// ErrNotRunning is returned by what needs a running Server.
var ErrNotRunning = errors.New("radius: not running")

// Server is a RADIUS server. Make one with [New]. Its methods may be called
// from several goroutines.
type Server struct {
	cfg     Config // MACAuth and VLANAssignment aside, fixed by New
	opts    options
	log     *slog.Logger
	clients *clientTable
	realms  []*realm

	rules      atomic.Pointer[rules]
	policyMu   sync.Mutex // serialises changes of rules and of where they are stored
	configured []byte     // the Config's policy as JSON

	stateKey   [32]byte // signs the State of EAP
	duplicates duplicates
	rates      *rateLimiter
	failures   *failureLimiter
	vlans      vlans
	notices    notices
	strangers  notices // of who is no client; apart, since they can be as many as they like
	sessions   *sessions
	stats      counters

	mu       sync.Mutex // held for moments only: the storage may take its time
	starting *starting  // nil if no Start is under way
	run      *run       // nil before Start; kept after Stop for Wait
}

// starting is a Start under way.
type starting struct {
	giveUp context.CancelFunc // with the lock held: then run is set, or never will be
	done   chan struct{}      // closed when it is through
}

// New makes a Server. It checks the whole configuration and does no I/O; the
// error joins all mistakes, each a [*FieldError].
func New(cfg Config, opts ...Option) (*Server, error) {
	s := &Server{cfg: cfg}
	for _, o := range opts {
		o(&s.opts)
	}
	check := conf.NewChecker()
	cfg.validate(check)
	s.opts.validate(check, &cfg)
	if err := check.Err(); err != nil {
		return nil, err
	}
	s.log = s.opts.log
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("component", "radius")
	policy := Policy{cfg.MACAuth, cfg.VLANAssignment}
	policy = policy.clone()
	s.cfg.MACAuth, s.cfg.VLANAssignment = nil, nil
	var err error
	if s.configured, err = conf.Encode(policy, true); err != nil {
		return nil, err
	}
	s.rules.Store(compile(policy))
	s.clients = newClientTable(&cfg)
	s.realms = newRealms(&cfg)
	s.rates = newRateLimiter(cfg.Limits.RateLimit)
	s.failures = newFailureLimiter(&cfg.Limits)
	s.sessions = newSessions(&cfg.Accounting)
	rand.Read(s.stateKey[:])
	return s, nil
}

// validate checks what options and configuration must agree about.
func (o *options) validate(check *conf.Checker, cfg *Config) {
	// A given socket has to be somebody's, and port 0 may be both UDP ports'.
	is := func(addr string, port int) bool {
		return port != 0 && addr == net.JoinHostPort(cfg.ListenHost, strconv.Itoa(port))
	}
	for addr, pc := range o.packetConns {
		if pc == nil {
			check.Errorf("the packet connection for %s is nil", addr)
		} else if !is(addr, pointedOr(cfg.Port, DefaultPort)) && !is(addr, pointedOr(cfg.AccountingPort, DefaultAccountingPort)) {
			check.Errorf("no port uses the packet connection for %s", addr)
		}
	}
	for addr, ln := range o.listeners {
		if ln == nil {
			check.Errorf("the listener for %s is nil", addr)
		} else if cfg.RadSec == nil || !is(addr, pointedOr(cfg.RadSec.Port, DefaultRadSecPort)) {
			check.Errorf("no port uses the listener for %s", addr)
		}
	}
	r := cfg.RadSec
	if r == nil {
		return
	}
	at := check.Field("radSec")
	given := o.tls != nil && (len(o.tls.Certificates) > 0 || o.tls.GetCertificate != nil || o.tls.GetConfigForClient != nil)
	switch {
	case r.Certificate.Auto && o.getCertificate == nil:
		at.Field("certificate").Errorf(`"auto" needs a source of certificates (WithGetCertificate)`)
	case !r.Certificate.Auto && r.Certificate.CertPath == "" && !given:
		at.Field("certificate").Errorf("missing")
	}
	verifies := o.tls != nil && (o.tls.ClientCAs != nil || o.tls.ClientAuth != 0 || o.tls.GetConfigForClient != nil)
	if r.ClientCAPath == "" && !verifies {
		at.Field("clientCaPath").Errorf("missing: clients are known by their certificates")
	}
}

// Start begins to serve. It reads what is stored and returns when all ports are
// bound; on an error it takes everything back. ctx limits the start alone. A
// Server that has stopped can be started again.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := &starting{cancel, make(chan struct{})}
	s.mu.Lock()
	running := s.starting != nil || s.run != nil && !s.run.hasStopped()
	if !running {
		s.starting = start
	}
	s.mu.Unlock()
	if running {
		return ErrRunning
	}
	defer func() {
		s.mu.Lock()
		s.starting = nil
		s.mu.Unlock()
		close(start.done)
	}()
	if err := s.loadPolicy(ctx); err != nil {
		s.closeGiven()
		return err
	}
	r := newRun(s)
	if err := r.open(ctx); err != nil {
		r.cancel()
		s.closeGiven()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil { // Stop does not wait any longer
		r.cancel()
		r.close()
		s.closeGiven()
		return err
	}
	s.warnOfWeakSecrets()
	s.run = r
	r.serve()
	return nil
}

// UseStorage is [WithStorage] for hosts that have no storage yet when they make
// the Server. It holds from the next Start on, and is not for the time of one.
func (s *Server) UseStorage(store *storage.Store) {
	s.policyMu.Lock() // UpdatePolicy may be under way
	defer s.policyMu.Unlock()
	s.opts.store = store
}

func (s *Server) storage() *storage.Store {
	s.policyMu.Lock()
	defer s.policyMu.Unlock()
	return s.opts.store
}

func (s *Server) warnOfWeakSecrets() {
	for _, c := range s.clients.list {
		if n := len(c.secret); n < minSecret {
			s.log.Warn("the secret is shorter than RFC 2865 wants", "client", c.Name, "ip", c.IP, "octets", n, "least", minSecret)
		}
	}
}

// latest returns the run of the last Start, or nil.
func (s *Server) latest() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

// current returns the run that is serving, or nil.
func (s *Server) current() *run {
	if r := s.latest(); r != nil && r.stopping.Load() == 0 {
		return r
	}
	return nil
}

// Stop stops listening at once and waits until requests under way are answered
// or ctx ends, or 30 s have passed where ctx has no deadline; then it gives up on
// them and returns an error that says so and wraps ctx's. Clients do not get records
// acknowledged that are given up, and send them again. Afterwards no goroutine of the
// Server is left, unless the storage, the Authorizer or the accounting sink hangs:
// what waits for it is given up 30 s after that, which is an error. It may be called
// at any time, also several times at once. It waits for a Start that is under way; if
// ctx ends before, that Start fails.
func (s *Server) Stop(ctx context.Context) error {
	limited, cancel := ctx, func() {}
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel = context.WithTimeout(ctx, stopPatience)
	}
	defer cancel()
	err := s.awaitStart(limited)
	r := s.latest()
	if err != nil && (r == nil || r.stopping.Load() != 0) {
		return err
	}
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
	r.stopErr = r.stop(limited)
	close(r.stopped)
	return r.stopErr
}

// awaitStart waits for the end of a Start that is under way, and gives up on it when
// ctx ends.
func (s *Server) awaitStart(ctx context.Context) error {
	s.mu.Lock()
	start := s.starting
	s.mu.Unlock()
	if start == nil {
		return nil
	}
	select {
	case <-start.done:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		start.giveUp()
		return ctx.Err()
	}
}

// closeGiven closes the host's sockets.
func (s *Server) closeGiven() {
	for _, pc := range s.opts.packetConns {
		pc.Close()
	}
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
	case <-r.stopped:
	}
	return r.failure()
}

// Addrs returns the addresses that the Server listens on: for authentication,
// for accounting, and for RadSec where there is that, which is a *net.TCPAddr
// unless the host gave another listener.
func (s *Server) Addrs() []net.Addr {
	r := s.current()
	if r == nil {
		return nil
	}
	addrs := []net.Addr{r.auth.conn.LocalAddr(), r.acct.conn.LocalAddr()}
	if r.radsec != nil {
		addrs = append(addrs, r.radsec.ln.Addr())
	}
	return addrs
}

// listenAddr is how options and errors write the address of a port.
func (s *Server) listenAddr(port int) string {
	return net.JoinHostPort(s.cfg.ListenHost, strconv.Itoa(port))
}

func cannotListen(addr string, err error) error {
	return fmt.Errorf("radius: cannot listen on %s: %w", addr, err)
}
