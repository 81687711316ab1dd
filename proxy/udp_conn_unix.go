//go:build unix

package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
)

// udpConn reads and writes a socket of net's so that waiting to read costs no
// buffer, of which there would be one for each session, and writing never
// waits: where a router has no room, it drops.
//
// One goroutine at a time may receive, and one may send.
type udpConn struct {
	*net.UDPConn
	raw     syscall.RawConn
	buffers *sync.Pool // *[]byte of maxDatagram
	oob     []byte

	// What a call under way has come to.
	in struct {
		buf  *[]byte
		n    int
		oobn int
		from syscall.Sockaddr
		err  error
	}
	out struct {
		data []byte
		err  error
	}
	read, write func(fd uintptr) bool
}

// newUDPConn takes over a socket. oobSize is the room for control messages.
func newUDPConn(c *net.UDPConn, buffers *sync.Pool, oobSize int) (*udpConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	u := &udpConn{UDPConn: c, raw: raw, buffers: buffers}
	if oobSize > 0 {
		u.oob = make([]byte, oobSize)
	}
	u.read, u.write = u.tryRead, u.tryWrite
	return u, nil
}

// receive waits for a datagram. The control message holds until the next call.
func (u *udpConn) receive() (datagram, []byte, error) {
	if err := u.raw.Read(u.read); err != nil {
		return datagram{}, nil, err
	}
	in := u.in
	u.in.buf, u.in.from = nil, nil
	if in.err != nil {
		return datagram{}, nil, in.err
	}
	return datagram{peer: peer{client: fromSockaddr(in.from)}, data: (*in.buf)[:in.n], buf: in.buf, buffers: u.buffers}, u.oob[:in.oobn], nil
}

// tryRead reads if there is anything.
func (u *udpConn) tryRead(fd uintptr) bool {
	buf := u.buffers.Get().(*[]byte)
	for {
		u.in.n, u.in.oobn, _, u.in.from, u.in.err = syscall.Recvmsg(int(fd), *buf, u.oob, 0)
		switch u.in.err {
		case nil:
			u.in.buf = buf
			return true
		case syscall.EINTR:
			continue
		}
		u.buffers.Put(buf)
		return u.in.err != syscall.EAGAIN
	}
}

// send sends to the socket's other end.
func (u *udpConn) send(b []byte) error {
	u.out.data = b
	err := u.raw.Write(u.write)
	u.out.data = nil
	if err != nil {
		return err
	}
	return u.out.err
}

func (u *udpConn) tryWrite(fd uintptr) bool {
	for {
		if _, u.out.err = syscall.Write(int(fd), u.out.data); u.out.err != syscall.EINTR {
			return true
		}
	}
}

func fromSockaddr(from syscall.Sockaddr) netip.AddrPort {
	switch a := from.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.ZoneId), 10))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}
