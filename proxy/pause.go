package proxy

import (
	"context"
	"net"
	"slices"
	"time"
)

const (
	// lastRequest is how long a connection that has not been told that it ends may
	// go on at Stop after Pause. One that is in use ends with the response to a
	// request, as it says; to close it while the next request is on its way would
	// lose that.
	lastRequest = 5 * time.Second
	// lastStreams is how long Pause waits for requests over QUIC.
	lastStreams = 3 * time.Second
)

// Pause stops listening, so that another process can with the same sockets (see
// [WithSockets]), or this one later: Start goes on. Connections that have been
// accepted are served until Stop, and those of HTTP told to end with their next
// request. QUIC does not outlive its socket: requests over HTTP/3 have three
// seconds, or until ctx ends, and its clients connect anew. Sessions of UDP end.
//
// If ports are given, as routes name them, only these are paused, and nothing is
// told to connections.
func (p *Proxy) Pause(ctx context.Context, ports ...int) {
	p.update.Lock()
	defer p.update.Unlock()
	r := p.current()
	if r == nil {
		return
	}
	all := len(ports) == 0
	r.mu.Lock()
	already := r.paused
	r.paused = func(port int) bool { return all || slices.Contains(ports, port) || already != nil && already(port) }
	r.mu.Unlock()
	r.leaving.Store(r.leaving.Load() || all)

	var listeners []net.Listener
	r.mu.Lock()
	for port, ln := range r.listeners {
		if r.paused(port) {
			listeners = append(listeners, ln)
			delete(r.listeners, port)
		}
	}
	for port := range r.udp {
		if r.paused(port) {
			r.closePackets(port, r.packets[port])
		}
	}
	r.mu.Unlock()
	for _, ln := range listeners {
		ln.Close()
	}
	r.pauseQUIC(ctx)
}

// pauseQUIC ends HTTP/3 on the ports that are paused.
func (r *run) pauseQUIC(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastStreams)
	defer cancel()
	for port, q := range r.quicPorts() {
		if r.isPaused(port) {
			q.shut()
		}
	}
	for port, q := range r.quicPorts() {
		if r.isPaused(port) {
			await(ctx, func() bool { return !q.inUse() })
			r.closeQUIC(port, q)
		}
	}
}

// isPaused reports whether nothing is to listen on a port.
func (r *run) isPaused(port int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paused != nil && r.paused(port)
}

// resume ends a pause. The table is the one in force; on an error the pause goes
// on.
func (r *run) resume(ctx context.Context) error {
	r.mu.Lock()
	paused := r.paused
	r.paused = nil
	r.mu.Unlock()
	opened, err := r.bind(ctx, r.table.Load())
	if err != nil {
		r.mu.Lock()
		r.paused = paused
		r.mu.Unlock()
		return err
	}
	r.leaving.Store(false)
	r.listen(opened)
	return nil
}

// keep reports whether a connection of HTTP goes on after the response that is
// about to be sent.
func (r *run) keep(c *conn) bool {
	if !c.kept.Load() {
		c.kept.Store(true) // before the look at the pause: awaitLastRequests looks the other way round
	}
	if !r.leaving.Load() {
		return true
	}
	c.kept.Store(false)
	return false
}

// awaitLastRequests waits after a pause until no client expects its connection to
// take another request.
func (r *run) awaitLastRequests(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastRequest)
	defer cancel()
	await(ctx, func() bool {
		return !slices.ContainsFunc(r.open(), func(c *conn) bool { return c.kept.Load() })
	})
}

// await looks now and then until done reports true or ctx ends.
func await(ctx context.Context, done func() bool) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
