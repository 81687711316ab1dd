package opsapi

import (
	"net"
	"sync"
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
