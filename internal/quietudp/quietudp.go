// Package quietudp keeps quic-go, which QUIC servers are made with, from writing
// to the process's own log.
package quietudp

import (
	"errors"
	"net"
	"syscall"
)

// Conn returns pc as quic-go is to have it: when the system grants smaller
// buffers than it would like, it says so in the process's own log.
func Conn(pc net.PacketConn) net.PacketConn {
	if c, ok := pc.(*net.UDPConn); ok {
		return &quietUDP{UDPConn: c}
	}
	return quietPackets{pc}
}

// quietUDP sets its buffers as well as it can. There is no looking behind that
// until both are set.
type quietUDP struct {
	*net.UDPConn
	set bool
}

// SetReadBuffer asks for a buffer of n bytes.
func (c *quietUDP) SetReadBuffer(n int) error {
	c.UDPConn.SetReadBuffer(n)
	return nil
}

// SetWriteBuffer asks for a buffer of n bytes; it is called last.
func (c *quietUDP) SetWriteBuffer(n int) error {
	c.UDPConn.SetWriteBuffer(n)
	c.set = true
	return nil
}

// SyscallConn gives access to the socket.
func (c *quietUDP) SyscallConn() (syscall.RawConn, error) {
	if !c.set {
		return nil, errors.ErrUnsupported
	}
	return c.UDPConn.SyscallConn()
}

// quietPackets is a socket of the host's that is none of the system's.
type quietPackets struct{ net.PacketConn }

// SetReadBuffer does nothing.
func (quietPackets) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (quietPackets) SetWriteBuffer(int) error { return nil }
