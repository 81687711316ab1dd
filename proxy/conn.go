package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
)

// conn is a client connection from accept to close. As a net.Conn it gives
// back first what has been read to find its route.
type conn struct {
	net.Conn // as accepted
	run      *run
	id       uint64
	port     int // as the routes name it
	client   netip.AddrPort
	local    netip.AddrPort
	accepted time.Time
	head     []byte // read and not yet given back

	read func([]byte) (int, error) // replaces the connection's, if not nil
	// direct is the connection once net/http has it, with cheaper reads and
	// writes.
	direct net.Conn

	proxied bool // the peer is a proxy whose PROXY header comes first
	counted bool // for its client's address; run.mu guards it

	// Set when TLS has been terminated.
	policy     *tlsPolicy
	serverName string
	tls        *tls.ConnectionState
	altSvc     string // what responses say of HTTP/3, or ""

	clientText string // the client's address, once HTTP is spoken

	// upstream is the connection to a target that the fast lane is using. It is
	// closed with this one, but not a moment after it has gone back to its pool.
	upstreamMu sync.Mutex
	upstream   *upstreamConn
	// lane is set while the connection is in the fast lane.
	lane atomic.Pointer[fastLane]

	// unread is set while net/http reads a request, to tell afterwards
	// connections that ended in the middle of one.
	unread atomic.Bool
	// whole is set where net/http has all of a head.
	whole atomic.Bool
	// serving is set while net/http reads or serves a request.
	serving atomic.Bool
	// bodyIn is set when all of a request's body has come, for net/http.
	bodyIn atomic.Bool
	// kept is set while the client takes it that the connection of HTTP goes on
	// after the last response.
	kept atomic.Bool
	// fresh is set until the connection has asked for anything.
	fresh atomic.Bool

	resets resetMeter
	// connectSecret is set if extendedConnect is on the way to net/http.
	connectSecret string
	writeBy       time.Time // deadline for writing HTTP/1 responses; one request at a time uses it

	closed   atomic.Bool
	mu       sync.Mutex
	sessions []*session
}

// session is one request or stream in flight. An update of the routes looks at
// all of them to find what it has removed.
type session struct {
	route  *route
	target atomic.Pointer[target]
	cancel func() // ends it at once

	moved   atomic.Uint64 // grows while anything moves
	watched bool          // ends when nothing has moved for Timeouts.Idle
	doze    func()        // to call when nothing has moved for a moment, or nil
	// Only the sweeper looks at these.
	seen  uint64 // moved, when it last looked
	still int    // looks in a row that have found no change

	orphaned time.Time // since when its route or target is gone; only the drainer looks
}

// Read returns the bytes read ahead, then the connection's.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
		return n, nil
	}
	if c.read != nil {
		return c.read(b)
	}
	if c.direct != nil {
		return c.direct.Read(b)
	}
	return c.Conn.Read(b)
}

// Write writes to the connection.
func (c *conn) Write(b []byte) (int, error) {
	if c.direct != nil {
		return c.direct.Write(b)
	}
	return c.Conn.Write(b)
}

// RemoteAddr is the client's address, as far as it is known.
func (c *conn) RemoteAddr() net.Addr {
	if c.proxied {
		return net.TCPAddrFromAddrPort(c.client)
	}
	return c.Conn.RemoteAddr()
}

// LocalAddr is the address that the client connected to.
func (c *conn) LocalAddr() net.Addr {
	if c.proxied {
		return net.TCPAddrFromAddrPort(c.local)
	}
	return c.Conn.LocalAddr()
}

// CloseWrite ends the client's direction, where the connection can do that.
func (c *conn) CloseWrite() error { return netconn.CloseWrite(c.Conn) }

// Close closes the connection and takes it off the books, once.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	err := c.Conn.Close()
	c.upstreamMu.Lock()
	if c.upstream != nil {
		c.upstream.Conn.Close()
	}
	c.upstreamMu.Unlock()
	c.run.forget(c)
	return err
}

// use ties a connection to a target to this one, or with nil unties it. It
// reports false if this one is closed already.
func (c *conn) use(up *upstreamConn) bool {
	c.upstreamMu.Lock()
	defer c.upstreamMu.Unlock()
	c.upstream = up
	return !c.closed.Load()
}

// begin puts a request or stream on the books.
func (c *conn) begin(r *route, cancel func()) *session {
	s := &session{route: r, cancel: cancel}
	c.book(s)
	return s
}

// book puts a session that its owner has made on the books.
func (c *conn) book(s *session) {
	c.fresh.Store(false)
	c.mu.Lock()
	c.sessions = append(c.sessions, s)
	c.mu.Unlock()
}

// watch limits from now on how long nothing may move. cancel ends the session
// at once. doze, if not nil, is called when nothing has moved for a moment.
func (c *conn) watch(s *session, cancel, doze func()) {
	c.mu.Lock()
	s.cancel, s.doze, s.watched = cancel, doze, true
	s.moved.Add(1) // the look to come is not the first of its rest
	c.mu.Unlock()
}

// unwatch ends that limit.
func (c *conn) unwatch(s *session) {
	c.mu.Lock()
	s.watched = false
	c.mu.Unlock()
}

// cut ends the connection and all that is in flight on it.
func (c *conn) cut() {
	c.mu.Lock()
	for _, s := range c.sessions {
		s.cancel()
	}
	c.mu.Unlock()
	c.Close()
}

// end takes it off.
func (c *conn) end(s *session) {
	c.mu.Lock()
	if i := slices.Index(c.sessions, s); i >= 0 {
		last := len(c.sessions) - 1
		c.sessions[i] = c.sessions[last]
		c.sessions[last] = nil
		c.sessions = c.sessions[:last]
	}
	c.mu.Unlock()
}

// info describes the connection to code of the host.
func (c *conn) info(r *route) ConnInfo {
	info := ConnInfo{
		ID:         c.name(),
		Client:     c.client,
		Local:      c.local,
		Port:       c.port,
		ServerName: c.serverName,
		TLS:        c.tls,
		Route:      r.Name,
	}
	if c.tls != nil {
		info.ALPN = c.tls.NegotiatedProtocol
	}
	return info
}

// clientName is the client's address in its shortest form.
func (c *conn) clientName() string {
	if c.clientText != "" {
		return c.clientText
	}
	return c.client.Addr().String()
}

// name is the connection's correlation id.
func (c *conn) name() string { return strconv.FormatUint(c.id, 16) }

// fill reads once, so that head grows. It fails at maxHead bytes.
func (c *conn) fill(maxHead int) error {
	if len(c.head) >= maxHead {
		return errHeadTooLong
	}
	if len(c.head) == cap(c.head) {
		c.head = slices.Grow(c.head, max(2048, len(c.head)))
	}
	n, err := c.Conn.Read(c.head[len(c.head):min(cap(c.head), maxHead)])
	c.head = c.head[:len(c.head)+n]
	if n > 0 {
		return nil
	}
	return err
}

// clientConn finds the conn below what net/http was given.
func clientConn(c net.Conn) *conn {
	switch c := c.(type) {
	case *conn:
		return c
	case *extendedConnect:
		return c.conn
	case *strictConn:
		return clientConn(c.Conn)
	case *tls.Conn:
		return clientConn(c.NetConn())
	}
	return nil
}

// addrPort reads an address that a listener or connection reports.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// deadline returns when a timeout that begins now ends; never for zero and
// negative ones.
func deadline(timeout time.Duration) time.Time {
	if timeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(timeout)
}
