package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// defaultUDPSessions is how many sessions there may be where the configuration
// does not say. A stranger can make them at will by changing his port, and
// each costs a file descriptor.
const defaultUDPSessions = 10_000

var (
	errBlocked   = errors.New("the route does not permit this address")
	errRouteFull = errors.New("the route has its maximum of sessions")
)

// udpPort forwards the datagrams of one port. It is the only one to read its
// socket; sessions write to it.
type udpPort struct {
	run  *run
	port int // as the routes name it
	pc   net.PacketConn
	addr netip.AddrPort // of pc

	mu       sync.Mutex
	sessions map[peer]*udpSession
	closed   bool
}

func newUDPPort(r *run, port int, pc net.PacketConn) *udpPort {
	return &udpPort{run: r, port: port, pc: pc, addr: addrPort(pc.LocalAddr()), sessions: make(map[peer]*udpSession)}
}

// serve forwards datagrams until the socket is closed, which ends all
// sessions: without it no answer reaches a client.
func (u *udpPort) serve() {
	defer u.close()
	socket, err := newPacketSocket(u.pc, &u.run.datagrams)
	if err != nil {
		u.run.fail(fmt.Errorf("cannot receive datagrams on %s: %w", u.run.p.listenAddr(u.port), err))
		return
	}
	pause, failures := time.Duration(0), 0
	for {
		d, err := socket.receive()
		if err == nil {
			pause, failures = 0, 0
			u.forward(socket, &d)
			d.release()
			continue
		}
		if !u.run.isReading(u.port, u.pc) {
			return
		}
		// What the system says may be about a datagram sent earlier (ICMP), and
		// passes. What else fails again and again, or was closed but not by us,
		// is over.
		var errno syscall.Errno
		if failures++; errors.Is(err, net.ErrClosed) || !errors.As(err, &errno) && failures == 10 {
			u.run.fail(fmt.Errorf("cannot receive datagrams on %s any more: %w", u.run.p.listenAddr(u.port), err))
			return
		}
		if failures == 1 {
			continue
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		u.run.log.Error("cannot receive datagrams, will try again", "port", u.port, "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-u.run.ctx.Done():
			return
		}
	}
}

// forward gives a datagram to its session, a new one if need be.
func (u *udpPort) forward(socket packetSocket, d *datagram) {
	u.mu.Lock()
	s := u.sessions[d.peer]
	u.mu.Unlock()
	if s != nil && s.send(d.data) {
		return
	}
	if s = u.open(socket, d); s != nil {
		s.send(d.data)
	}
}

// open begins a session for the sender of a datagram, if a route takes it.
func (u *udpPort) open(socket packetSocket, d *datagram) *udpSession {
	r := u.run
	stats := &r.p.stats
	client := netip.AddrPortFrom(d.client.Addr().Unmap().WithZone(""), d.client.Port())
	t := r.table.Load()
	p := t.ports[u.port]
	if p == nil || !client.IsValid() {
		u.refuse(client, &stats.noRoute, errNoRoute)
		return nil
	}
	rt := p.datagrams.find(&query{client: client.Addr()}, anyTraffic)
	switch {
	case r.isBlocked(client.Addr(), u.port):
		u.refuse(client, &stats.blockedAddress, errBlockedAddress)
		return nil
	case rt == nil:
		u.refuse(client, &stats.noRoute, errNoRoute)
		return nil
	case !rt.permits(client.Addr()):
		rt.state.blocked.Add(1)
		u.refuse(client, &stats.blocked, errBlocked)
		return nil
	case !rt.acquire():
		rt.state.blocked.Add(1)
		u.refuse(client, &stats.routeFull, errRouteFull)
		return nil
	}
	if reason := r.admitSession(client.Addr()); reason != nil {
		rt.release()
		u.refuse(client, reason, errLimit)
		return nil
	}
	rt.state.streams.Add(1)

	s := &udpSession{port: u, peer: d.peer, reply: socket.replier(d)}
	s.route, s.cancel = rt, s.stop
	s.last.Store(time.Now().UnixNano())
	s.info = ConnInfo{ID: strconv.FormatUint(r.connID.Add(1), 16), Client: client, Local: u.addr, Port: u.port, Route: rt.Name}
	if d.local.IsValid() {
		s.info.Local = netip.AddrPortFrom(d.local, u.addr.Port())
	}
	u.mu.Lock()
	u.sessions[d.peer] = s
	u.mu.Unlock()
	r.checkDrain(t.version)
	go s.serve(t)
	return s
}

// refuse counts a datagram that goes nowhere. Strangers cause these, so they
// are logged at debug level only and not without limit.
func (u *udpPort) refuse(client netip.AddrPort, reason *rejection, err error) {
	reason.count.Add(1)
	if log := u.run.log; log.Enabled(u.run.ctx, slog.LevelDebug) {
		if skipped, ok := reason.mayLog(time.Now()); ok {
			log.Debug("datagram refused", "remote", client, "port", u.port, "reason", reason.name, "err", err, "not_logged", skipped)
		}
	}
	if r := u.run; r.p.opts.observe != nil && r.p.stats.isSuspect(reason) {
		r.p.opts.observe(Event{Time: time.Now(), Reason: reason.name, Client: r.clientOf(client.Addr(), nil), Port: u.port, Detail: err.Error()})
	}
}

// forget takes a session off the port's books. The last one of a port that no
// route names any more takes the socket with it.
func (u *udpPort) forget(s *udpSession) {
	u.mu.Lock()
	if u.sessions[s.peer] == s {
		delete(u.sessions, s.peer)
	}
	last := len(u.sessions) == 0 && !u.closed
	u.mu.Unlock()
	if p := u.run.table.Load().ports[u.port]; last && (p == nil || !p.needsPackets()) {
		u.run.p.update.Lock() // another update may want the port back
		u.run.unlisten(u.run.table.Load())
		u.run.p.update.Unlock()
	}
}

// list returns the sessions that are open now.
func (u *udpPort) list() []*udpSession {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]*udpSession, 0, len(u.sessions))
	for _, s := range u.sessions {
		list = append(list, s)
	}
	return list
}

func (u *udpPort) inUse() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sessions) > 0
}

// close ends all sessions.
func (u *udpPort) close() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	for _, s := range u.list() {
		s.stop()
	}
}

// admitSession counts a session of a client, or tells why there may be no more.
// Sessions do not count with connections: one datagram makes one, whoever it says
// to be from, and others' connections must not pay for that.
func (r *run) admitSession(client netip.Addr) *rejection {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := defaultTo(r.p.cfg.MaxUDPSessions, defaultUDPSessions)
	if limit := r.p.cfg.MaxConnections; limit > 0 {
		most = min(most, limit)
	}
	switch {
	case r.stopping:
		return &r.p.stats.stopping
	case r.sessions >= most:
		return &r.p.stats.tooMany
	case !r.countIP(r.udpPerIP, client):
		return &r.p.stats.tooManyPerIP
	}
	r.sessions++
	r.working.Add(1)
	return nil
}

// forgetSession counts it out.
func (r *run) forgetSession(client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions--
	r.discountIP(r.udpPerIP, client)
}
