package email

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/greylist"
	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/smtpd"
	"github.com/dcrouter/dcrouter/email/internal/spool"
	"github.com/dcrouter/dcrouter/internal/certfile"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/netconn"
)

// run is a Server between one Start and its Stop.
type run struct {
	s      *Server
	ctx    context.Context // ends when what is left at Stop must go
	cancel context.CancelFunc

	last    context.Context // of what has to be written all the same: ends lastWrites after that
	endLast context.CancelFunc

	engine     *smtpd.Server
	listeners  []listener
	store      spool.Store
	queue      *queue
	maildirs   *maildirs
	limits     *limits
	checker    *auth.Checker
	scanners   []scanner
	reputation *ReputationChecker // nil without
	greylist   *greylist.List     // nil without
	domains    *domains
	buffers    sync.Pool // of *[]byte, to copy contents with
	readers    sync.Pool // of *bufio.Reader, for header sections

	outbound

	serving sync.WaitGroup // who accepts connections

	ready    chan struct{} // closed when mail may be queued
	stopping atomic.Int32  // 1: Stop was called
	quit     chan struct{} // closed then, when nobody brings new mail
	stopped  chan struct{} // closed when Stop is through
	stopErr  error         // what Stop returns; set before stopped is closed

	failOnce sync.Once
	failed   chan struct{} // closed when serving has come to an end by itself
	failErr  error
}

// listener is a port.
type listener struct {
	ln    net.Listener
	mode  smtpd.Mode
	front *front // nil: the engine accepts by itself
}

// open makes everything ready and binds the ports, or takes everything back.
func (s *Server) open(ctx context.Context) (_ *run, err error) {
	r := &run{
		s:       s,
		limits:  s.newLimits(),
		checker: &auth.Checker{Resolver: lookup.NewCache(s.opts.resolver, s.now), Hostname: s.cfg.Hostname, Now: s.now},
		ready:   make(chan struct{}),
		quit:    make(chan struct{}),
		stopped: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	r.buffers.New = func() any { b := make([]byte, 32<<10); return &b }
	r.readers.New = func() any { return bufio.NewReader(nil) }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.last, r.endLast = context.WithCancel(context.Background())
	context.AfterFunc(r.ctx, func() { time.AfterFunc(lastWrites, r.endLast) })
	defer func() {
		if err != nil {
			r.cancel()
			err = errors.Join(err, r.close())
		}
	}()
	check := conf.NewChecker()
	cert := s.checkFiles(check)
	if err := check.Err(); err != nil {
		return nil, err
	}
	if r.engine, err = smtpd.New(s.engineConfig(cert), r, s.log); err != nil {
		return nil, err
	}
	if r.maildirs, err = newMaildirs(s); err != nil {
		return nil, err
	}
	if c := s.cfg.IPReputation; c != nil {
		if r.reputation, err = newReputation(c, &s.opts); err != nil {
			return nil, err
		}
	}
	if c := s.cfg.Greylisting; c != nil {
		r.greylist, err = greylist.Open(ctx, greylist.Config{
			Delay: valueOr(c.Delay, time.Minute), Window: valueOr(c.Window, 24*time.Hour), Keep: c.Lifetime, Store: s.opts.store, Log: s.log, Now: s.now,
		})
		if err != nil {
			return nil, err
		}
	}
	r.scanners = newScanners(s.cfg.Scanners)
	if r.domains, err = s.openDomains(ctx); err != nil {
		return nil, err
	}
	if r.store, err = s.openSpool(ctx, r.fail); err != nil {
		return nil, err
	}
	if err := r.openOutbound(ctx); err != nil {
		return nil, err
	}
	if r.queue, err = openQueue(ctx, r, r.store); err != nil {
		return nil, err
	}
	return r, r.listen(ctx)
}

// openSpool opens the spool in the folder for data, or else in the storage. lost is
// told if another Server takes it over.
func (s *Server) openSpool(ctx context.Context, lost func(error)) (spool.Store, error) {
	o := spool.Options{Logger: s.log, OnLost: lost}
	switch {
	case s.cfg.DataPath != "":
		return spool.OpenLog(filepath.Join(s.cfg.DataPath, "spool"), o)
	case s.opts.store != nil:
		return spool.OpenStorage(ctx, s.opts.store, "email/spool", o)
	}
	s.log.Warn("no folder for data and no storage is configured: mail is kept in memory, and what is not delivered is lost when the process ends")
	return spool.Memory(o), nil
}

// checkFiles reads the files of the configuration.
func (s *Server) checkFiles(check *conf.Checker) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	get := s.opts.getCertificate
	if t := s.cfg.TLS; t != nil {
		pair, err := certfile.Open(t.CertPath, t.KeyPath, s.log)
		if err != nil {
			check.Field("tls").Add(err)
		} else {
			get = pair.GetCertificate
		}
	}
	checkRouteFiles(check.Field("routes"), s.routes.Load().given)
	if h := s.cfg.SmartHost; h != nil {
		if _, err := clientTLS(&h.TLS); err != nil {
			check.Field("smartHost").Field("tls").Field("caPath").Errorf("%v", err)
		}
	}
	if _, err := caPool(s.cfg.Outbound.CAPath); err != nil {
		check.Field("outbound").Field("caPath").Errorf("%v", err)
	}
	return get
}

