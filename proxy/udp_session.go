package proxy

import (
	"bytes"
	"errors"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What may wait for the connection to a target: its name has to be resolved.
const (
	maxWaiting      = 16      // datagrams of one session
	maxWaitingBytes = 4 << 20 // in all
)

// udpSession ties a client to a target: a socket of its own, so that answers
// find back, and whatever else is sent there does not. Its goroutine carries
// the answers.
type udpSession struct {
	session
	port  *udpPort
	peer  peer
	info  ConnInfo
	reply func([]byte) error
	last  atomic.Int64 // when a datagram passed, Unix nanoseconds

	mu       sync.Mutex
	ended    bool
	upstream *udpConn // nil until it is there
	waiting  [][]byte // for it
}

// serve connects to a target and carries what that sends to the client, until
// nothing has passed in either direction for a while. routes is the table that
// the session's route is from.
func (s *udpSession) serve(routes *table) {
	r := s.port.run
	defer r.working.Done()
	defer s.finish()
	defer func() {
		// Code of the host may run in here: port functions.
		if v := recover(); v != nil {
			r.log.Error("panic while serving a UDP session", "conn_id", s.info.ID, "remote", s.info.Client, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	e, conn, err := r.dialStream(r.ctx, s.route, &s.info)
	if err != nil {
		if r.ctx.Err() == nil {
			r.noTarget(s.info.ID, s.info.Client, s.route, err)
		}
		return
	}
	defer e.release()
	defer conn.Close()
	upstream, err := newUDPConn(conn.(*net.UDPConn), &r.datagrams, 0)
	if err != nil {
		return
	}
	upstream.SetReadBuffer(datagramBurst)
	s.target.Store(e.target)
	r.checkDrain(routes.version)
	if s.begin(upstream) && s.extend() {
		s.answer(e.target, upstream)
	}
}

// begin sends what has been waiting for the target. It reports whether the
// session goes on.
func (s *udpSession) begin(upstream *udpConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.dropWaiting()
	if s.ended {
		return false
	}
	s.upstream = upstream
	for _, b := range waiting {
		if !s.forward(b) {
			return false
		}
	}
	return true
}

// answer carries datagrams from the target to the client.
func (s *udpSession) answer(t *target, upstream *udpConn) {
	answered := false
	for failures := 0; failures < 10; {
		d, _, err := upstream.receive()
		switch {
		case err == nil:
			if failures = 0; !answered {
				answered = true
				t.reached()
			}
			s.last.Store(time.Now().UnixNano())
			if s.reply(d.data) == nil {
				s.route.state.bytesOut.Add(uint64(len(d.data)))
			}
			d.release()
		case errors.Is(err, net.ErrClosed):
			return
		case isTimeout(err):
			if !s.extend() {
				return
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			t.failed(err)
			return
		default:
			failures++ // ICMP about one datagram, which was too large for example
		}
	}
}

// extend sets when to look again whether the session is idle, or ends it
// because it is.
func (s *udpSession) extend() bool {
	idle := s.port.run.times.UDPIdle
	if idle <= 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	until := time.Unix(0, s.last.Load()).Add(idle)
	if time.Until(until) <= 0 {
		s.stopLocked()
		return false
	}
	return s.upstream.SetReadDeadline(until) == nil
}

// send forwards a datagram of the client. It reports false if the session has
// ended, or does so now.
func (s *udpSession) send(b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.last.Store(time.Now().UnixNano())
	if s.upstream != nil {
		return s.forward(b)
	}
	if len(s.waiting) < maxWaiting && s.port.run.waiting.Load()+int64(len(b)) <= maxWaitingBytes {
		s.port.run.waiting.Add(int64(len(b)))
		s.waiting = append(s.waiting, bytes.Clone(b))
	}
	return true
}

// forward sends a datagram to the target. s.mu is held.
func (s *udpSession) forward(b []byte) bool {
	err := s.upstream.send(b)
	switch {
	case err == nil:
		s.route.state.bytesIn.Add(uint64(len(b)))
	case errors.Is(err, syscall.ECONNREFUSED):
		// This is about an earlier datagram, and b has not been sent.
		s.target.Load().failed(err)
		s.stopLocked()
		return false
	}
	// What else fails is lost, as datagrams are: there was no room for it in
	// the socket, or it is too large for the network.
	return true
}

// stop ends the session; serve does the rest.
func (s *udpSession) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopLocked()
}

func (s *udpSession) stopLocked() {
	s.ended = true
	s.dropWaiting()
	if s.upstream != nil {
		s.upstream.Close()
	}
}

// dropWaiting forgets what waits for the target.
func (s *udpSession) dropWaiting() {
	for _, b := range s.waiting {
		s.port.run.waiting.Add(-int64(len(b)))
	}
	s.waiting = nil
}

// finish takes the session off all books.
func (s *udpSession) finish() {
	s.stop()
	s.route.release()
	s.port.run.forgetSession(s.info.Client.Addr())
	s.port.forget(s)
}
