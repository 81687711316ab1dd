package dnsserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/grace"
)

// ErrRunning is returned by Start when the Server is running, starting or still
// stopping.
var ErrRunning = errors.New("dnsserver: already running")

// errGivenClosed is returned by Start after Stop has closed the host's sockets.
var errGivenClosed = errors.New("dnsserver: the sockets given by WithListener and WithPacketConn are closed: make a new Server")

// Server is an authoritative DNS server. Make one with [New]. Its methods may
// be called from several goroutines.
type Server struct {
	cfg  Config
	opts options
	log  *slog.Logger

	responder
	contents zones

	limits   *connLimits
	rates    *rateLimiter // nil: no limit
	counters *transportCounters

	// respond and exchange, so that tests can put others in their place.
	responding func(sc *scratch, dst, query []byte, from *asker) []byte
	exchanging func(ctx context.Context, sc *scratch, query []byte, from *asker, send func([]byte) error) error

	scratches sync.Pool // *scratch
	messages  sync.Pool // *[]byte, see getMessage
	reading   [2]sync.Pool

	start     sync.Mutex // Start's beginning and end, and Stop's beginning
	starting  *starting  // nil if no Start is under way
	givenGone bool

	run atomic.Pointer[run] // nil before Start; kept after Stop for Wait
}

// starting is a Start under way.
type starting struct {
	giveUp context.CancelFunc
	done   chan struct{}
}

// New makes a Server. It checks the whole configuration and does no I/O; the
// error joins all mistakes, each a [*FieldError] where it is about a field.
func New(cfg Config, opts ...Option) (*Server, error) {
	s := &Server{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	for _, o := range opts {
		o(&s.opts)
	}
	if err := errors.Join(cfg.Validate(), s.opts.check(&cfg)); err != nil {
		return nil, err
	}
	if s.opts.log != nil {
		s.log = s.opts.log
	}
	s.log = s.log.With("component", "dnsserver")
	s.responder.init(&cfg)
	s.contents = zones{responder: &s.responder, log: s.log, now: wallClock, wake: make(chan struct{}, 1), parentDS: s.opts.parentDS}
	newTransfers(&s.contents).changed = s.opts.zoneChanged
	if s.transfers.aliases.resolver = s.opts.resolver; s.opts.resolver == nil {
		s.transfers.aliases.resolver = newStubResolver(cfg.Resolvers)
	}
	s.limits = newConnLimits(&cfg)
	s.idle = s.patience
	s.rates = newRateLimiter(cfg.ResponseRateLimit)
	s.counters = newTransportCounters()
	s.responding, s.exchanging = s.respond, s.exchange
	s.scratches.New = func() any { return s.newScratch() }
	s.messages.New = func() any { b := make([]byte, 0, 4<<10); return &b }
	s.reading[0].New = func() any { b := make([]byte, mediumRead); return &b }
	s.reading[1].New = func() any { b := make([]byte, largeRead); return &b }
	return s, nil
}

// wallClock is the time without Go's monotonic reading: signatures, keys and
// copies end by the wall clock, also after a step of it or while the machine was
// suspended, which the other does not count.
func wallClock() time.Time { return time.Now().Round(0) }

// check finds what only options and configuration together tell.
func (o *options) check(c *Config) error {
	var problems []error
	for _, ln := range o.listeners {
		if ln == nil {
			problems = append(problems, errors.New("dnsserver: the listener given by WithListener is nil"))
		}
	}
	for _, pc := range o.packetConns {
		if pc == nil {
			problems = append(problems, errors.New("dnsserver: the packet connection given by WithPacketConn is nil"))
		}
	}
	if o.getCertificate == nil && (o.tlsConfig == nil || !hasCertificate(o.tlsConfig)) {
		const missing = "needs a certificate: use the option WithGetCertificate or WithTLSConfig"
		if c.DoT != nil {
			problems = append(problems, &FieldError{Path: "dot", Msg: missing})
		}
		if c.DoQ != nil {
			problems = append(problems, &FieldError{Path: "doq", Msg: missing})
		}
		if c.DoH != nil {
			problems = append(problems, &FieldError{Path: "doh", Msg: missing})
		}
	}
	return errors.Join(problems...)
}

// Start reads the zones and begins to serve them. It returns when all sockets
// are bound; if one cannot be, or a zone is wrong, it takes everything back. ctx
// limits the start alone. A Server that has stopped can be started again, unless
// it had sockets of the host's.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := &starting{cancel, make(chan struct{})}
	if err := s.beginStart(start); err != nil {
		return err
	}
	defer s.endStart(start)
	if err := s.contents.loadAll(ctx, &s.cfg); err != nil {
		return err
	}
	r := newRun(s)
	if err := r.bind(ctx); err != nil {
		r.cancel()
		return err
	}
	s.start.Lock()
	defer s.start.Unlock()
	if err := ctx.Err(); err != nil { // Stop does not wait any longer
		r.cancel()
		r.unbind()
		return err
	}
	s.run.Store(r)
	r.listen()
	s.transfers.start()
	s.transfers.goes(s.contents.upkeep)
	return nil
}

