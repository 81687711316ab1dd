package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// run is a Proxy between one Start and its Stop: listeners, connections and
// all goroutines.
type run struct {
	p     *Proxy
	log   *slog.Logger
	times Timeouts
	table atomic.Pointer[table]

	ctx    context.Context // ends when what is left at Stop must go
	cancel context.CancelFunc

	server    *http.Server
	queue     *queueListener // connections on their way to server
	connID    atomic.Uint64
	pipes     pipes
	lot       lot
	drainer   chan struct{}  // has an element when there may be something to drain
	accepting sync.WaitGroup // accept loops
	working   sync.WaitGroup // everything else that Stop waits for

	mu        sync.Mutex
	stopping  bool
	conns     map[*conn]struct{}
	empty     chan struct{} // closed when stopping and no connection is left
	perIP     map[netip.Addr]int
	listeners map[int]net.Listener

	wasCut  atomic.Bool   // connections were open when stop lost patience
	stopped chan struct{} // closed when Stop is through
	stopErr error         // what Stop returns; set before stopped is closed
	fatal   chan error    // the first error that ends serving
}

func newRun(p *Proxy) *run {
	r := &run{
		p:         p,
		log:       p.log,
		times:     p.times,
		queue:     newQueueListener(),
		conns:     make(map[*conn]struct{}),
		empty:     make(chan struct{}),
		perIP:     make(map[netip.Addr]int),
		listeners: make(map[int]net.Listener),
		stopped:   make(chan struct{}),
		fatal:     make(chan error, 1),
		drainer:   make(chan struct{}, 1),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.connID.Store(rand.Uint64())
	r.server = r.newHTTPServer()
	return r
}

// bind opens listeners for the ports of t that have none yet. On an error it
// closes those it opened.
func (r *run) bind(ctx context.Context, t *table) (opened map[int]net.Listener, err error) {
	opened = make(map[int]net.Listener)
	var problems []error
	for port := range t.ports {
		if r.listeners[port] != nil {
			continue
		}
		ln, err := r.p.listen(ctx, port)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		opened[port] = ln
	}
	if err := ctx.Err(); err != nil && len(problems) == 0 {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		for port, ln := range opened {
			// The host's stay open: it may try again.
			if ln != r.p.given[r.p.listenAddr(port)] {
				ln.Close()
			}
		}
		return nil, errors.Join(problems...)
	}
	return opened, nil
}

// listen opens the listener of one port, or takes the one that the host gave.
func (p *Proxy) listen(ctx context.Context, port int) (net.Listener, error) {
	addr := p.listenAddr(port)
	if ln := p.given[addr]; ln != nil {
		return ln, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return ln, nil
}

// accept serves a listener until it is closed.
func (r *run) accept(port int, ln net.Listener) {
	defer r.accepting.Done()
	pause, failures := time.Duration(0), 0
	for {
		nc, err := ln.Accept()
		if err == nil {
			pause, failures = 0, 0
			r.admit(port, nc)
			continue
		}
		if !r.isListening(port, ln) {
			return
		}
		// Most often there are no file descriptors left. Those of others, or
		// our own once connections end, will come back. What else fails again
		// and again, or was closed but not by us, is over.
		scarce := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
		if failures++; errors.Is(err, net.ErrClosed) || !scarce && failures == 10 {
			r.fail(fmt.Errorf("cannot accept connections on %s any more: %w", r.p.listenAddr(port), err))
			return
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		r.log.Error("cannot accept connections, will try again", "port", port, "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
			return
		}
	}
}

// isListening reports whether ln is in service.
func (r *run) isListening(port int, ln net.Listener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listeners[port] == ln
}

// admit applies the limits and starts to serve a connection.
func (r *run) admit(port int, nc net.Conn) {
	c := &conn{
		Conn:   nc,
		run:    r,
		id:     r.connID.Add(1),
		port:   port,
		client: addrPort(nc.RemoteAddr()),
		local:  addrPort(nc.LocalAddr()),

		accepted: time.Now(),
	}
	c.fresh.Store(true)
	ip := c.client.Addr()
	r.mu.Lock()
	var reason *rejection
	switch {
	case r.stopping:
		reason = &r.p.stats.stopping
	case r.p.cfg.MaxConnections > 0 && len(r.conns) >= r.p.cfg.MaxConnections:
		reason = &r.p.stats.tooMany
	case r.p.cfg.MaxConnectionsPerIP > 0 && r.perIP[ip] >= r.p.cfg.MaxConnectionsPerIP:
		reason = &r.p.stats.tooManyPerIP
	default:
		r.conns[c] = struct{}{}
		if r.p.cfg.MaxConnectionsPerIP > 0 {
			r.perIP[ip]++
		}
		r.working.Add(1)
	}
	r.mu.Unlock()
	r.p.stats.connections.Add(1)
	if reason != nil {
		r.reject(c, reason, errLimit)
		return
	}
	go func() {
		defer r.working.Done()
		defer func() {
			// Code of the host may run in here: certificate hooks, port functions.
			if v := recover(); v != nil {
				r.log.Error("panic while serving a connection", "conn_id", c.name(), "remote", c.client, "panic", v, "stack", string(debug.Stack()))
				c.Close()
			}
		}()
		r.serve(c)
	}()
}

var errLimit = errors.New("limit of connections reached")

// forget takes a closed connection off the books.
func (r *run) forget(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.conns[c]; !ok {
		return
	}
	delete(r.conns, c)
	if r.stopping && len(r.conns) == 0 {
		close(r.empty)
	}
	if r.p.cfg.MaxConnectionsPerIP > 0 {
		ip := c.client.Addr()
		if r.perIP[ip]--; r.perIP[ip] <= 0 {
			delete(r.perIP, ip)
		}
	}
}

// open returns the connections that are open now.
func (r *run) open() []*conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		list = append(list, c)
	}
	return list
}

// listen puts opened listeners into service.
func (r *run) listen(opened map[int]net.Listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, ln := range opened {
		delete(r.p.given, r.p.listenAddr(port))
		r.listeners[port] = ln
		r.accepting.Add(1)
		go r.accept(port, ln)
	}
}

// unlisten closes the listeners of ports that t has no routes for.
func (r *run) unlisten(t *table) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, ln := range r.listeners {
		if t.ports[port] == nil {
			ln.Close()
			delete(r.listeners, port)
		}
	}
}

