package opsapi

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/grace"
	"github.com/dcrouter/dcrouter/storage"
)

// Server is the operations API. Make one with [New]. Its methods may be called
// from several goroutines.
type Server struct {
	cfg     Config
	opts    options
	log     *slog.Logger
	methods Methods
	events  *events
	// busyTime is after what time to come again who found all busy.
	busyTime time.Duration
	stopTime time.Duration // see the constants
	hangTime time.Duration
	boot     string // tells numbers of events from those of another Server
	proxies  []netip.Prefix

	mu  sync.Mutex // serialises Start and Stop's beginning, and guards run
	run *run       // nil before Start; kept after Stop for Wait
	// restored is of Restore, for the next Start; nil without it.
	restored *history
	// served is run, for those who do not have mu.
	served atomic.Pointer[run]
}

// run is a Server between one Start and its Stop.
type run struct {
	started   time.Time
	ln        net.Listener
	silent    silentConns
	server    *http.Server
	memory    *storage.Store // of ours, if the host gave none
	sessions  *sessions
	gate      *gate
	audit     *audit
	history   *history // nil: there is no configuration
	assets    *assets  // nil: there is no dashboard
	openAPI   []byte
	slots     chan struct{} // a token for each request under way
	refused   atomic.Uint64 // requests that found none
	streams   chan struct{} // and for each stream of events
	bodies    room          // for requests of who has signed in
	strangers room          // and of others
	crowd     *crowd
	writes    writes

	ctx      context.Context // ends when streams should
	cancel   context.CancelFunc
	over     context.Context // ends when Stop waits no longer
	giveUp   context.CancelFunc
	wait     sync.WaitGroup
	stopping bool // guarded by Server.mu
	stopped  chan struct{}
	stopErr  error
	failed   chan error // what the HTTP server said, if it ended by itself
}

// Bounds of what is served at once, and of requests.
const (
	maxConnections = 1024
	maxRequests    = 64
	maxStreams     = 256
	maxBody        = 8 << 20  // bytes
	smallBody      = 64 << 10 // bytes; of larger ones
	maxLarge       = 4        // are read at once
	maxSmall       = 256      // and of all
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 60 * time.Second
	idleTimeout    = 2 * time.Minute
	sweepPeriod    = time.Minute
	answerTimeout  = 5 * time.Minute // longer than a change of the configuration may take
	drainTime      = 2 * time.Second
	// stopTime bounds a Stop without a deadline: who has waited for longer gets no
	// answer any more.
	stopTime = answerTimeout
	// hangTime is how long what should have ended is waited for: a storage that does
	// not heed its context may take for ever.
	hangTime = 5 * time.Second
)

