package radius

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// socket is a UDP port.
type socket struct {
	conn    net.PacketConn
	udp     *net.UDPConn // conn, if it is one
	service service
	via     bool // the address that a packet was sent to comes with it
}

// listenPacket opens a port, or takes the socket that the host gave for it.
func (s *Server) listenPacket(ctx context.Context, port int, service service) (*socket, error) {
	addr := s.listenAddr(port)
	sock := &socket{conn: s.opts.packetConns[addr], service: service}
	if sock.conn == nil {
		var lc net.ListenConfig
		var err error
		if sock.conn, err = s.opts.sockets.ListenPacket(ctx, lc, "udp", addr); err != nil {
			return nil, cannotListen(addr, err)
		}
	}
	sock.conn.SetReadDeadline(time.Time{})
	if udp, ok := sock.conn.(*net.UDPConn); ok {
		sock.udp = udp
		// For when a whole site comes back to power. The system may give less.
		udp.SetReadBuffer(4 << 20)
		if bound, ok := udp.LocalAddr().(*net.UDPAddr); ok && bound.IP.IsUnspecified() {
			sock.via = wantDestination(udp) == nil
		}
	}
	return sock, nil
}

// send answers. That a packet is lost is nothing that UDP would tell.
func (sock *socket) send(d datagram, in *arrival) {
	if sock.udp != nil {
		sock.udp.WriteMsgUDPAddrPort(d, in.via, in.from)
		return
	}
	sock.conn.WriteTo(d, net.UDPAddrFromAddrPort(in.from))
}

// receive waits for a packet.
func (sock *socket) receive(b, oob []byte) (n int, via []byte, from netip.AddrPort, err error) {
	if sock.udp != nil {
		if !sock.via {
			n, from, err = sock.udp.ReadFromUDPAddrPort(b)
			return n, nil, from, err
		}
		n, oobn, _, from, err := sock.udp.ReadMsgUDPAddrPort(b, oob)
		return n, replyFrom(oob[:oobn]), from, err
	}
	n, addr, err := sock.conn.ReadFrom(b)
	if addr != nil {
		if udp, ok := addr.(*net.UDPAddr); ok {
			from = udp.AddrPort()
		} else {
			from, _ = netip.ParseAddrPort(addr.String())
		}
	}
	return n, nil, from, err
}

// read takes packets from a socket until Stop.
func (r *run) read(sock *socket) {
	b := make([]byte, 1<<16) // Windows makes an error of what does not fit
	oob := make([]byte, 128)
	var in arrival
	for pause := time.Duration(0); ; {
		n, via, from, err := sock.receive(b, oob)
		if err != nil {
			if r.isStopping(err) {
				if r.stopping.Load() == 0 {
					r.fail(err) // somebody else has closed it
				}
				return
			}
			// What a socket without a peer reports is about packets that were
			// sent before, or passes: no memory.
			pause = min(2*pause+time.Millisecond, time.Second)
			select {
			case <-time.After(pause):
			case <-r.quit:
				return
			}
			continue
		}
		pause = 0
		// A scope belongs to our side, and clients are not configured with it;
		// the answer needs it, though.
		addr := from.Addr().Unmap().WithZone("")
		c := r.s.clients.find(addr)
		if c == nil {
			r.s.drop(dropped{from: netip.AddrPortFrom(addr, from.Port()), why: unknownClient})
			continue
		}
		in = arrival{from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), client: c, secret: c.secret, service: sock.service, at: time.Now(), out: sock, via: via}
		r.take(&in, b[:n])
	}
}
