package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

const (
	// messageTime is how long a message may take from its first byte to its
	// last, writeTime how long a client may take to read what is sent to it.
	messageTime   = 5 * time.Second
	handshakeTime = 5 * time.Second
	writeTime     = 10 * time.Second
	// firstQuery is what a new connection has at Stop until its first query has
	// to be there, and lingering what a client has to take a goodbye in.
	firstQuery = 250 * time.Millisecond
	lingering  = 250 * time.Millisecond
)

// errNotTaken ends a connection whose client does not read what is sent to it.
// It is no error of a deadline: those are about what does not come.
var errNotTaken = errors.New("the client does not take what is sent to it")

// clientConn is a connection over TCP that is on the books of a run, whatever is
// spoken over it.
type clientConn struct {
	net.Conn
	place
	raw      net.Conn    // below TLS
	gathered *gatherConn // the same, or nil
	run      *run
	from     asker
	stats    *counters

	patient  time.Time // the deadline for reading
	writable time.Time // the deadline for writing

	// waitsSince is since when nothing has come that could be answered, in Unix
	// time in ns; 0 while busy.
	waitsSince atomic.Int64
	// asked is set when the client has begun to ask.
	asked atomic.Bool
	// asking is set while net/http has a request.
	asking  atomic.Bool
	counted bool // among the open ones in stats
}

// serveConn serves a connection to its end. by is how it came, if that is known
// before there is TLS; over TLS the client says what it speaks.
func (r *run) serveConn(nc net.Conn, by transport) {
	encrypted, _ := nc.(interface{ ConnectionState() tls.ConnectionState })
	if encrypted != nil && by == overTCP {
		by = overTLS
	}
	c := &clientConn{Conn: nonblock.NewConn(nc), raw: nc, run: r, from: asker{addr: addrPort(nc.RemoteAddr())}, stats: r.s.counters.shard(by)}
	secure, _ := nc.(*tls.Conn)
	if secure != nil {
		c.raw = secure.NetConn()
		c.gathered, _ = c.raw.(*gatherConn)
	}
	c.place.addr = c.from.addr.Addr()
	c.waitsSince.Store(time.Now().UnixNano()) // for a handshake, where there is one
	if !r.admit(c) {
		c.stats.refused.Add(1)
		nc.Close()
		return
	}
	defer func() {
		c.end()
		if c.counted {
			c.stats.open.Add(-1)
		}
		r.forget(c) // when nothing more is waited for
	}()
	defer func() {
		// Code of the host may run in here, as certificate hooks.
		if v := recover(); v != nil {
			r.panicked(c.from.addr, v)
		}
	}()
	if secure != nil && !r.handshake(secure) {
		c.stats.refused.Add(1)
		return
	}
	serve := serveStream
	if encrypted != nil {
		switch protocol := encrypted.ConnectionState().NegotiatedProtocol; {
		case protocol == "h2":
			serve, by = serveHTTP2, overHTTPS
		case protocol == "http/1.1", protocol == "" && by == overHTTPS:
			serve, by = serveHTTP1, overHTTPS
		}
	}
	c.from.transport, c.stats = by, r.s.counters.shard(by)
	c.stats.connections.Add(1)
	c.stats.open.Add(1)
	c.counted = true
	serve(c)
}

// handshake makes the handshake of TLS, unless that is done.
func (r *run) handshake(c *tls.Conn) bool {
	ctx, cancel := context.WithTimeout(r.ctx, handshakeTime)
	defer cancel()
	err := c.HandshakeContext(ctx)
	if err != nil && r.mayLog() {
		r.log.Debug("no TLS with a client", "remote", c.RemoteAddr(), "err", err)
	}
	return err == nil
}

func (c *clientConn) waiting() int64 { return c.waitsSince.Load() }

// hurry has the connection end as soon as it has answered what it has read. The
// first query of a new connection may be on its way.
func (c *clientConn) hurry() {
	switch {
	case c.asking.Load(): // it comes by here again
		return
	case c.asked.Load():
		c.Conn.SetReadDeadline(time.Unix(1, 0))
	default:
		c.Conn.SetReadDeadline(time.Now().Add(firstQuery))
	}
	if c.asking.Load() { // and has set its deadline just before
		c.Conn.SetReadDeadline(time.Now().Add(messageTime))
	}
}

// cut ends it at once, without the goodbye of TLS, for which a client would have
// to make room.
func (c *clientConn) cut() { c.raw.Close() }

// end closes it after what has been gathered, also where a handshake ends with an
// alert, and after the goodbye of TLS.
func (c *clientConn) end() {
	c.waitFor(func() {
		c.gathered.flush()
		c.Conn.Close()
	})
}

// waitFor does what may have to wait until the client takes something.
func (c *clientConn) waitFor(do func()) {
	mark := time.Now().UnixNano()
	before := c.waitsSince.Swap(mark)
	defer c.waitsSince.CompareAndSwap(mark, before)
	do()
}

// waitUntil sets the deadline for reading. Setting it costs, so that one that
// is about right stays.
func (c *clientConn) waitUntil(until time.Time) error {
	if off := until.Sub(c.patient); off < 0 || off > time.Until(until)/8 {
		if err := c.Conn.SetReadDeadline(until); err != nil {
			return err
		}
		c.patient = until
		if c.run.closing.Load() { // and has set another one just before
			if c.asked.Load() {
				return errStopping
			}
			c.hurry()
		}
	}
	return nil
}

// send writes to the client, which has to take it. The deadline for that is set
// with as little care. Whoever reads may be at it at the same time.
func (c *clientConn) send(b []byte) error {
	now := time.Now()
	if until := now.Add(writeTime); until.Sub(c.writable) > writeTime/2 {
		if err := c.Conn.SetWriteDeadline(until); err != nil {
			return err
		}
		c.writable = until
	}
	before := c.waitsSince.Swap(now.UnixNano())
	_, err := c.Conn.Write(b)
	c.waitsSince.CompareAndSwap(now.UnixNano(), before)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.cut() // TLS would try to say goodbye
		return errNotTaken
	}
	return err
}

// linger leaves a client that has been told that it is over a moment to take
// that in. Else what it has sent since would have the system throw away what it
// has not read.
func (c *clientConn) linger() {
	c.waitFor(func() {
		if secure, ok := c.Conn.(*tls.Conn); ok {
			c.gathered.flush() // CloseWrite leaves no time for writing
			secure.CloseWrite()
		}
		c.raw.SetReadDeadline(time.Now().Add(lingering))
		io.Copy(io.Discard, c.raw)
	})
}