// New makes a Server. It checks the whole configuration and does no I/O; the
// error joins all mistakes, each a [*FieldError].
func New(cfg Config, opts ...Option) (*Server, error) {
	s := &Server{cfg: cfg, events: newEvents(), boot: rand.Text()[:10], busyTime: 250 * time.Millisecond, stopTime: stopTime, hangTime: hangTime}
	for _, o := range opts {
		o(&s.opts)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if s.opts.now == nil {
		s.opts.now = time.Now
	}
	s.log = s.opts.log
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("component", "ops")
	s.proxies = conf.ParseCIDRs(cfg.TrustedProxies)
	s.register()
	return s, nil
}

// Methods are what the API can do, for a host to add its own by [Handle] before
// Start.
func (s *Server) Methods() *Methods { return &s.methods }

func (s *Server) now() time.Time { return s.opts.now() }

// UseStorage is [WithStorage] for hosts that have no storage yet when they make
// the Server. It holds from the next Start on.
func (s *Server) UseStorage(store *storage.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.store = store
}

// Restore brings the configuration into force that was confirmed last through the
// API, as Start does, but sooner: for hosts that must not serve by another one until
// then. It does nothing without [WithStorage] or [WithConfiguration]. ctx limits it.
func (s *Server) Restore(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.notRunning(); err != nil {
		return err
	}
	s.restored = nil
	if s.opts.configuration == nil || s.opts.store == nil {
		return nil
	}
	key, err := loadKey(ctx, s.opts.store)
	if err != nil {
		return err
	}
	h := s.newHistory(s.opts.store, key)
	if err := h.open(ctx); err != nil {
		return err
	}
	s.restored = h
	return nil
}

// notRunning returns ErrRunning between Start and the end of Stop. The caller holds
// s.mu.
func (s *Server) notRunning() error {
	if s.run == nil {
		return nil
	}
	select {
	case <-s.run.stopped:
		return nil
	default:
		return ErrRunning
	}
}

// Start begins to serve. It reads what is stored, brings the configuration into
// force that was confirmed last through the API unless Restore has, and returns when
// the port is bound; on an error it takes everything back. ctx limits the start
// alone. A Server that has stopped can be started again, unless its listener was the
// host's.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.notRunning(); err != nil {
		return err
	}
	r := &run{
		started: s.now(), stopped: make(chan struct{}), failed: make(chan error, 1),
		slots: make(chan struct{}, maxRequests), streams: make(chan struct{}, maxStreams),
		bodies: newRoom(), strangers: newRoom(), crowd: &crowd{log: s.log, now: s.now},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.over, r.giveUp = context.WithCancel(context.Background())
	if err := s.open(ctx, r); err != nil {
		r.cancel()
		if s.opts.listener != nil {
			s.opts.listener.Close()
		}
		return errors.Join(err, r.close())
	}
	s.run = r
	s.served.Store(r)
	r.wait.Go(func() {
		if err := r.server.Serve(r.ln); !errors.Is(err, http.ErrServerClosed) {
			r.failed <- fmt.Errorf("opsapi: %w", err)
		}
		close(r.failed)
	})
	r.wait.Go(func() { s.tick(r) })
	return nil
}

// open makes all that a run has, its listener last.
func (s *Server) open(ctx context.Context, r *run) error {
	if err := errors.Join(s.methods.errs...); err != nil {
		return err
	}
	store := s.opts.store
	if store == nil {
		s.log.Warn("no storage is given: sessions, the history of the configuration and the audit log are lost at the end")
		var err error
		if store, err = storage.Open(ctx, storage.Memory()); err != nil {
			return err
		}
		r.memory = store
	}
	accounts, err := loadAccounts(ctx, store, &s.cfg)
	if err != nil {
		return err
	}
	if r.sessions, err = loadSessions(ctx, store, accounts, s.now, s.log); err != nil {
		return err
	}
	r.gate = newGate(accounts, s.now)
	if r.audit, err = loadAudit(ctx, store); err != nil {
		return err
	}
	if r.openAPI, err = s.methods.openAPI(s.opts.version); err != nil {
		return err
	}
	if s.opts.dashboard != nil {
		if r.assets, err = loadAssets(s.opts.dashboard); err != nil {
			return err
		}
	}
	if err := s.listen(ctx, r); err != nil {
		return err
	}
	if s.opts.configuration == nil {
		return nil
	}
	restored := s.restored
	s.restored = nil
	if restored != nil && restored.v.store == store {
		r.history = restored
	} else {
		r.history = s.newHistory(store, r.sessions.key)
		if err := r.history.open(ctx); err != nil {
			return err
		}
	}
	r.history.start(r.over)
	return nil
}

func (s *Server) newHistory(store *storage.Store, key ed25519.PrivateKey) *history {
	return &history{
		source: s.opts.configuration, log: s.log, now: s.now, key: hashKey(key), v: versionStore{store: store},
		publish: func(e configurationEvent) { s.publishOwn(topicConfiguration, e) },
	}
}

