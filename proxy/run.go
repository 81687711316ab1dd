package proxy

import (
	"cmp"
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

	lastDate atomic.Pointer[dateText]
	closing  atomic.Bool // stopping, for those who ask at every request
	waking   atomic.Bool // stopping, and who waits for a request waits in vain
	leaving  atomic.Bool // paused: requests are the last ones of their connections

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

	datagrams sync.Pool    // *[]byte of maxDatagram
	waiting   atomic.Int64 // bytes of datagrams that wait for a target

	mu        sync.Mutex
	stopping  bool
	paused    func(port int) bool // nil: no port is
	conns     map[*conn]struct{}
	settled   bool          // stopping, and nothing is accepted any more
	empty     chan struct{} // closed when settled and no connection is left
	sessions  int           // of UDP
	perIP     map[netip.Addr]int
	udpPerIP  map[netip.Addr]int // sessions
	listeners map[int]net.Listener
	packets   map[int]net.PacketConn
	udp       map[int]*udpPort  // those of packets that are forwarded
	quic      map[int]*quicPort // those that serve HTTP/3

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
		udpPerIP:  make(map[netip.Addr]int),
		listeners: make(map[int]net.Listener),
		packets:   make(map[int]net.PacketConn),
		udp:       make(map[int]*udpPort),
		quic:      make(map[int]*quicPort),
		stopped:   make(chan struct{}),
		fatal:     make(chan error, 1),
		drainer:   make(chan struct{}, 1),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.datagrams.New = func() any { b := make([]byte, maxDatagram); return &b }
	r.connID.Store(rand.Uint64())
	r.server = r.newHTTPServer()
	return r
}

// boundSockets are what ports listen with.
type boundSockets struct {
	listeners map[int]net.Listener
	packets   map[int]net.PacketConn
}

// bind opens sockets for the ports of t that lack them. On an error it closes
// those it opened.
func (r *run) bind(ctx context.Context, t *table) (opened boundSockets, err error) {
	opened = boundSockets{make(map[int]net.Listener), make(map[int]net.PacketConn)}
	var problems []error
	for port, p := range t.ports {
		if r.isPaused(port) {
			continue
		}
		if p.tcp && r.listeners[port] == nil {
			if ln, err := r.p.listen(ctx, port); err != nil {
				problems = append(problems, err)
			} else {
				opened.listeners[port] = ln
			}
		}
		if p.needsPackets() && r.packets[port] == nil {
			if pc, err := r.listenPacket(ctx, port, p, &opened); err != nil {
				problems = append(problems, err)
			} else {
				opened.packets[port] = pc
			}
		} else if p.quic && r.quic[port] == nil || p.udp && r.udp[port] == nil {
			problems = append(problems, fmt.Errorf("cannot listen on %s: what has been served there with UDP comes to its end first", r.p.listenAddr(port)))
		}
	}
	if err := ctx.Err(); err != nil && len(problems) == 0 {
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return opened, nil
	}
	// The host's stay open: it may try again.
	for port, ln := range opened.listeners {
		if ln != r.p.given[r.p.listenAddr(port)] {
			ln.Close()
		}
	}
	for port, pc := range opened.packets {
		if pc != r.p.givenPackets[r.p.listenAddr(port)] {
			pc.Close()
		}
	}
	return boundSockets{}, errors.Join(problems...)
}

