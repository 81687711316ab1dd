package proxy

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
)

// listenPacket opens the packet socket of one port, or takes the one that the
// host gave. number is what the port stands for.
func (p *Proxy) listenPacket(ctx context.Context, port, number int) (net.PacketConn, error) {
	if pc := p.givenPackets[p.listenAddr(port)]; pc != nil {
		return pc, nil
	}
	addr := p.listenAddr(number)
	var lc net.ListenConfig
	pc, err := p.opts.sockets.ListenPacket(ctx, lc, "udp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	if c, ok := pc.(*net.UDPConn); ok {
		c.SetReadBuffer(datagramBurst)
	}
	return pc, nil
}

// readPackets begins to read a packet socket. Who reads that of a port is
// decided here. r.mu is held.
func (r *run) readPackets(port int, pc net.PacketConn) {
	u := newUDPPort(r, port, pc)
	r.udp[port] = u
	r.accepting.Add(1)
	go func() {
		defer r.accepting.Done()
		u.serve()
	}()
}

// isReading reports whether pc is in service.
func (r *run) isReading(port int, pc net.PacketConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packets[port] == pc
}

// readPort returns the packet socket of a port, unless it only drains. r.mu is
// held.
func (r *run) readPort(port int) net.PacketConn {
	if p := r.table.Load().ports[port]; p == nil || !p.needsPackets() {
		return nil
	}
	return r.packets[port]
}

// closePackets takes a packet socket out of service. r.mu is held.
func (r *run) closePackets(port int, pc net.PacketConn) {
	pc.Close()
	delete(r.packets, port)
	delete(r.udp, port)
}

// udpPorts returns the ports that are forwarded now.
func (r *run) udpPorts() []*udpPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.udp))
}
