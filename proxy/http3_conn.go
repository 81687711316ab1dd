package proxy

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is a client's QUIC connection. It stands where the books have a
// socket, as conn.Conn: it has addresses and can be closed, but no bytes of its
// own.
type quicConn struct {
	conn *conn
	port *quicPort
	quic atomic.Pointer[quic.Conn] // nil during the handshake
	// One server for each connection: a server can only ask all its clients at
	// once to leave.
	server http3.Server

	unproven atomic.Bool // see quicPort
	refused  atomic.Bool // and counted

	mu      sync.Mutex
	active  int         // requests
	last    time.Time   // when one has ended
	idle    *time.Timer // runs while there are none; nil before the first time
	retired bool        // the client is to leave
	over    bool
	leaving sync.WaitGroup
}

// farewell is how long what was sent last may take to arrive, with losses:
// closing a connection of QUIC takes back what is still under way.
const farewell = time.Second

func newQUICConn(q *quicPort, client net.Addr) *quicConn {
	r := q.run
	c := &quicConn{port: q, conn: &conn{run: r, id: r.connID.Add(1), port: q.port, client: addrPort(client), accepted: time.Now()}}
	c.conn.Conn = c
	c.conn.fresh.Store(true)
	c.server.Handler = http.HandlerFunc(c.serveHTTP)
	c.server.MaxHeaderBytes = r.server.MaxHeaderBytes
	c.server.Logger = slog.New(slog.DiscardHandler) // it would take the process's
	return c
}

