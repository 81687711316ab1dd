package dnsserver

import (
	"errors"
	"net"
	"syscall"
)

// quietly keeps quic-go from writing to the process's own log when the system
// grants smaller buffers than it would like.
func quietly(pc net.PacketConn) net.PacketConn {
	if c, ok := pc.(*net.UDPConn); ok {
		return &quietUDP{UDPConn: c}
	}
	return pc
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