// hashKey makes the key of hashes of configurations.
func hashKey(key ed25519.PrivateKey) []byte {
	mac := hmac.New(sha256.New, key.Seed())
	mac.Write([]byte("hashes of configurations"))
	return mac.Sum(nil)
}

// Restore is [Server.Restore] for a host that has no Server, but may have had one
// with this storage: what nobody confirmed is taken back, and where its configuration
// is another one than with the Server, that is in force. Without a history in the
// storage it does nothing. Nothing is logged where log is nil.
func Restore(ctx context.Context, store *storage.Store, c Configuration, log *slog.Logger) error {
	if _, err := store.Get(ctx, headKey); errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	key, err := loadKey(ctx, store)
	if err != nil {
		return err
	}
	h := &history{source: c, log: log.With("component", "ops"), now: time.Now, key: hashKey(key), v: versionStore{store: store}}
	return h.open(ctx)
}

func (s *Server) listen(ctx context.Context, r *run) error {
	r.ln = s.opts.listener
	if r.ln == nil {
		host, port := s.cfg.ListenHost, DefaultPort
		if host == "" {
			host = DefaultListenHost
		}
		if s.cfg.Port != nil {
			port = *s.cfg.Port
		}
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		var lc net.ListenConfig
		ln, err := s.opts.sockets.Listen(ctx, lc, "tcp", addr)
		if err != nil {
			return fmt.Errorf("opsapi: cannot listen on %s: %w", addr, err)
		}
		r.ln = ln
	}
	if local := parseAddr(r.ln.Addr().String()); s.opts.tls == nil && local.IsValid() && !local.IsLoopback() {
		s.log.Warn("passwords would go over the network in the clear: put a proxy with TLS in front, or give a TLS configuration", "address", r.ln.Addr().String())
	}
	r.ln = newBoundedListener(r.ln, maxConnections, s.trusts, r.crowd.full)
	if s.opts.tls != nil {
		c := s.opts.tls.Clone()
		if len(c.NextProtos) == 0 {
			c.NextProtos = []string{"h2", "http/1.1"}
		}
		r.ln = tls.NewListener(r.ln, c)
	}
	r.server = &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), ConnState: r.silent.note,
	}
	return nil
}

// close takes back what open has made.
func (r *run) close() error {
	var errs []error
	if r.history != nil {
		end := r.writes.begin("that an unconfirmed change of the configuration is taken back")
		r.history.close()
		end()
	}
	r.giveUp()
	if r.ln != nil {
		r.ln.Close() // may be closed already
	}
	if r.memory != nil {
		errs = append(errs, r.memory.Close())
	}
	return errors.Join(errs...)
}

// running returns what is served, or was last: a request may outlast it, if its
// time to end is over or it came through [Server.Handler]. Before Start there is
// nobody who could have one.
func (s *Server) running() *run { return s.served.Load() }

// serving reports whether requests are answered.
func (r *run) serving() bool { return r != nil && r.ctx.Err() == nil }

// Addr returns the address that the Server listens on, or nil if it does not
// run.
func (s *Server) Addr() net.Addr {
	if r := s.running(); r.serving() {
		return r.ln.Addr()
	}
	return nil
}

// Stop ends streams of events, waits for requests under way until ctx ends or for 5
// minutes, then closes their connections, ends the context of a change of the
// configuration that is being applied, and returns the context's error. Afterwards no
// goroutine of the Server is left, unless the storage hangs: what waits for it is given
// up 5 s after that, and the error says what may not be stored. It may be called at any
// time, also several times at once.
// A change of the configuration that waits to be confirmed is taken back at the
// next Start.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	r := s.run
	if r == nil {
		s.mu.Unlock()
		if s.opts.listener != nil {
			s.opts.listener.Close()
		}
		return nil
	}
	first := !r.stopping
	r.stopping = true
	s.mu.Unlock()
	if !first {
		select {
		case <-r.stopped:
		case <-ctx.Done():
			r.giveUp()
			r.server.Close() // this caller's patience ends before that of the first one
			<-r.stopped
		}
		return r.stopErr
	}
	r.cancel()
	ctx, cancel := context.WithTimeout(ctx, s.stopTime)
	defer cancel()
	defer context.AfterFunc(ctx, r.giveUp)()
	r.stopErr = grace.Wait(r.over, s.hangTime, func() error { return r.stop(ctx) })
	if errors.Is(r.stopErr, grace.ErrHangs) {
		r.stopErr = errors.Join(ctx.Err(), fmt.Errorf("opsapi: the storage, or code of the host: %w (under way, and maybe not stored: %s)", r.stopErr, &r.writes))
	}
	close(r.stopped)
	return r.stopErr
}

