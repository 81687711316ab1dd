package smtpd

import (
	"context"
	"errors"
	"net"
	"time"
)

// acceptor gives the machine the connections of a listener.
type acceptor struct {
	ctx  context.Context
	s    *Server
	l    net.Listener
	mode Mode
	err  error // why there are no more
}

// Accept is called by go-smtp, which begins a goroutine for what it returns.
func (a *acceptor) Accept() (net.Conn, error) {
	pause := time.Duration(0)
	for {
		conn, err := a.l.Accept()
		if err == nil {
			pause = 0
			if g := a.s.admit(a.ctx, conn, a.mode); g != nil {
				return g.stage, nil
			}
			continue
		}
		switch {
		case a.ctx.Err() != nil:
			a.err = a.ctx.Err()
		case a.s.isStopping():
			a.err = ErrClosed
		case errors.Is(err, net.ErrClosed):
			a.err = err
		}
		if a.err != nil {
			return nil, net.ErrClosed // others might be temporary to go-smtp
		}
		// Out of file descriptors, most likely: others will be freed.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		a.s.log.Warn("accepting an SMTP connection failed", "error", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-a.ctx.Done():
		case <-a.s.done:
		}
	}
}

func (a *acceptor) Close() error   { return nil } // Serve does
func (a *acceptor) Addr() net.Addr { return a.l.Addr() }

// stageListener gives the machine the connections that come one by one, and
// those that go on after STARTTLS.
type stageListener struct{ s *Server }

func (l stageListener) Accept() (net.Conn, error) {
	select {
	case st := <-l.s.stages:
		return st, nil
	case <-l.s.done:
		return nil, net.ErrClosed
	}
}

func (l stageListener) Close() error   { return nil }
func (l stageListener) Addr() net.Addr { return &net.TCPAddr{} }