// listen opens the listener of one port, or takes the one that the host gave.
func (p *Proxy) listen(ctx context.Context, port int) (net.Listener, error) {
	addr := p.listenAddr(port)
	if ln := p.given[addr]; ln != nil {
		return ln, nil
	}
	var lc net.ListenConfig
	ln, err := p.opts.sockets.Listen(ctx, lc, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return ln, nil
}

// listenPacket opens the packet socket of one port. For HTTP/3 its number is
// that of the listener, with which it takes some luck if any free one will do.
func (r *run) listenPacket(ctx context.Context, port int, p *portRoutes, opened *boundSockets) (net.PacketConn, error) {
	number := port
	for try := 1; ; try++ {
		if p.quic && port == 0 {
			ln := cmp.Or(opened.listeners[port], r.listeners[port])
			if ln == nil {
				return nil, fmt.Errorf("cannot listen on %s for HTTP/3: there is no listener to share the port with", r.p.listenAddr(port))
			}
			number = int(addrPort(ln.Addr()).Port())
		}
		pc, err := r.p.listenPacket(ctx, port, number)
		ln := opened.listeners[port]
		if err == nil || number == port || ln == nil || ln == r.p.given[r.p.listenAddr(port)] || try == 10 {
			return pc, err
		}
		ln.Close()
		delete(opened.listeners, port)
		if ln, err = r.p.listen(ctx, port); err != nil {
			return nil, err
		}
		opened.listeners[port] = ln
	}
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
	if p := r.table.Load().ports[port]; p != nil {
		c.proxied = p.proxies.contains(c.client.Addr())
	}
	r.p.stats.connections.Add(1)
	if !c.proxied && r.isBlocked(c.client.Addr(), port) {
		r.reject(c, &r.p.stats.blockedAddress, errBlockedAddress)
		return
	}
	r.mu.Lock()
	reason := r.crowded() // Stop may have begun, but this client came before
	if reason == nil {
		reason = r.book(c)
	}
	if reason == nil {
		r.working.Add(1)
	}
	r.mu.Unlock()
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

var (
	errLimit          = errors.New("limit of connections reached")
	errBlockedAddress = errors.New("the address is blocked")
)

// book puts a connection on the books, unless its client has too many already.
// r.mu is held.
func (r *run) book(c *conn) *rejection {
	if c.closed.Load() { // in QUIC it may have ended: nobody would take it off again
		return nil
	}
	if !c.proxied { // for whom the others count is not known yet
		if c.counted = r.countIP(r.perIP, c.client.Addr()); !c.counted {
			return &r.p.stats.tooManyPerIP
		}
	}
	r.conns[c] = struct{}{}
	return nil
}

// forget takes a closed connection off the books.
func (r *run) forget(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.conns[c]; !ok {
		return
	}
	delete(r.conns, c)
	if r.settled && len(r.conns) == 0 {
		close(r.empty)
	}
	if c.counted {
		r.discountIP(r.perIP, c.client.Addr())
	}
}

// full tells why nothing more is taken in, if so. r.mu is held.
func (r *run) full() *rejection {
	if r.stopping {
		return &r.p.stats.stopping
	}
	return r.crowded()
}

// crowded is full as far as the number of connections goes. r.mu is held.
func (r *run) crowded() *rejection {
	if limit := r.p.cfg.MaxConnections; limit > 0 && len(r.conns) >= limit {
		return &r.p.stats.tooMany
	}
	return nil
}

// countIP counts a connection or session for its client's address, unless that
// has too many already. r.mu is held.
func (r *run) countIP(perIP map[netip.Addr]int, ip netip.Addr) bool {
	switch limit := r.p.cfg.MaxConnectionsPerIP; {
	case limit <= 0:
	case perIP[clientNetwork(ip)] >= limit:
		return false
	default:
		perIP[clientNetwork(ip)]++
	}
	return true
}

// discountIP is the opposite.
func (r *run) discountIP(perIP map[netip.Addr]int, ip netip.Addr) {
	if r.p.cfg.MaxConnectionsPerIP <= 0 {
		return
	}
	network := clientNetwork(ip)
	if perIP[network]--; perIP[network] <= 0 {
		delete(perIP, network)
	}
}

// clientNetwork is what is one client for limits: an address, or of IPv6 the
// first of its /64, all of whose addresses a host may use.
func clientNetwork(ip netip.Addr) netip.Addr {
	if ip.Is6() && !ip.Is4In6() {
		p, _ := ip.Prefix(64)
		return p.Addr()
	}
	return ip
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

// listen puts opened sockets into service.
func (r *run) listen(opened boundSockets) {
	defer r.openQUIC()
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, ln := range opened.listeners {
		delete(r.p.given, r.p.listenAddr(port))
		r.listeners[port] = ln
		r.accepting.Add(1)
		go r.accept(port, ln)
	}
	for port, pc := range opened.packets {
		delete(r.p.givenPackets, r.p.listenAddr(port))
		r.packets[port] = pc
		if p := r.table.Load().ports[port]; p != nil && p.quic {
			r.quic[port] = newQUICPort(r, port, pc) // openQUIC begins
			continue
		}
		r.readPackets(port, pc)
	}
}

// unlisten closes the sockets of ports that t has no routes for. Those that UDP
// sessions still use stay until these have drained.
func (r *run) unlisten(t *table) {
	r.unlistenQUIC(t)
	var unused []net.Listener
	defer func() {
		// They may be thousands, and connections of other ports need r.mu.
		for _, ln := range unused {
			ln.Close()
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, ln := range r.listeners {
		if p := t.ports[port]; p == nil || !p.tcp {
			unused = append(unused, ln)
			delete(r.listeners, port)
		}
	}
	for port, pc := range r.packets {
		p, u := t.ports[port], r.udp[port]
		if r.quic[port] == nil && (p == nil || !p.needsPackets()) && (u == nil || !u.inUse()) {
			r.closePackets(port, pc)
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
	r.closing.Store(true)
	for port, ln := range r.listeners {
		ln.Close()
		delete(r.listeners, port)
	}
	for port := range r.udp {
		r.closePackets(port, r.packets[port]) // UDP sessions know no end of their own to wait for
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
	for _, q := range r.quicPorts() {
		q.shut()
	}
	r.accepting.Wait()
	r.settle()
	if r.leaving.Load() {
		r.awaitLastRequests(ctx)
	}
	r.waking.Store(true)
	for _, c := range r.open() {
		if l := c.lane.Load(); l != nil {
			l.wake()
		}
	}
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
	for port, q := range r.quicPorts() {
		r.closeQUIC(port, q)
	}
	r.working.Wait()
	r.pipes.close()
	if r.wasCut.Load() {
		return errCut
	}
	return nil
}

// settle notes that no more connections will come.
func (r *run) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = true
	if len(r.conns) == 0 {
		close(r.empty)
	}
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
