//go:build !unix

package nonblock

import (
	"io"
	"net"
)

// NewWriter returns what writes to a connection at the least cost. It is not
// safe for concurrent use.
func NewWriter(conn net.Conn) io.Writer { return conn }