func checkRouteFiles(check *conf.Checker, routes []Route) {
	for i := range routes {
		if f := routes[i].Action.Forward; f != nil {
			if _, err := clientTLS(&f.TLS); err != nil {
				check.Index(i).Field("action").Field("forward").Field("tls").Field("caPath").Errorf("%v", err)
			}
		}
	}
}

// clientTLS is the setting for TLS on the way to another server.
func clientTLS(t *ClientTLS) (*tls.Config, error) {
	roots, err := caPool(t.CAPath)
	return &tls.Config{InsecureSkipVerify: t.InsecureSkipVerify, RootCAs: roots}, err
}

// caPool reads the authorities in a file; nil, for those of the system, without
// one.
func caPool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificates in it", path)
	}
	return pool, nil
}

func (s *Server) engineConfig(cert func(*tls.ClientHelloInfo) (*tls.Certificate, error)) smtpd.Config {
	c := smtpd.Config{
		Hostname:            s.cfg.Hostname,
		MaxMessageSize:      valueOr(s.cfg.MaxMessageSize, defaultMessageSize),
		MaxRecipients:       s.mostRecipients(),
		CommandTimeout:      s.cfg.Connections.Timeout,
		DataTimeout:         s.cfg.Connections.Timeout,
		GreetDelay:          s.cfg.Connections.GreetDelay,
		MaxConnections:      valueOr(s.cfg.Connections.Max, defaultConnections),
		MaxConnectionsPerIP: s.cfg.RateLimits.Inbound.ConnectionsPerIP,
		MaxErrors:           s.cfg.Connections.MaxErrors,
		OnEvent:             s.engineEvent,
	}
	if cert != nil {
		c.TLS = &tls.Config{GetCertificate: cert, MinVersion: tls.VersionTLS12}
	}
	return c
}

const (
	defaultMessageSize = 50 << 20
	defaultConnections = 4000
)

// mostRecipients is what the engine lets through: no domain allows more.
func (s *Server) mostRecipients() int {
	most := s.limitsOf("").RecipientsPerMessage
	for name := range s.domains {
		most = max(most, s.limitsOf(name).RecipientsPerMessage)
	}
	return most
}

// engineEvent tells of what the engine holds against clients.
func (s *Server) engineEvent(c *smtpd.Conn, e smtpd.Event) {
	reason := "protocol"
	switch e {
	case smtpd.TooManyConnections, smtpd.ServerFull:
		reason = "connections"
	case smtpd.EarlyTalker:
		reason = "early-talker"
	case smtpd.BareNewline, smtpd.InjectedBehindTLS:
		reason = "smuggling"
	case smtpd.TimedOut:
		reason = "timeout"
	case smtpd.HandshakeFailed:
		reason = "tls"
	}
	s.stats.reasons.add(reason)
	// That others have taken up all the room is not the client's doing.
	security := isSecurity(reason) && e != smtpd.ServerFull
	s.event(Event{Kind: EventRefused, ConnID: c.ID(), Client: addrOf(c.RemoteAddr()), Reason: string(e), Cause: reason, Security: security})
}