// beginStart makes a Start the one under way, if there may be one.
func (s *Server) beginStart(start *starting) error {
	s.start.Lock()
	defer s.start.Unlock()
	if s.starting != nil {
		return ErrRunning
	}
	if r := s.run.Load(); r != nil {
		select {
		case <-r.ended:
		default:
			return ErrRunning
		}
	}
	if s.givenGone && s.opts.given() {
		return errGivenClosed
	}
	s.starting = start
	s.contents.store = s.opts.store
	return nil
}

func (s *Server) endStart(start *starting) {
	s.start.Lock()
	defer s.start.Unlock()
	s.starting = nil
	close(start.done)
}

// awaitStart waits for the end of a Start that is under way, and gives up on it when
// ctx ends. s.start is held before and after.
func (s *Server) awaitStart(ctx context.Context) error {
	for s.starting != nil {
		done := s.starting.done
		s.start.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		s.start.Lock()
		if err := ctx.Err(); err != nil && s.starting != nil {
			s.starting.giveUp()
			return err
		}
	}
	return nil
}

// current returns the run that is serving, or nil.
func (s *Server) current() *run {
	if r := s.run.Load(); r != nil && !r.closing.Load() {
		return r
	}
	return nil
}

// Stop takes in no more queries, answers those that came before, and waits for
// zone transfers under way until ctx ends; then it cuts them off and returns
// ctx's error. Afterwards the sockets of the host are closed, and no goroutine of
// the Server is left, unless the storage hangs: what waits for it is given up
// 12 s after the end of ctx, with an error that says which zones it is about. It
// may be called at any time, also several times at once. It waits for a Start that
// is under way; if ctx ends before, that Start fails.
func (s *Server) Stop(ctx context.Context) error {
	s.start.Lock()
	startErr := s.awaitStart(ctx)
	r := s.run.Load()
	first := r != nil && r.beginStop()
	if !s.givenGone {
		s.givenGone = true
		if r == nil {
			s.opts.closeGiven()
		}
	}
	s.start.Unlock()
	if r == nil {
		return startErr
	}
	if first {
		patience, end := context.WithCancel(ctx)
		defer end()
		defer context.AfterFunc(r.ctx, end)() // another caller has less
		err := grace.Wait(patience, lastWrites, func() error {
			defer close(r.ended)
			defer r.cancel()
			err := r.stop(ctx)
			s.transfers.stop()
			return err
		})
		if errors.Is(err, grace.ErrHangs) {
			what := "something is still under way in the storage"
			if names := s.contents.unwritten(); names != "" {
				what = "what is new in these zones is not stored: " + names
			}
			err = fmt.Errorf("dnsserver: %s: %w", what, err)
		}
		r.stopErr = err
		close(r.stopped)
		return r.stopErr
	}
	select {
	case <-r.stopped:
	case <-ctx.Done():
		// This caller's patience ends before that of the first one.
		r.cut()
		<-r.stopped
	}
	return cmp.Or(startErr, r.stopErr)
}

// lastWrites is how long the storage may take with what is under way when the
// time of Stop is over.
const lastWrites = updateTimeout + 2*time.Second

// Wait blocks until the Server has stopped or cannot go on, and returns the
// error in the latter case. Before Start it returns nil at once.
func (s *Server) Wait() error {
	r := s.run.Load()
	if r == nil {
		return nil
	}
	select {
	case <-r.failed:
	case <-r.stopped:
	}
	select {
	case <-r.failed:
		return r.failure
	default:
		return nil
	}
}

// Addrs returns the addresses that the Server listens on, each with what it is
// for: "127.0.0.1:53/udp", "127.0.0.1:53/tcp", "127.0.0.1:853/tls" or
// "127.0.0.1:853/quic".
func (s *Server) Addrs() []string {
	if r := s.current(); r != nil {
		return r.addrs()
	}
	return nil
}

// ServeConn serves a connection that somebody else has accepted, as a proxy,
// until the client or Stop ends it. It is DNS over TCP (RFC 7766). If conn comes
// from crypto/tls it is DNS over TLS, or over HTTPS where the client has asked for
// "h2" or "http/1.1" by ALPN; a handshake that is still to come is made.
// Limits hold as for connections of the Server's own. It returns when conn is
// closed, at once if the Server does not run.
func (s *Server) ServeConn(conn net.Conn) {
	r := s.current()
	if r == nil || !r.enter() {
		conn.Close()
		return
	}
	defer r.working.Done()
	r.serveConn(conn, overTCP)
}

// patience is for how long a connection may stand without a query just now.
// It is what edns-tcp-keepalive (RFC 7828) tells clients.
func (s *Server) patience() time.Duration { return s.limits.patience(s.cfg.idleTimeout()) }

// getMessage returns an empty message to append to. putMessage takes it back.
func (s *Server) getMessage() *[]byte { return s.messages.Get().(*[]byte) }

func (s *Server) putMessage(b *[]byte) {
	if cap(*b) > 4*largeRead {
		return // of a kind that comes seldom
	}
	*b = (*b)[:0]
	s.messages.Put(b)
}

func (o *options) given() bool { return len(o.listeners)+len(o.packetConns) > 0 }

func (o *options) closeGiven() {
	for _, ln := range o.listeners {
		ln.Close()
	}
	for _, pc := range o.packetConns {
		pc.Close()
	}
}

// listenError says what could not be bound.
func listenError(network, addr string, err error) error {
	return fmt.Errorf("cannot listen on %s/%s: %w", addr, network, err)
}
