package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// run is a Server between one Start and its Stop: sockets, connections and all
// goroutines.
type run struct {
	s   *Server
	log *slog.Logger

	ctx    context.Context // ends when what is left at Stop must go
	cancel context.CancelFunc

	closing atomic.Bool // stopping, for those who ask at every query
	logLimit
	working sync.WaitGroup

	packets []net.PacketConn // DNS over UDP; several share a port
	updates chan struct{}    // dynamic updates under way over them
	streams []boundListener
	quic    *quicServer // nil: none
	http1   *http.Server

	mu       sync.Mutex
	stopping bool
	conns    map[booked]struct{}

	stopped chan struct{} // closed when Stop is through
	ended   chan struct{} // closed when nothing is left, which is later where the storage hangs
	stopErr error         // what Stop returns; set before stopped is closed
	fail    func(error)   // reports that the run cannot go on; the first one counts
	failed  chan struct{} // closed then
	failure error         // set before
}

// boundListener is a listener and what comes over it.
type boundListener struct {
	net.Listener
	transport transport
}

func newRun(s *Server) *run {
	r := &run{
		s: s, log: s.log, conns: make(map[booked]struct{}), updates: make(chan struct{}, maxUpdatesUDP),
		stopped: make(chan struct{}), ended: make(chan struct{}), failed: make(chan struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.http1 = newHTTP1Server(r)
	var once sync.Once
	r.fail = func(err error) {
		once.Do(func() {
			r.failure = err
			close(r.failed)
		})
	}
	return r
}

// bind opens all sockets. On an error it closes those that it opened.
func (r *run) bind(ctx context.Context) error {
	err := r.bindPlain(ctx)
	if err == nil {
		err = r.bindTLS(ctx, r.s.cfg.DoT, overTLS, "dot")
	}
	if err == nil {
		err = r.bindTLS(ctx, r.s.cfg.DoH, overHTTPS, "h2", "http/1.1")
	}
	if err == nil {
		err = r.bindQUIC(ctx)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		r.unbind()
	}
	return err
}

// unbind takes back what bind has done.
func (r *run) unbind() {
	if r.s.opts.given() { // the host's stay open: it may try again
		r.packets = r.packets[len(r.s.opts.packetConns):]
		r.streams = r.streams[len(r.s.opts.listeners):]
	}
	r.closeSockets()
}

// bindPlain opens what DNS over UDP and TCP takes, of one port, or takes what
// the host gave.
func (r *run) bindPlain(ctx context.Context) error {
	if o := &r.s.opts; o.given() {
		r.packets = append(r.packets, o.packetConns...)
		for _, ln := range o.listeners {
			r.streams = append(r.streams, boundListener{ln, overTCP})
		}
		return nil
	}
	if !r.s.cfg.listens() {
		return nil
	}
	port := orDefault(r.s.cfg.Port, DefaultPort)
	// A port that is free for TCP may be taken for UDP.
	for try := 1; ; try++ {
		ln, err := r.listenTCP(ctx, port)
		if err != nil {
			return err
		}
		r.packets, err = r.listenUDP(ctx, portOf(ln.Addr()))
		if err == nil {
			r.streams = append(r.streams, boundListener{ln, overTCP})
			return nil
		}
		ln.Close()
		if port != 0 || try == 10 {
			return err
		}
	}
}

func (r *run) listenTCP(ctx context.Context, port int) (net.Listener, error) {
	host := r.s.cfg.ListenHost
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	// Idle connections end before any probe would be due.
	lc := net.ListenConfig{KeepAlive: -1}
	ln, err := r.s.opts.sockets.Listen(ctx, lc, network("tcp", host), addr)
	if err != nil {
		return nil, listenError("tcp", addr, err)
	}
	return ln, nil
}

// listenUDP opens the sockets of a port, as many as listenUDP thinks best, or
// takes those that are open already.
func (r *run) listenUDP(ctx context.Context, port int) ([]net.PacketConn, error) {
	host := r.s.cfg.ListenHost
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	return r.s.opts.sockets.ListenGroup(network("udp", host), addr, func() ([]net.PacketConn, error) { return listenUDP(ctx, host, port) })
}

// network keeps to IPv4 where the host is an address of that: for 0.0.0.0 Go
// would listen on IPv6 too.
func network(kind, host string) string {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is4() {
		return kind + "4"
	}
	return kind
}

func portOf(addr net.Addr) int { return int(addrPort(addr).Port()) }

// addrPort reads the address of a socket; it is not valid if there is no IP
// address in it.
func addrPort(addr net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := addr.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	case nil:
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// listen puts the sockets into service.
func (r *run) listen() {
	r.serveUDP()
	for _, ln := range r.streams {
		r.working.Go(func() { r.accept(ln) })
	}
	r.quic.listen()
}

func (r *run) addrs() []string {
	var list []string
	add := func(addr net.Addr, kind string) {
		if text := addr.String() + "/" + kind; len(list) == 0 || list[len(list)-1] != text { // sockets that share a port
			list = append(list, text)
		}
	}
	for _, pc := range r.packets {
		add(pc.LocalAddr(), "udp")
	}
	for _, ln := range r.streams {
		add(ln.Addr(), ln.transport.String())
	}
	if r.quic != nil {
		add(r.quic.pc.LocalAddr(), "quic")
	}
	return list
}

func (t transport) String() string {
	return [...]string{"udp", "tcp", "tls", "https", "quic"}[t]
}

// enter lets a goroutine in that Stop waits for, unless Stop has begun.
func (r *run) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopping {
		r.working.Add(1)
	}
	return !r.stopping
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
	for _, ln := range r.streams {
		ln.Close()
	}
	for _, pc := range r.packets {
		// Whoever reads looks at closing then.
		if pc.SetReadDeadline(time.Unix(1, 0)) != nil {
			pc.Close() // one of the host's that knows no deadlines
		}
	}
	for c := range r.conns {
		c.hurry()
	}
	return true
}

// stop waits after beginStop for queries under way until ctx ends, then ends
// them. The caller ends r.ctx.
func (r *run) stop(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		r.quic.drain()
		r.working.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("dnsserver: queries were under way: %w", context.Cause(ctx))
		r.cut()
		<-done
	case <-r.ctx.Done(): // another caller of Stop has cut
		err = errors.New("dnsserver: queries were under way")
		<-done
	}
	r.closeSockets()
	return err
}

// cut ends everything at once.
func (r *run) cut() {
	r.cancel()
	r.quic.cut()
	r.mu.Lock()
	conns := slices.Collect(maps.Keys(r.conns))
	r.mu.Unlock()
	for _, c := range conns {
		c.cut()
	}
	for _, pc := range r.packets {
		pc.Close()
	}
}

// logLimit bounds what strangers can have written to the log, to ten lines a
// second.
type logLimit struct {
	logged atomic.Int64 // when mayLog last allowed it, Unix time in ns
}

func (l *logLimit) mayLog() bool {
	now, last := time.Now().UnixNano(), l.logged.Load()
	return now-last >= int64(time.Second/10) && l.logged.CompareAndSwap(last, now)
}

// panicked reports a mistake of ours, or of the host's code.
func (r *run) panicked(remote netip.AddrPort, v any) {
	if r.mayLog() {
		r.log.Error("panic while answering", "remote", remote, "panic", v, "stack", string(debug.Stack()))
	}
}

func (r *run) closeSockets() {
	for _, ln := range r.streams {
		ln.Close()
	}
	for _, pc := range r.packets {
		pc.Close()
	}
	r.quic.close()
}

// accept serves a listener until it is closed.
func (r *run) accept(ln boundListener) {
	var again retry
	for {
		nc, err := ln.Accept()
		if err == nil {
			again = retry{}
			// Also when Stop has begun: who has asked before is answered.
			r.working.Go(func() { r.serveConn(nc, ln.transport) })
			continue
		}
		if r.closing.Load() {
			return
		}
		if !again.wait(r, err) {
			r.fail(fmt.Errorf("dnsserver: cannot accept connections on %s any more: %w", ln.Addr(), err))
			return
		}
	}
}

// retry is about a socket that fails. Most often there are no file descriptors
// left: those of others, or our own once connections end, will come back. What
// else fails again and again, or was closed but not by us, is over.
type retry struct {
	failures int
	pause    time.Duration
}

func (a *retry) wait(r *run, err error) bool {
	scarce := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
	if a.failures++; errors.Is(err, net.ErrClosed) || !scarce && a.failures == 10 {
		return false
	}
	a.pause = min(max(2*a.pause, 5*time.Millisecond), time.Second)
	r.log.Error("a socket fails, will try again", "err", err, "in", a.pause)
	for until := time.Now().Add(a.pause); !r.closing.Load() && time.Now().Before(until); {
		select {
		case <-time.After(min(a.pause, 20*time.Millisecond)):
		case <-r.ctx.Done():
		}
	}
	return true
}
