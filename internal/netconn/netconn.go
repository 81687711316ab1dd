// Package netconn has what stands around connections in several packages: one that
// begins with what was read ahead, and the end of one direction whatever there is
// between.
package netconn

import (
	"errors"
	"net"
)

// Unread is a connection that gives back first what was read ahead of it.
type Unread struct {
	net.Conn
	Head []byte // what is still to be read
}

// Read reads from Head, and when that is empty from the connection.
func (c *Unread) Read(b []byte) (int, error) {
	if len(c.Head) > 0 {
		n := copy(b, c.Head)
		c.Head = c.Head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite is that of the connection.
func (c *Unread) CloseWrite() error { return CloseWrite(c.Conn) }

// CloseWrite ends the direction in which we write, or fails with
// [errors.ErrUnsupported] if the connection cannot do that.
func CloseWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}
