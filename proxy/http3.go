package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/dcrouter/dcrouter/internal/quietudp"
)

// quicPort serves HTTP/3 (RFC 9114) over QUIC (RFC 9000) on the packet socket
// of a port. When an update or Stop wants the port no more, it stays until its
// connections have come to their ends.
type quicPort struct {
	run       *run
	port      int // as the routes name it
	pc        net.PacketConn
	transport *quic.Transport
	altSvc    string

	// unproven counts handshakes with clients whose address nothing proves yet.
	unproven atomic.Int64

	mu       sync.Mutex
	listener *quic.Listener // nil while the port only drains
	conns    map[*quicConn]struct{}
}

// maxUnproven is how many handshakes may be under way with clients that may
// not be where they say they are. From there on a client has to show first that
// it gets what is sent to it (Retry, RFC 9000 section 8.1.2), which costs it a
// round trip, and us nothing that lasts. Until it has shown that, in one way or
// the other, it is sent three times what it has sent at most.
const maxUnproven = 128

func newQUICPort(r *run, port int, pc net.PacketConn) *quicPort {
	q := &quicPort{run: r, port: port, pc: pc, conns: make(map[*quicConn]struct{})}
	// A day is what a client assumes that is told nothing.
	q.altSvc = fmt.Sprintf(`h3=":%d"; ma=86400`, addrPort(pc.LocalAddr()).Port())
	q.transport = &quic.Transport{
		Conn:                quietudp.Conn(pc),
		ConnContext:         q.admit,
		VerifySourceAddress: func(net.Addr) bool { return q.unproven.Load() >= maxUnproven },
	}
	return q
}

// open begins to accept connections, at first or again.
func (q *quicPort) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.listener != nil {
		return
	}
	config := &tls.Config{GetConfigForClient: q.configFor}
	if p := q.run.p; p.opts.echKeys != nil {
		config.GetEncryptedClientHelloKeys = p.echKeys
	}
	ln, err := q.transport.Listen(config, q.run.quicConfig())
	if err != nil {
		q.run.fail(fmt.Errorf("cannot serve HTTP/3 on %s: %w", q.run.p.listenAddr(q.port), err))
		return
	}
	q.listener = ln
	q.run.accepting.Go(func() { q.accept(ln) })
}

// quicConfig bounds what a connection can cost.
func (r *run) quicConfig() *quic.Config {
	c := &quic.Config{
		MaxIncomingStreams:    int64(r.p.cfg.HTTP3.maxStreams()),
		MaxIncomingUniStreams: 8, // HTTP/3 needs three, and clients may add some of no meaning
		// What is held for handlers that do not read.
		MaxStreamReceiveWindow:     2 << 20,
		MaxConnectionReceiveWindow: 4 << 20,
		// A client that is gone does not answer, one that merely waits does. How
		// long one may wait without a request is quicConn's to decide.
		MaxIdleTimeout:  30 * time.Second,
		KeepAlivePeriod: 15 * time.Second,
		// Anybody could send once more what a client has sent in 0-RTT
		// (RFC 9001 section 9.2).
		Allow0RTT: false,
	}
	if r.times.Route > 0 {
		c.HandshakeIdleTimeout = r.times.Route / 2 // the whole may take twice that
	}
	return c
}

// admit is asked about each new connection before anything is done for it.
func (q *quicPort) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	c := newQUICConn(q, info.RemoteAddr)
	if reason := c.admit(info.AddrVerified); reason != nil {
		err := errLimit
		if reason == &q.run.p.stats.blockedAddress {
			err = errBlockedAddress
		}
		q.run.count(c.conn, reason, err)
		return nil, err
	}
	context.AfterFunc(ctx, func() { c.ended(context.Cause(ctx)) })
	return context.WithValue(ctx, connKey{}, c.conn), nil
}

// configFor chooses the TLS policy of a connection by the same rules as
// serveTLS.
func (q *quicPort) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c := hello.Context().Value(connKey{}).(*conn)
	host, ok := canonicalHost(hello.ServerName)
	if ok {
		_, p := q.run.routes(c)
		if chosen, ok := p.termination(&query{client: c.client.Addr(), host: host}); ok && chosen.http {
			c.policy, c.serverName = chosen.route.policy, host
			return c.policy.http3, nil
		}
	}
	// crypto/tls sends the alert that it finds in the error.
	return nil, fmt.Errorf("%w%.0w", errUnknownName, tls.AlertError(alertUnrecognizedName))
}

// accept serves connections whose handshake is through.
func (q *quicPort) accept(ln *quic.Listener) {
	for {
		qc, err := ln.Accept(context.Background())
		if err != nil {
			if !errors.Is(err, quic.ErrServerClosed) {
				q.run.fail(fmt.Errorf("cannot serve HTTP/3 on %s any more: %w", q.run.p.listenAddr(q.port), err))
			}
			return
		}
		c := qc.Context().Value(connKey{}).(*conn).Conn.(*quicConn)
		q.run.working.Go(func() { c.serve(qc) })
	}
}

// shut ends accepting and asks clients to go elsewhere.
func (q *quicPort) shut() {
	q.mu.Lock()
	ln := q.listener
	q.listener = nil
	conns := make([]*quicConn, 0, len(q.conns))
	for c := range q.conns {
		conns = append(conns, c)
	}
	q.mu.Unlock()
	if ln == nil {
		return
	}
	ln.Close() // handshakes under way end with it
	for _, c := range conns {
		c.retire()
	}
}

// drains reports whether nothing is accepted any more.
func (q *quicPort) drains() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.listener == nil
}

func (q *quicPort) inUse() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.conns) > 0
}

// forget takes a connection that has ended off the port's books. The last one
// of a port that only drains takes the socket with it.
func (q *quicPort) forget(c *quicConn) {
	q.mu.Lock()
	delete(q.conns, c)
	last := len(q.conns) == 0 && q.listener == nil
	q.mu.Unlock()
	if r := q.run; last && !r.closing.Load() {
		r.p.update.Lock() // another update may want the port back
		defer r.p.update.Unlock()
		r.unlistenQUIC(r.table.Load())
	}
}

// openQUIC begins HTTP/3 on the ports that are to have it.
func (r *run) openQUIC() {
	t := r.table.Load()
	for port, q := range r.quicPorts() {
		if p := t.ports[port]; p != nil && p.quic {
			q.open()
		}
	}
}

// unlistenQUIC ends HTTP/3 on the ports that are not to have it. Their sockets
// stay until their connections have drained.
func (r *run) unlistenQUIC(t *table) {
	for port, q := range r.quicPorts() {
		if p := t.ports[port]; p != nil && p.quic {
			continue
		}
		if q.shut(); !q.inUse() {
			r.closeQUIC(port, q)
		}
	}
}

// closeQUIC takes a port out of service for good.
func (r *run) closeQUIC(port int, q *quicPort) {
	q.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.packets, port)
	delete(r.quic, port)
}

// altSvc is what tells clients of a port about HTTP/3 (RFC 7838), or "".
func (r *run) altSvc(port int) string {
	r.mu.Lock()
	q := r.quic[port]
	r.mu.Unlock()
	if q == nil || q.drains() {
		return ""
	}
	return q.altSvc
}

func (r *run) quicPorts() map[int]*quicPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.quic)
}

// close gives the socket up.
func (q *quicPort) close() {
	q.transport.Close()
	q.pc.Close()
}