// fail reports that the run cannot go on.
func (r *run) fail(err error) {
	select {
	case r.fatal <- err:
	default:
	}
}

func (r *run) isStopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopping
}

// beginStop ends accepting. It reports whether it is the first to do so.
func (r *run) beginStop() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return false
	}
	r.stopping = true
	if len(r.conns) == 0 {
		close(r.empty)
	}
	for port, ln := range r.listeners {
		ln.Close()
		delete(r.listeners, port)
	}
	return true
}

// stop waits for connections after beginStop until ctx ends, then closes those
// that are left. It returns when nothing is.
func (r *run) stop(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok && r.times.Drain >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.times.Drain)
		defer cancel()
	}
	r.accepting.Wait()
	r.closeFresh(ctx)
	r.server.Shutdown(ctx)
	select {
	case <-r.empty:
	case <-ctx.Done():
		r.cut()
	}
	r.cancel()
	r.server.Close()
	r.queue.Close()
	r.lot.close()
	r.working.Wait()
	r.pipes.close()
	if r.wasCut.Load() {
		return errCut
	}
	return nil
}

// closeFresh closes connections that have not asked for anything, once they
// have had a moment to do so.
func (r *run) closeFresh(ctx context.Context) {
	const moment = 250 * time.Millisecond
	var wait time.Duration
	for _, c := range r.open() {
		if c.fresh.Load() {
			wait = max(wait, moment-time.Since(c.accepted))
		}
	}
	select {
	case <-time.After(wait):
	case <-r.empty:
	case <-ctx.Done():
	}
	for _, c := range r.open() {
		if c.fresh.Load() {
			c.Close()
		}
	}
}

var errCut = errors.New("connections were still open when the time to stop was over, and have been closed")

// cut closes all connections.
func (r *run) cut() {
	conns := r.open()
	r.wasCut.Store(r.wasCut.Load() || len(conns) > 0)
	r.cancel()
	for _, c := range conns {
		c.cut()
	}
}

// queueListener hands connections to an http.Server.
type queueListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueueListener() *queueListener {
	return &queueListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queueListener) push(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

// Accept returns the next connection.
func (q *queueListener) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (q *queueListener) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr returns a placeholder: the connections come from many ports.
func (q *queueListener) Addr() net.Addr { return &net.TCPAddr{} }
