//go:build !unix

package nonblock

import (
	"io"
	"net"
)

// NewWriter returns what writes to a connection at the least cost. It is not
// safe for concurrent use.
func NewWriter(conn net.Conn) io.Writer { return conn }

// NewConn returns a connection that is read from and written to at the least cost.
// One goroutine at a time may read, and one write.
func NewConn(c net.Conn) net.Conn { return c }
