package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter/internal/nonblock"
	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

const (
	maxIdlePerKey    = 256
	maxIdlePerTarget = 1024
	// maxIdleTime is less than what most servers allow, so that it is rarely
	// they who close.
	maxIdleTime = 90 * time.Second
	// justNow is so soon after an exchange that a look at the connection would
	// find no more than its last read did. Busy connections are spared it.
	justNow = 200 * time.Microsecond
)

// upstreamConn is a connection to a target that speaks HTTP/1.1. No goroutine
// belongs to it: whoever has a request for the target reads and writes it.
type upstreamConn struct {
	net.Conn
	in     *h1.Reader
	out    io.Writer
	target *target
	key    poolKey
	reused bool
	// settled is set where nothing should be on its way any more: after an answer
	// with a body, which tells its end, to a request without one. The last read was
	// for more than that.
	settled bool

	idleSince       time.Time
	readBy, writeBy time.Time // deadlines as set
	peek            peeker
}

// poolKey tells connections of one target apart that cannot stand in for each
// other.
type poolKey struct {
	port       int
	serverName string // with TLS to the target
	// Whose the connection is, if it begins with a PROXY header that says so.
	client, local netip.AddrPort
}

// connPool holds the idle connections of a target.
type connPool struct {
	mu      sync.Mutex
	idle    map[poolKey][]*upstreamConn
	count   int
	retired bool // no route has the target: nothing is kept
}

// take returns the connection used last, which is the likeliest to be alive
// and lets the others grow old.
func (p *connPool) take(key poolKey) *upstreamConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	if len(list) == 0 {
		return nil
	}
	c := list[len(list)-1]
	list[len(list)-1] = nil
	p.idle[key] = list[:len(list)-1]
	p.count--
	return c
}

// put takes a connection back, or reports that it has no place for it. If all
// places are taken another connection has to go: clients can make up keys, and
// what they fill the pool with would keep others out.
func (p *connPool) put(c *upstreamConn) bool {
	p.mu.Lock()
	list := p.idle[c.key]
	if p.retired || len(list) >= maxIdlePerKey {
		p.mu.Unlock()
		return false
	}
	var other *upstreamConn
	if p.count >= maxIdlePerTarget {
		other = p.evict()
		list = p.idle[c.key]
	}
	if p.idle == nil {
		p.idle = make(map[poolKey][]*upstreamConn)
	}
	p.idle[c.key] = append(list, c)
	p.count++
	p.mu.Unlock()
	if other != nil {
		other.Conn.Close()
	}
	return true
}

// evict takes the oldest connection of some key out. p.mu is held.
func (p *connPool) evict() *upstreamConn {
	for key, list := range p.idle { // in random order
		if len(list) == 0 {
			delete(p.idle, key)
			continue
		}
		c := list[0]
		p.idle[key] = slices.Delete(list, 0, 1)
		p.count--
		return c
	}
	return nil
}

// sweep closes connections that have been idle for too long, or that the
// target has closed.
func (p *connPool) sweep(now time.Time) {
	p.closeIf(func(c *upstreamConn) bool { return now.Sub(c.idleSince) > maxIdleTime || !c.quiet() })
}

// closeAll closes all idle connections.
func (p *connPool) closeAll() {
	p.closeIf(func(*upstreamConn) bool { return true })
}

func (p *connPool) closeIf(is func(*upstreamConn) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, list := range p.idle {
		kept := list[:0]
		for _, c := range list {
			if is(c) {
				c.Conn.Close()
			} else {
				kept = append(kept, c)
			}
		}
		clear(list[len(kept):])
		p.count -= len(list) - len(kept)
		if p.idle[key] = kept; len(kept) == 0 {
			delete(p.idle, key)
		}
	}
}

// retire makes the pool keep nothing, or keep connections again.
func (p *connPool) retire(retired bool) {
	p.mu.Lock()
	p.retired = retired
	p.mu.Unlock()
	if retired {
		p.closeAll()
	}
}