// admit applies the limits when the client has said hello. One that may not be
// where it says it is counts for nothing yet, or others would pay for it.
func (c *quicConn) admit(proven bool) *rejection {
	r, client := c.conn.run, c.conn.client.Addr()
	if _, p := r.routes(c.conn); p.proxies.contains(client) {
		return &r.p.stats.noRoute // it speaks for others, and QUIC cannot tell for whom
	}
	if r.isBlocked(client, c.conn.port) {
		return &r.p.stats.blockedAddress
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	reason := r.full()
	switch limit := r.p.cfg.MaxConnectionsPerIP; {
	case reason != nil:
	case proven:
		r.p.stats.connections.Add(1)
		reason = r.book(c.conn)
	case limit > 0 && r.perIP[clientNetwork(client)] >= limit:
		reason = &r.p.stats.tooManyPerIP
	}
	if reason != nil {
		return reason
	}
	r.working.Add(1) // until the connection has ended
	if !proven {
		c.unproven.Store(true)
		c.port.unproven.Add(1)
	}
	c.port.mu.Lock()
	c.port.conns[c] = struct{}{}
	c.port.mu.Unlock()
	return nil
}

// prove ends the time in which nothing proves the client's address.
func (c *quicConn) prove() (wasUnproven bool) {
	if !c.unproven.Swap(false) {
		return false
	}
	c.port.unproven.Add(-1)
	return true
}

// serve serves requests from the handshake's end until the connection's.
func (c *quicConn) serve(qc *quic.Conn) {
	r := c.conn.run
	if c.prove() {
		r.p.stats.connections.Add(1)
		r.mu.Lock()
		reason := r.full()
		if reason == nil {
			reason = r.book(c.conn)
		}
		r.mu.Unlock()
		if reason != nil {
			c.refuse(reason, errLimit)
			c.close(qc, http3.ErrCodeExcessiveLoad)
			return
		}
	}
	state := qc.ConnectionState().TLS
	c.conn.tls = &state
	c.conn.local = addrPort(qc.LocalAddr())
	c.conn.clientText = c.conn.client.Addr().String()
	c.conn.altSvc = c.port.altSvc
	c.quic.Store(qc)
	c.mu.Lock()
	leave := c.retired || c.conn.closed.Load() || c.port.drains()
	if !leave {
		c.wait()
	}
	c.mu.Unlock()
	if leave { // it was told so while there was nothing to close
		c.close(qc, http3.ErrCodeNoError)
		return
	}
	c.server.ServeQUICConn(qc)
	c.conn.Close()
	c.mu.Lock()
	c.over = true
	c.idle.Stop()
	c.mu.Unlock()
	c.leaving.Wait()
}

// ended is called when the connection has ended, be it in the handshake.
func (c *quicConn) ended(cause error) {
	r := c.conn.run
	defer r.working.Done()
	c.prove()
	switch served, stats := c.quic.Load() != nil, &r.p.stats; {
	case served && c.conn.fresh.Load():
		c.refuse(&stats.silent, errSilent)
	case served:
	case errors.Is(cause, errUnknownName):
		c.refuse(&stats.unknownName, cause)
	case r.closing.Load():
		c.refuse(&stats.stopping, cause)
	default:
		c.refuse(&stats.badTLS, cause)
	}
	c.conn.Close()
	c.port.forget(c)
}

// refuse counts why the connection goes nowhere, once.
func (c *quicConn) refuse(reason *rejection, err error) {
	if !c.refused.Swap(true) {
		c.conn.run.count(c.conn, reason, err)
	}
}

// begin notes the beginning of a request.
func (c *quicConn) begin() {
	c.conn.fresh.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active++
	c.idle.Stop()
}

// end notes its end.
func (c *quicConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active--
	c.last = time.Now()
	if c.active == 0 && !c.over {
		c.wait()
	}
}

// wait sets how long the connection may go on without a request. A request is
// there when its head is, so that streams on which none comes keep nothing
// alive. c.mu is held.
func (c *quicConn) wait() {
	times := &c.conn.run.times
	patience := times.KeepAlive
	switch {
	case c.retired:
		patience = max(farewell-time.Since(c.last), farewell/10)
	case c.conn.fresh.Load():
		patience = times.RequestHead
	}
	switch {
	case patience <= 0 && c.idle == nil:
		c.idle = time.AfterFunc(time.Hour, c.expire)
		c.idle.Stop()
	case patience <= 0:
	case c.idle == nil:
		c.idle = time.AfterFunc(patience, c.expire)
	default:
		c.idle.Reset(patience)
	}
}

// expire is called when the connection has gone without a request for too long.
func (c *quicConn) expire() {
	c.mu.Lock()
	busy, retired := c.active > 0 || c.over, c.retired
	c.mu.Unlock()
	switch {
	case busy:
	case retired:
		c.conn.Close()
	default:
		c.retire()
	}
}

// retire asks the client to make its further requests elsewhere (GOAWAY,
// RFC 9114 section 5.2). The connection is closed when those under way are
// through, and the client does not do so itself.
func (c *quicConn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired || c.over {
		return
	}
	c.retired = true
	if c.idle == nil {
		return // serve will see it
	}
	c.leaving.Go(func() { c.server.Shutdown(c.conn.run.ctx) })
	if c.active == 0 {
		c.wait()
	}
}

// moved reports whether the client is not any more at the address from which
// it was let in (RFC 9000 section 9).
func (c *quicConn) moved() bool {
	return addrPort(c.RemoteAddr()).Addr() != c.conn.client.Addr()
}

// Close closes the connection.
func (c *quicConn) Close() error {
	if qc := c.quic.Load(); qc != nil {
		return c.close(qc, http3.ErrCodeNoError)
	}
	return nil
}

func (c *quicConn) close(qc *quic.Conn, code http3.ErrCode) error {
	return qc.CloseWithError(quic.ApplicationErrorCode(code), "")
}

// LocalAddr returns the address that the client has connected to.
func (c *quicConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.conn.local) }

// RemoteAddr returns the address where the client is now.
func (c *quicConn) RemoteAddr() net.Addr {
	if qc := c.quic.Load(); qc != nil {
		return qc.RemoteAddr()
	}
	return net.UDPAddrFromAddrPort(c.conn.client)
}

// Read fails: there is nothing to read but from streams.
func (*quicConn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Write fails likewise.
func (*quicConn) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// SetDeadline does nothing.
func (*quicConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (*quicConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (*quicConn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*quicConn)(nil)
