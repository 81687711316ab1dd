package opsapi

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// boundedListener keeps connections to a number. More wait in the system's
// queue.
type boundedListener struct {
	net.Listener
	tokens chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBoundedListener(ln net.Listener, most int) *boundedListener {
	return &boundedListener{Listener: ln, tokens: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for a connection, and for room for it.
func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.tokens <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.tokens
		return nil, err
	}
	return &boundedConn{Conn: conn, release: sync.OnceFunc(func() { <-l.tokens })}, nil
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
