//go:build !unix

package proxy

import (
	"net"
	"sync"
)

// udpConn reads and writes a socket of net's. One goroutine at a time may
// receive, and one may send.
type udpConn struct {
	*net.UDPConn
	buffers *sync.Pool // *[]byte of maxDatagram
	oob     []byte
}

// newUDPConn takes over a socket. oobSize is the room for control messages.
func newUDPConn(c *net.UDPConn, buffers *sync.Pool, oobSize int) (*udpConn, error) {
	return &udpConn{UDPConn: c, buffers: buffers, oob: make([]byte, oobSize)}, nil
}

// receive waits for a datagram. The control message holds until the next call.
func (u *udpConn) receive() (datagram, []byte, error) {
	buf := u.buffers.Get().(*[]byte)
	n, oobn, _, from, err := u.ReadMsgUDPAddrPort(*buf, u.oob)
	if err != nil {
		u.buffers.Put(buf)
		return datagram{}, nil, err
	}
	return datagram{peer: peer{client: from}, data: (*buf)[:n], buf: buf, buffers: u.buffers}, u.oob[:oobn], nil
}

// send sends to the socket's other end.
func (u *udpConn) send(b []byte) error {
	_, err := u.Write(b)
	return err
}