// stop ends what runs, with ctx's error if it did not by itself.
func (r *run) stop(ctx context.Context) error {
	silent := time.AfterFunc(silentGrace, r.silent.close)
	err := r.server.Shutdown(ctx)
	silent.Stop()
	if err != nil {
		r.server.Close()
	}
	r.wait.Wait()
	err = errors.Join(err, r.drain(ctx))
	if r.history != nil {
		end := r.writes.begin("what the host has changed in the configuration")
		ctx, cancel := lasting(context.Background(), r.over, drainTime)
		err = errors.Join(err, r.history.note(ctx))
		cancel()
		end()
	}
	return errors.Join(err, r.close())
}

// drain waits for requests that are in the host's code although their
// connection is closed, or that came through Handler: until ctx ends, and a
// little longer since that is only just the case.
func (r *run) drain(ctx context.Context) error {
	late, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })
	defer stop()
	for _, tokens := range []chan struct{}{r.slots, r.streams} {
		for range cap(tokens) {
			select {
			case tokens <- struct{}{}:
			case <-late.Done():
				return fmt.Errorf("opsapi: requests are under way that do not end: %s", &r.writes)
			}
		}
	}
	return nil
}

// Wait blocks until the Server has stopped or cannot go on, and returns the
// error in the latter case. Before Start it returns nil at once.
func (s *Server) Wait() error {
	s.mu.Lock()
	r := s.run
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	err, failed := <-r.failed
	if failed {
		return err
	}
	<-r.stopped
	return nil
}

// tick is what happens as time goes by: counters for those who watch, and the
// end of sessions.
func (s *Server) tick(r *run) {
	stats := time.NewTicker(statsPeriod)
	defer stats.Stop()
	sweep := time.NewTicker(sweepPeriod)
	defer sweep.Stop()
	var health string
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-sweep.C:
			s.sweep(r)
		case <-stats.C:
			if s.events.topic(topicStats).Watched() {
				s.publishOwn(topicStats, s.statistics(r))
			}
			if s.events.topic(topicHealth).Watched() {
				now := s.healthStatus(r.ctx, r, true)
				if summary := now.summary(); summary != health {
					health = summary
					s.publishOwn(topicHealth, now)
				}
			}
		}
	}
}

// sweep removes sessions that have ended, and notes what the host has changed: should
// it crash, that is not lost for longer.
func (s *Server) sweep(r *run) {
	end := r.writes.begin("that sessions have ended")
	err := r.sessions.sweep(r.ctx)
	end()
	if err != nil && r.ctx.Err() == nil {
		s.log.Warn("sessions that have ended cannot be removed", "err", err)
	}
	if r.history == nil {
		return
	}
	end = r.writes.begin("what the host has changed in the configuration")
	err = r.history.note(r.ctx)
	end()
	if err != nil && r.ctx.Err() == nil {
		s.log.Warn("what the host has changed in the configuration cannot be stored", "err", err)
	}
}

// publishOwn publishes what the Server has to say.
func (s *Server) publishOwn(topic string, v any) {
	if err := s.events.publish(topic, v); err != nil {
		s.log.Error("an event cannot be published", "topic", topic, "err", err)
	}
}
