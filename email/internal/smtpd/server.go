package smtpd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// ErrClosed is returned by Serve after Shutdown or Close.
var ErrClosed = errors.New("smtpd: the server is closed")

// Server serves any number of listeners and single connections.
type Server struct {
	cfg     Config
	backend Backend
	log     *slog.Logger
	buffers sync.Pool // of *[]byte, for bodies
	machine *smtp.Server
	stages  chan *stage // connections on their way to the machine
	done    chan struct{}
	serving sync.WaitGroup // the machine
	finish  func() error   // ends what had served the connections, once

	mu        sync.Mutex
	started   bool // the machine
	stopping  bool
	listeners map[net.Listener]struct{}
	guards    map[*guard]struct{}
	perIP     ipCounts
	idle      chan struct{} // closed once stopping and without connections
	looker    *time.Timer   // see lookAround
	looking   bool          // looker is set
}

// New makes a server. It does no I/O; errors are about cfg.
func New(cfg Config, backend Backend, log *slog.Logger) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("smtpd: %w", err)
	}
	s := &Server{
		cfg: cfg, backend: backend, log: log,
		stages: make(chan *stage), done: make(chan struct{}), idle: make(chan struct{}),
		listeners: map[net.Listener]struct{}{}, guards: map[*guard]struct{}{}, perIP: ipCounts{},
	}
	s.buffers.New = func() any { b := make([]byte, bodyBuffer); return &b }
	s.machine = newMachine(s)
	s.finish = sync.OnceValue(s.stopServing)
	return s, nil
}

// Serve accepts connections from l until l is closed, ctx ends, or the server
// is shut down. It closes l. The error is ErrClosed after Shutdown and Close,
// ctx's, or what l had. The end of ctx also ends its connections, at once; only
// Shutdown lets them finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, mode Mode) error {
	defer l.Close()
	if mode.ImplicitTLS && s.cfg.TLS == nil {
		return errors.New("smtpd: implicit TLS needs Config.TLS")
	}
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, func() { l.Close() })()

	a := &acceptor{ctx: ctx, s: s, l: l, mode: mode}
	_ = s.machine.Serve(a)
	return a.err
}

// ServeConn serves one connection and returns when it is over. It closes conn.
// The end of ctx ends it at once. The client's address is conn's RemoteAddr. If
// conn has a method ConnectionState, as one of crypto/tls has, its TLS is known.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, mode Mode) {
	conn.SetDeadline(time.Time{}) // what it has is not known to a deadline
	if g := s.admit(ctx, conn, mode); g != nil {
		s.hand(g.stage)
		<-g.over
	}
}

// admit counts a connection, or refuses it and returns nil.
func (s *Server) admit(ctx context.Context, conn net.Conn, mode Mode) *guard {
	g := newGuard(ctx, s, conn, mode)
	ip := clientIP(conn.RemoteAddr())
	var refusal *Reply
	why := TooManyConnections
	s.mu.Lock()
	switch {
	case s.stopping:
		refusal = newReply(421, 4, 3, 2, s.cfg.Hostname+" is shutting down")
	case s.cfg.MaxConnections > 0 && len(s.guards) >= s.cfg.MaxConnections:
		refusal, why = newReply(421, 4, 3, 2, s.cfg.Hostname+" has too many connections, try again later"), ServerFull
	case s.cfg.MaxConnectionsPerIP > 0 && s.perIP[ip] >= s.cfg.MaxConnectionsPerIP:
		refusal = newReply(421, 4, 7, 0, s.cfg.Hostname+" has too many connections from you, try again later")
	default:
		s.guards[g] = struct{}{}
		s.perIP.add(ip)
		s.keepLooking()
		if !s.started {
			s.started = true
			s.serving.Go(func() { _ = s.machine.Serve(stageListener{s}) })
		}
	}
	stopping := s.stopping
	s.mu.Unlock()
	if refusal == nil {
		return g
	}
	if !stopping {
		g.event(why, nil)
	}
	g.refuse(refusal)
	return nil
}

// hand gives a connection to a machine of its own.
func (s *Server) hand(st *stage) {
	select {
	case s.stages <- st:
	case <-s.done:
		st.Close()
	}
}

// release is admit's opposite, at the end of a connection.
func (s *Server) release(g *guard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.guards, g)
	s.perIP.remove(clientIP(g.conn.remote))
	s.checkIdle()
}

func (s *Server) checkIdle() {
	if s.stopping && len(s.guards) == 0 {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Shutdown closes the listeners and ends all connections: with 421 those that
// wait for a command, the others as soon as they do, which lets a body come to
// its end and be answered. When ctx ends it does as Close does and returns
// ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	guards := s.stop()
	for _, g := range guards {
		g.interrupt()
	}
	select {
	case <-s.idle:
		return s.finish()
	case <-ctx.Done():
		if err := s.Close(); err != nil {
			return err
		}
		return ctx.Err()
	}
}

// Close closes listeners and connections at once, ends the contexts of all
// sessions and waits until they have returned.
func (s *Server) Close() error {
	for _, g := range s.stop() {
		g.cancel(ErrClosed)
	}
	<-s.idle
	return s.finish()
}

// stop lets no more connections in and lists those that are there.
func (s *Server) stop() []*guard {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		l.Close()
	}
	list := make([]*guard, 0, len(s.guards))
	for g := range s.guards {
		list = append(list, g)
	}
	s.checkIdle()
	return list
}

// stopServing is for finish: go-smtp does not bear two calls of Shutdown at once.
func (s *Server) stopServing() error {
	s.mu.Lock()
	close(s.done)
	if s.looker != nil {
		s.looker.Stop()
	}
	s.mu.Unlock()
	s.serving.Wait()
	return s.machine.Shutdown(context.Background()) // none of its connections is left
}