// listen binds the ports.
func (r *run) listen(ctx context.Context) error {
	if r.s.cfg.UseSocketHandler {
		return nil
	}
	for _, p := range r.s.cfg.Ports {
		addr := net.JoinHostPort(r.s.cfg.ListenHost, strconv.Itoa(p.Port))
		ln := r.s.opts.listeners[addr]
		if ln == nil {
			var lc net.ListenConfig
			var err error
			if ln, err = r.s.opts.sockets.Listen(ctx, lc, "tcp", addr); err != nil {
				return fmt.Errorf("email: cannot listen on %s: %w", addr, err)
			}
		}
		l := listener{ln: ln, mode: engineMode(p.EffectiveMode())}
		if rules := r.s.cfg.frontRules(); rules != nil {
			l.front = newFront(r.s, ln, rules)
			l.ln = l.front
		}
		r.listeners = append(r.listeners, l)
	}
	return nil
}

func engineMode(mode string) smtpd.Mode {
	return smtpd.Mode{Submission: mode != SMTP, ImplicitTLS: mode == SMTPS}
}

func modeOf(m smtpd.Mode) string {
	switch {
	case m.ImplicitTLS:
		return SMTPS
	case m.Submission:
		return Submission
	}
	return SMTP
}

// serve starts all goroutines.
func (r *run) serve() {
	close(r.ready)
	for _, l := range r.listeners {
		if l.front != nil {
			r.serving.Go(l.front.serve)
		}
		r.serving.Go(func() {
			if err := r.engine.Serve(r.ctx, l.ln, l.mode); err != nil && r.stopping.Load() == 0 {
				r.fail(fmt.Errorf("email: serving %s: %w", l.ln.Addr(), err))
			}
		})
	}
	r.serving.Go(r.queue.serve)
	looking, cancel := context.WithCancel(r.ctx)
	r.serving.Go(func() { r.domains.serve(looking) })
	r.serving.Go(func() {
		<-r.quit
		cancel()
	})
}

// fail ends Wait.
func (r *run) fail(err error) {
	r.failOnce.Do(func() {
		r.failErr = err
		close(r.failed)
		r.s.log.Error("serving has come to an end", "err", err)
	})
}

// stop is the way out: no new mail, then the end of deliveries under way, then
// the spool.
func (r *run) stop(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)() // another caller of Stop has lost patience
	defer context.AfterFunc(ctx, r.cancel)() // a session may hang: from here on it is waited for a while only
	err := r.engine.Shutdown(ctx)
	close(r.quit)
	done := make(chan struct{})
	go func() { // ends below at the latest, when r.ctx has
		r.serving.Wait()
		r.queue.close()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	r.cancel()
	<-done
	return errors.Join(err, r.close())
}

// close closes what open has opened.
func (r *run) close() error {
	ctx, cancel := r.lasting()
	defer cancel()
	var errs []error
	if r.engine != nil {
		errs = append(errs, r.engine.Close())
	}
	for _, l := range r.listeners {
		l.ln.Close()
	}
	for _, s := range r.scanners {
		if c, ok := s.scan.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	if r.greylist != nil {
		errs = append(errs, r.greylist.Close(ctx))
	}
	errs = append(errs, r.closeOutbound(ctx))
	if r.domains != nil {
		r.domains.keys.Close()
	}
	if r.store != nil {
		errs = append(errs, r.store.Close(ctx))
	}
	return errors.Join(errs...)
}

const (
	// lastWrites bounds what must be written though somebody is in a hurry, all of it.
	lastWrites = 30 * time.Second
	// lastAnswers is for what comes to its end then.
	lastAnswers = 2 * time.Second
)

// lasting is for what has to be noted, also if Stop has lost patience.
func (r *run) lasting() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.last, lastWrites)
}

