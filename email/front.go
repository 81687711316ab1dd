package email

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
	"github.com/dcrouter/dcrouter/internal/proxyheader"
)

// front is what a connection passes before the engine has it: the PROXY header,
// the lists, the most that its port may have. It does what the proxy does where
// that has the ports ([Config.UseSocketHandler]), in the same order and with the
// same to be seen by clients.
type front struct {
	net.Listener
	s     *Server
	rules *frontRules

	open     atomic.Int64 // connections that were let in
	waiting  atomic.Int64 // those whose header is still to come
	ready    chan accepted
	closed   context.Context
	close    context.CancelFunc
	learning sync.WaitGroup
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// headerTime is how long a PROXY header may take, as in the proxy.
const headerTime = 10 * time.Second

func newFront(s *Server, ln net.Listener, rules *frontRules) *front {
	f := &front{Listener: ln, s: s, rules: rules, ready: make(chan accepted)}
	f.closed, f.close = context.WithCancel(context.Background())
	return f
}

// serve accepts connections until Close.
func (f *front) serve() {
	defer f.learning.Wait()
	for {
		conn, err := f.Listener.Accept()
		switch {
		case err != nil:
			if !f.give(accepted{err: err}) || errors.Is(err, net.ErrClosed) {
				f.close()
				return
			}
		case !within(f.rules.proxies, addrOf(conn.RemoteAddr())):
			f.admit(conn, addrOf(conn.RemoteAddr()))
		case f.waiting.Add(1) > int64(valueOr(f.s.cfg.Connections.Max, defaultConnections)):
			f.waiting.Add(-1)
			f.refuse(conn, addrOf(conn.RemoteAddr()), "connections")
		default:
			f.learning.Go(func() {
				defer f.waiting.Add(-1)
				f.learn(conn)
			})
		}
	}
}

// learn reads the PROXY header.
func (f *front) learn(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(headerTime))
	defer context.AfterFunc(f.closed, func() { conn.SetReadDeadline(past()) })()
	client, local, rest, err := proxyheader.Read(conn)
	if err != nil || f.closed.Err() != nil {
		f.refuse(conn, addrOf(conn.RemoteAddr()), "proxy-header")
		return
	}
	conn.SetReadDeadline(time.Time{})
	peer := ConnInfo{Client: client, Local: local}
	conn = peer.wrap(conn)
	if len(rest) > 0 {
		conn = &netconn.Unread{Conn: conn, Head: rest}
	}
	f.admit(conn, addrOf(conn.RemoteAddr()))
}

func past() time.Time { return time.Unix(1, 0) }

// admit gives a connection to the engine, or refuses it.
func (f *front) admit(conn net.Conn, client netip.Addr) {
	if !f.rules.permits(client) {
		f.refuse(conn, client, "blocked")
		return
	}
	if n := f.open.Add(1); f.rules.max > 0 && n > f.rules.max {
		f.open.Add(-1)
		f.refuse(conn, client, "port-full")
		return
	}
	counted := &countedConn{Conn: conn, front: f}
	if !f.give(accepted{conn: counted}) {
		counted.Close()
	}
}

// give hands something to Accept, unless that comes no more.
func (f *front) give(a accepted) bool {
	select {
	case f.ready <- a:
		return true
	case <-f.closed.Done():
		return false
	}
}

func (f *front) refuse(conn net.Conn, client netip.Addr, reason string) {
	conn.Close()
	f.s.stats.total.Add(1)
	f.s.stats.connRefused.Add(1)
	f.s.stats.reasons.add(reason)
	f.s.log.Debug("connection refused", "remote", client, "local", f.Addr(), "reason", reason)
}

// Accept returns the next connection that may come in.
func (f *front) Accept() (net.Conn, error) {
	select {
	case a := <-f.ready:
		return a.conn, a.err
	case <-f.closed.Done():
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (f *front) Close() error {
	f.close()
	return f.Listener.Close()
}

// countedConn gives back its place at the port when it is closed.
type countedConn struct {
	net.Conn
	front *front
	gone  atomic.Bool
}

func (c *countedConn) Close() error {
	if !c.gone.Swap(true) {
		c.front.open.Add(-1)
	}
	return c.Conn.Close()
}

func (c *countedConn) CloseWrite() error { return netconn.CloseWrite(c.Conn) }
