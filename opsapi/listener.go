package opsapi

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// boundedListener keeps connections to a number. More wait in the system's
// queue, but those of an address that has a quarter of all: they are closed.
type boundedListener struct {
	net.Listener
	trusts func(netip.Addr) bool // who may have more
	tokens chan struct{}
	places *places
	full   func(who string) // is told of who was refused
	closed chan struct{}
	once   sync.Once
}

func newBoundedListener(ln net.Listener, most int, trusts func(netip.Addr) bool, full func(who string)) *boundedListener {
	return &boundedListener{Listener: ln, trusts: trusts, tokens: make(chan struct{}, most), places: newPlaces(most, max(1, most/4)), full: full, closed: make(chan struct{})}
}

// Accept waits for a connection, and for room for it.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.tokens <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.tokens
			return nil, err
		}
		who := ""
		if addr := parseAddr(conn.RemoteAddr().String()); !l.trusts(addr) {
			who = holder(addr)
		}
		if !l.places.take(who) {
			conn.Close()
			l.full(who)
			continue
		}
		return &boundedConn{Conn: conn, release: sync.OnceFunc(func() {
			l.places.release(who)
			<-l.tokens
		})}, nil
	}
}

// Close ends Accept.
func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type boundedConn struct {
	net.Conn
	release func()
}

// Close makes room for another connection.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// silentGrace is how long a first request may take to come in once the server
// stops.
const silentGrace = 500 * time.Millisecond

// silentConns are connections on which no request has come yet, for which
// [http.Server.Shutdown] would wait five seconds.
type silentConns struct {
	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// note is the server's ConnState.
func (s *silentConns) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.open, c)
	case s.closed:
		c.Close()
	default:
		if s.open == nil {
			s.open = make(map[net.Conn]bool)
		}
		s.open[c] = true
	}
}

// close closes them, and those to come.
func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
}
