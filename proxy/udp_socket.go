package proxy

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// maxDatagram is more than any datagram holds.
const maxDatagram = 64 << 10

// datagramBurst is what may come while we are busy with something else. The
// system may grant less.
const datagramBurst = 1 << 20

// packetSocket is where the datagrams of a port come from and go to. One
// goroutine receives.
type packetSocket interface {
	// receive waits for a datagram. The caller releases it.
	receive() (datagram, error)
	// replier returns what sends to the sender of a datagram. It may be called
	// by several goroutines.
	replier(*datagram) func([]byte) error
}

// datagram is one that came in.
type datagram struct {
	peer
	data   []byte
	sender net.Addr // where the socket is not one of net's

	buf     *[]byte
	buffers *sync.Pool
}

// release gives the memory of the data back.
func (d *datagram) release() {
	if d.buf != nil {
		d.buffers.Put(d.buf)
	}
}

// peer is who sends datagrams, and where to.
type peer struct {
	client netip.AddrPort // as the socket has it
	local  netip.Addr     // not valid if the socket has one address only
}

// udpSocket is a socket of net's.
type udpSocket struct {
	*udpConn
	anyAddr bool // bound to all addresses, so answers need one to come from
}

// newPacketSocket prepares a packet socket for receiving.
func newPacketSocket(pc net.PacketConn, buffers *sync.Pool) (packetSocket, error) {
	c, ok := pc.(*net.UDPConn)
	if !ok {
		return &foreignSocket{PacketConn: pc, buf: make([]byte, maxDatagram)}, nil
	}
	s := &udpSocket{}
	oobSize := 0
	if a := addrPort(c.LocalAddr()).Addr(); a.IsUnspecified() {
		// Where the system cannot tell, it chooses where answers come from.
		s.anyAddr = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst, true) == nil ||
			ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true) == nil
		if s.anyAddr {
			oobSize = max(len(ipv4.NewControlMessage(ipv4.FlagDst)), len(ipv6.NewControlMessage(ipv6.FlagDst)))
		}
	}
	var err error
	s.udpConn, err = newUDPConn(c, buffers, oobSize)
	return s, err
}

func (s *udpSocket) receive() (datagram, error) {
	d, oob, err := s.udpConn.receive()
	if err == nil && s.anyAddr {
		d.local = destination(oob)
	}
	return d, err
}

// destination finds in a control message where a datagram was sent to.
func destination(oob []byte) netip.Addr {
	var m6 ipv6.ControlMessage
	var m4 ipv4.ControlMessage
	ip := net.IP(nil)
	if m6.Parse(oob) == nil && m6.Dst != nil {
		ip = m6.Dst
	} else if m4.Parse(oob) == nil {
		ip = m4.Dst
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func (s *udpSocket) replier(d *datagram) func([]byte) error {
	to, oob := d.client, source(d.local)
	return func(b []byte) error {
		_, _, err := s.WriteMsgUDPAddrPort(b, oob, to)
		return err
	}
}

// source makes a control message that sends from an address, or nothing where
// the system has to choose one.
func source(addr netip.Addr) []byte {
	switch {
	case !addr.IsValid(), addr.IsMulticast(), addr.IsLinkLocalUnicast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return nil
	case addr.Is4():
		return (&ipv4.ControlMessage{Src: addr.AsSlice()}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: addr.AsSlice()}).Marshal()
}

// foreignSocket is one that the host has made in its own way.
type foreignSocket struct {
	net.PacketConn
	buf []byte
}

func (s *foreignSocket) receive() (datagram, error) {
	n, from, err := s.ReadFrom(s.buf)
	if err != nil {
		return datagram{}, err
	}
	return datagram{peer: peer{client: addrPort(from)}, data: s.buf[:n], sender: from}, nil
}

func (s *foreignSocket) replier(d *datagram) func([]byte) error {
	to := d.sender
	return func(b []byte) error {
		_, err := s.WriteTo(b, to)
		return err
	}
}
