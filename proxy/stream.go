package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// stream serves a connection whose bytes are not looked into. client is what
// to read from and write to: the connection itself or the TLS on top of it.
// head has been read from it already. routes is the table that rt is from.
func (r *run) stream(c *conn, client net.Conn, head []byte, routes *table, rt *route) {
	defer c.Close()
	client.SetDeadline(time.Time{})
	if !rt.permits(c.client.Addr()) {
		rt.state.blocked.Add(1)
		r.reject(c, &r.p.stats.blocked, fmt.Errorf("route %q does not permit this address", rt.Name))
		return
	}
	if !rt.acquire() {
		rt.state.blocked.Add(1)
		r.reject(c, &r.p.stats.routeFull, fmt.Errorf("route %q has its maximum of connections", rt.Name))
		return
	}
	defer rt.release()
	rt.state.streams.Add(1)

	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	// A cancelled context must end reads and writes too.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s := c.begin(rt, cancel)
	r.checkDrain(routes)
	defer c.end(s)

	info := c.info(rt)
	if h := rt.Action.SocketHandler; h != nil {
		if len(head) > 0 {
			client = &headConn{Conn: client, head: head}
		}
		defer client.Close()
		r.serveSocket(ctx, h, client, info)
		return
	}

	e, upstream, err := r.dialStream(ctx, rt, &info)
	if err != nil {
		if ctx.Err() == nil {
			r.unreachable(c, rt, err)
		}
		return
	}
	defer e.release()
	defer upstream.Close()
	stopUpstream := context.AfterFunc(ctx, func() { upstream.Close() })
	defer stopUpstream()
	s.target.Store(e.target)
	r.checkDrain(routes)

	if len(head) > 0 {
		client = &headConn{Conn: client, head: head}
	}
	relay(client, upstream, r.times.Idle, &rt.state.bytesIn, &rt.state.bytesOut, &r.p.buffers)
}

// serveSocket runs code of the host; its panic ends the connection, not the
// process.
func (r *run) serveSocket(ctx context.Context, h SocketHandler, c net.Conn, info ConnInfo) {
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("socket handler panicked", "route", info.Route, "conn_id", info.ID, "remote", info.Client, "panic", v)
		}
	}()
	h.ServeConn(ctx, c, info)
}

// dialStream connects to a target of the route, trying others when one cannot
// be reached. The stream has a place at the one it returns.
func (r *run) dialStream(ctx context.Context, rt *route, info *ConnInfo) (*entry, net.Conn, error) {
	ch := choice{client: info.Client.Addr()}
	var problem error
	for {
		e, err := rt.balancer.next(ctx, &ch)
		if err != nil {
			if problem != nil && ctx.Err() == nil {
				err = problem
			}
			return nil, nil, err
		}
		port, err := e.port(info)
		if err != nil {
			return nil, nil, err
		}
		upstream, err := e.target.dialStream(ctx, port, info.ServerName, r.times.Connect)
		if err == nil {
			e.report(connected, nil)
			return e, upstream, nil
		}
		if ctx.Err() != nil {
			e.done(givenUp, nil)
			return nil, nil, ctx.Err()
		}
		e.done(unreachable, err)
		if !rt.balancer.mayRetry(&ch, e, unreachable) {
			return nil, nil, err
		}
		problem = err
	}
}

// headConn gives back first what was read ahead.
type headConn struct {
	net.Conn
	head []byte
}

func (c *headConn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite passes the end of one direction on.
func (c *headConn) CloseWrite() error { return closeWrite(c.Conn) }

// relay copies both ways until both have ended. When one side ends its
// direction, that end is passed on and the other direction goes on. Where a
// connection breaks, both are reset, so that nobody takes a broken transfer for
// a complete one. in and out count bytes from and to the client.
func relay(client, upstream net.Conn, idle time.Duration, in, out *atomic.Uint64, buffers *sync.Pool) {
	timer := newIdleTimer(idle, func() {
		client.Close()
		upstream.Close()
	})
	defer timer.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(upstream, client, timer, in, buffers)
	}()
	copyHalf(client, upstream, timer, out, buffers)
	<-done
}

// copyHalf copies one direction and passes on how it ended.
func copyHalf(dst, src net.Conn, timer *idleTimer, count *atomic.Uint64, buffers *sync.Pool) {
	if copyStream(dst, src, timer, count, buffers) == nil && closeWrite(dst) == nil {
		return
	}
	reset(dst)
	reset(src)
}

// copyStream copies until src ends, which is no error.
func copyStream(dst io.Writer, src io.Reader, timer *idleTimer, count *atomic.Uint64, buffers *sync.Pool) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			timer.moved()
			count.Add(uint64(n))
			if _, err := dst.Write((*buf)[:n]); err != nil {
				return err
			}
			timer.moved()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reset closes a connection so that the other side takes it for broken: TCP
// with a reset, and TLS without the alert that would say that all is well.
func reset(c net.Conn) {
	for {
		switch inner := c.(type) {
		case interface{ SetLinger(int) error }:
			inner.SetLinger(0)
			c.Close()
			return
		case interface{ NetConn() net.Conn }:
			c = inner.NetConn()
		case *conn:
			c = inner.Conn
		case *headConn:
			c = inner.Conn
		default:
			c.Close()
			return
		}
	}
}