// connection returns an idle connection that is alive, or a new one.
func (t *target) connection(ctx context.Context, key poolKey, fresh bool) (*upstreamConn, error) {
	for !fresh {
		c := t.conns.take(key)
		if c == nil {
			break
		}
		if c.quiet() {
			c.reused, c.settled = true, false
			return c, nil
		}
		c.Conn.Close()
	}
	conn, err := t.dialHTTP(ctx, key)
	if err != nil {
		return nil, err
	}
	c := &upstreamConn{Conn: conn, target: t, key: key, in: h1.NewReader(conn, &t.proxy.buffers, nil), out: nonblock.NewWriter(conn)}
	c.peek.init(conn)
	return c, nil
}

// poolKey returns the key of connections that may carry a request of a client
// connection, sent to a port under a host.
func (t *target) poolKey(c *conn, port int, host string) poolKey {
	key := poolKey{port: port}
	if t.tls != nil {
		asked, _ := canonicalHost(host)
		key.serverName = t.serverName(asked)
	}
	if t.key.proxyVersion != 0 {
		key.client, key.local = c.client, c.local
	}
	return key
}

func (t *target) dialHTTP(ctx context.Context, key poolKey) (net.Conn, error) {
	addr := net.JoinHostPort("", strconv.Itoa(key.port))
	header := t.proxyHeader(key.client, key.local)
	if t.tls == nil {
		return t.connect(ctx, "tcp", addr, header)
	}
	return t.dialTLS(ctx, addr, key.serverName, header, t.proxy.times.Connect)
}

// quiet reports whether an idle connection looks alive. A target that says
// something unasked has lost count of its answers, or is about to close.
func (c *upstreamConn) quiet() bool {
	if len(c.in.Buffered()) > 0 {
		return false
	}
	if c.peek.isTLS && c.holds() {
		return false
	}
	if c.settled && time.Since(c.idleSince) < justNow {
		return true
	}
	switch c.peek.look() {
	case peekNothing:
		return true
	case peekClosed:
		return false
	}
	if c.peek.isTLS {
		// It may be a session ticket, which is no answer to anything.
		c.readDeadline(time.Now().Add(time.Millisecond))
		err := c.in.Fill()
		return err != nil && isTimeout(err) && len(c.in.Buffered()) == 0
	}
	return false
}

// holds reports whether TLS has read something that nobody has asked for yet, which
// a look at the socket does not show.
func (c *upstreamConn) holds() bool {
	c.readDeadline(time.Unix(1, 0))
	return !isTimeout(c.in.Fill())
}

// release ends the use of a connection for one exchange. It is kept for the
// next one if the exchange has been gone through to its end.
func (c *upstreamConn) release(reusable bool) {
	if reusable && len(c.in.Buffered()) == 0 {
		c.idleSince = time.Now()
		if c.target.conns.put(c) {
			return
		}
	}
	c.in.Close()
	c.Conn.Close()
}

// readDeadline and writeDeadline set deadlines and remember them.
func (c *upstreamConn) readDeadline(by time.Time) {
	c.readBy = by
	c.Conn.SetReadDeadline(by)
}

func (c *upstreamConn) writeDeadline(by time.Time) {
	c.writeBy = by
	c.Conn.SetWriteDeadline(by)
}

// isStale reports whether an exchange failed because the target had closed an
// idle connection, as any server may at any time: the request has not been
// looked at if not a byte came back.
func (c *upstreamConn) isStale(err error) bool {
	return c.reused && (errors.Is(err, errNoAnswer) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// What peeking at a connection finds.
const (
	peekNothing = iota // nothing to read, or it cannot be told
	peekData
	peekClosed
)

// rawTCP finds the TCP connection below TLS.
func rawTCP(conn net.Conn) (raw syscall.RawConn, tls bool) {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn, tls = secure.NetConn(), true
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		raw, _ = tcp.SyscallConn()
	}
	return raw, tls
}

// sweepPools looks after idle connections as long as the run goes on.
func (r *run) sweepPools() {
	ticker := time.NewTicker(maxIdleTime / 6)
	defer ticker.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-ticker.C:
			r.p.update.Lock()
			for _, t := range r.p.targets {
				t.conns.sweep(now)
			}
			r.p.update.Unlock()
		}
	}
}
