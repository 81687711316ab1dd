package dnsserver

import (
	"errors"
	"net"
	"os"
	"sync"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

// gatherListener gives connections that gather what is written to them.
type gatherListener struct {
	net.Listener
	s *Server
}

func (l gatherListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gatherConn{Conn: nonblock.NewConn(nc), s: l.s}, nil
}

// gatherConn is the connection below TLS. TLS reads one record at a time, and
// clients put each query into one of its own, so that each answer would be a
// system call. Here answers wait until TLS wants to read more from the network,
// that is until all that has come is answered, or until there are flushSize bytes.
type gatherConn struct {
	net.Conn
	s *Server

	mu     sync.Mutex
	out    *[]byte // nil: nothing
	direct bool    // nothing is gathered: somebody reads, or nobody will any more
}

func (c *gatherConn) Read(b []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if err == nil {
		c.mu.Lock()
		c.direct = false
		c.mu.Unlock()
	}
	return n, err
}

func (c *gatherConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.direct {
		return c.Conn.Write(b)
	}
	if c.out == nil {
		c.out = c.s.getMessage()
	}
	*c.out = append(*c.out, b...)
	if len(*c.out) >= flushSize {
		return len(b), c.flushLocked()
	}
	return len(b), nil
}

// flush writes what has been gathered, and has what follows written at once.
func (c *gatherConn) flush() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.direct = true
	return c.flushLocked()
}

func (c *gatherConn) flushLocked() error {
	if c.out == nil {
		return nil
	}
	out := c.out
	c.out = nil
	_, err := c.Conn.Write(*out)
	c.s.putMessage(out)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errNotTaken // also to who reads
	}
	return err
}
