package dcrouter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/sockets"
)

// ErrNotRunning is returned by Handover when the Router does not run.
var ErrNotRunning = errors.New("dcrouter: not running")

// WithListener gives the Router a listener for an address, which is not bound
// then. addr is written as host and port of the section that listens on it:
// "127.0.0.1:443", or ":443" where that names no host. It may also be the
// address that ln is bound to. Start fails if nothing listens there. The Router
// closes ln.
func WithListener(addr string, ln net.Listener) Option {
	return func(o *options) {
		o.sockets = append(o.sockets, func(s *sockets.Set) error {
			if ln == nil {
				return fmt.Errorf("dcrouter: the listener for %s is nil", addr)
			}
			s.AddListener(addr, ln)
			return nil
		})
	}
}

// WithPacketConn does for datagrams what [WithListener] does for connections.
// Given several times for the DNS server's address, it uses all of them.
func WithPacketConn(addr string, pc net.PacketConn) Option {
	return func(o *options) {
		o.sockets = append(o.sockets, func(s *sockets.Set) error {
			if pc == nil {
				return fmt.Errorf("dcrouter: the packet connection for %s is nil", addr)
			}
			s.AddPacketConn(addr, pc)
			return nil
		})
	}
}

// WithSockets gives the Router sockets of another process, as [Router.Sockets]
// lists them there. Start closes those that nothing listens on any more. The
// Router closes their files, also if New fails.
func WithSockets(list ...sockets.Socket) Option {
	return func(o *options) {
		o.succeeds = o.succeeds || len(list) > 0
		o.sockets = append(o.sockets, func(s *sockets.Set) error { return s.Add(list...) })
	}
}

// Sockets returns all that the Router listens with, to start another process
// with. The caller closes the files, which are copies.
func (r *Router) Sockets() ([]sockets.Socket, error) { return r.sockets.List() }

// Handover leaves everything to another process that has the Router's sockets,
// but for the connections of the proxy. It stops all else and closes the
// storage. Nothing is refused: connections and datagrams that come now wait in
// the system for whoever takes them. When it returns, the other process may
// start.
//
// If that serves, call Stop, which waits for the proxy's connections as ever.
// If it does not, call Start: the Router goes on with the same sockets.
//
// What is under way is answered until ctx ends, and cut off then. Mail sessions
// end with 421 after the message that is being sent. An error says why nothing
// has changed; what could not be brought to an end in order is logged.
func (r *Router) Handover(ctx context.Context) error {
	ctx, u, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer r.finish(u)
	r.mu.Lock()
	run := r.run
	running := run != nil && run.hurry == nil && !run.handedOver
	r.mu.Unlock()
	if !running {
		return ErrNotRunning
	}
	if err := r.sockets.Hold(); err != nil {
		r.sockets.Release()
		return fmt.Errorf("dcrouter: the sockets cannot be handed over: %w", err)
	}
	r.mu.Lock()
	run.handedOver = true
	r.mu.Unlock()

	if r.email != nil && r.config.Email.UseSocketHandler {
		r.proxy.Pause(ctx, r.mailPorts()...)
	}
	list := slices.DeleteFunc(r.components(), func(c component) bool { return c.name == "proxy" })
	slices.Reverse(list)
	var before error
	stopAll := func(slow bool) {
		for _, c := range list {
			if c.slow != slow {
				continue
			}
			if err := patiently(ctx, before, func() error { return c.stop(ctx) }); err != nil {
				before = errors.Join(before, err)
				r.log.Warn("a part did not come to its end in order", "component", c.name, "err", err)
			}
		}
	}
	stopAll(true)
	r.proxy.Pause(ctx)
	stopAll(false)
	if err := patiently(ctx, before, run.store.Close); err != nil {
		r.log.Error("the storage could not be closed in order", "err", err)
	}
	close(run.stopped)
	return nil
}

// mailPorts are those of the proxy that are for the mail system.
func (r *Router) mailPorts() (ports []int) {
	for _, p := range r.config.Email.Ports {
		ports = append(ports, p.Port)
	}
	return ports
}

// takeSockets goes through what was given when all that listens has started.
func (r *Router) takeSockets() error {
	if names := r.sockets.Unwanted(); len(names) > 0 {
		return fmt.Errorf("dcrouter: nothing in the configuration listens on %s, for which a socket was given", strings.Join(names, ", "))
	}
	if closed := r.sockets.Release(); len(closed) > 0 {
		r.log.Info("sockets of the other process are not needed any more, and closed", "addrs", closed)
	}
	return nil
}
