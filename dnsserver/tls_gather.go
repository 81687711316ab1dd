package dnsserver

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

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

	until atomic.Int64 // the deadline for writing, in Unix time in ns

	mu     sync.Mutex
	out    *[]byte // nil: nothing
	direct bool    // nothing is gathered: somebody reads, or nobody will any more
}

// SetWriteDeadline sets the deadline for what is written at once. What has been
// gathered has one of its own: it may be written much later.
func (c *gatherConn) SetWriteDeadline(t time.Time) error {
	c.until.Store(t.UnixNano())
	return c.Conn.SetWriteDeadline(t)
}

func (c *gatherConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.SetWriteDeadline(t))
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
	now := time.Now()
	if left := time.Duration(c.until.Load() - now.UnixNano()); left < writeTime/2 || left > writeTime {
		if err := c.SetWriteDeadline(now.Add(writeTime)); err != nil {
			return err
		}
	}
	_, err := c.Conn.Write(*out)
	c.s.putMessage(out)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.Conn.Close() // TLS would try to say goodbye
		return errNotTaken
	}
	return err
}