// ConnInfo describes a connection that the host has accepted, where the connection
// itself does not. What is zero is as the connection says.
type ConnInfo struct {
	// ID is the [Client.ID] to give it.
	ID string
	// Client and Local are its two ends.
	Client, Local netip.AddrPort
}

// ServeConn serves a connection that the host has accepted, as on a port of this
// mode ([SMTP], [Submission] or [SMTPS]), and returns when it has ended and is
// closed. When ctx ends, it is closed. On a connection that is TLS already
// ([crypto/tls.Conn]), mode [SMTPS] does not begin another one.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, mode string, peer ConnInfo) error {
	r := s.current()
	if r == nil {
		conn.Close()
		return ErrNotRunning
	}
	if peer.ID != "" {
		ctx = smtpd.WithID(ctx, peer.ID)
	}
	r.engine.ServeConn(ctx, peer.wrap(conn), engineMode(mode))
	return nil
}

// wrap makes conn say what peer knows better.
func (p *ConnInfo) wrap(conn net.Conn) net.Conn {
	if !p.Client.IsValid() && !p.Local.IsValid() {
		return conn
	}
	w := &peerConn{Conn: conn, remote: conn.RemoteAddr(), local: conn.LocalAddr()}
	if p.Client.IsValid() {
		w.remote = net.TCPAddrFromAddrPort(p.Client)
	}
	if p.Local.IsValid() {
		w.local = net.TCPAddrFromAddrPort(p.Local)
	}
	return w
}

type peerConn struct {
	net.Conn
	remote, local net.Addr
}

func (c *peerConn) RemoteAddr() net.Addr { return c.remote }
func (c *peerConn) LocalAddr() net.Addr  { return c.local }
func (c *peerConn) CloseWrite() error    { return netconn.CloseWrite(c.Conn) }

// addrOf is the IP address in a; the zero Addr if it has none.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("") // no network contains one with a zone
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		host = a.String()
	}
	addr, _ := netip.ParseAddr(strings.Trim(host, "[]"))
	return addr.Unmap().WithZone("")
}

// loggedRecipients bounds the addresses in one line of the log.
const loggedRecipients = 10

// maxReason bounds [Event.Reason], in bytes.
const maxReason = 1000

// event tells the host and the log what happened.
func (s *Server) event(e Event) {
	e.Time, e.Reason = s.now(), clipTo(e.Reason, maxReason) // a server may say anything, of any length
	s.logEvent(&e)
	if hook := s.opts.hooks.OnEvent; hook != nil {
		s.tell(hook, e)
	}
	for _, tell := range s.opts.observers {
		s.tell(tell, e)
	}
	s.tellWebhooks(&e)
}

// tell tells the host. A panic of it changes nothing of what has happened.
func (s *Server) tell(tell func(Event), e Event) {
	_ = s.guarded("an observer", func() error { tell(e); return nil }, "conn_id", e.ConnID, "msg_id", e.MessageID)
}

func (s *Server) logEvent(e *Event) {
	level := slog.LevelInfo
	if e.Kind == EventConnected {
		level = slog.LevelDebug // whatever comes of it names the client, too
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.String("conn_id", e.ConnID), slog.Any("remote", e.Client))
	if e.MessageID != "" {
		attrs = append(attrs, slog.String("msg_id", e.MessageID))
	}
	if e.From != "" || len(e.Recipients) > 0 {
		attrs = append(attrs, slog.String("from", e.From), slog.Any("to", e.Recipients[:min(len(e.Recipients), loggedRecipients)]),
			slog.Int("recipients", len(e.Recipients)), slog.String("route", e.Route))
	}
	if e.User != "" {
		attrs = append(attrs, slog.String("user", e.User))
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", e.Reason))
	}
	if e.Security {
		attrs = append(attrs, slog.Bool("security", true))
	}
	s.log.LogAttrs(context.Background(), level, "mail "+e.Kind, attrs...)
}

func hopTimeouts() smtpc.Timeouts {
	return smtpc.Timeouts{Connect: 30 * time.Second, TLS: 30 * time.Second, Greeting: time.Minute}
}

func valueOr[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
