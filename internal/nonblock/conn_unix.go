//go:build unix

package nonblock

import (
	"io"
	"net"
	"os"
	"syscall"
)

// conn is a TCP connection.
type conn struct {
	*net.TCPConn
	out *writer
	try func(fd uintptr) bool // made once: it would be allocated anew each time
	b   []byte
	n   int
	err error
}

// NewConn returns a connection that is read from and written to at the least cost.
// One goroutine at a time may read, and one write.
func NewConn(c net.Conn) net.Conn {
	out, ok := NewWriter(c).(*writer)
	if !ok {
		return c
	}
	fast := &conn{TCPConn: c.(*net.TCPConn), out: out}
	fast.try = fast.recv
	return fast
}

func (c *conn) Write(b []byte) (int, error) { return c.out.Write(b) }

// Read reads what is there, and waits for the first byte.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.b, c.n, c.err = b, 0, nil
	err := c.out.raw.Read(c.try)
	c.b = nil
	switch {
	case err != nil:
	case c.err != nil:
		err = c.err
	case c.n == 0:
		err = io.EOF
	}
	return c.n, err
}

// recv reports false where it has to wait.
func (c *conn) recv(fd uintptr) bool {
	n, err := Recv(fd, c.b)
	if err == syscall.EAGAIN {
		return false
	}
	if c.n = n; err != nil {
		c.err = os.NewSyscallError("read", err)
	}
	return true
}
