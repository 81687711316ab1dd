package proxy

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/dcrouter/dcrouter/internal/netconn"
)

// stream serves a connection whose bytes are not looked into. client is what
// to read from and write to: the connection itself or the TLS on top of it.
// head has been read from it already. routes is the table that rt is from. It
// returns when the stream has ended or is on its way.
func (r *run) stream(c *conn, client net.Conn, head []byte, routes *table, rt *route) {
	client.SetDeadline(time.Time{})
	rec := accessRecord{conn: c, route: rt, began: r.p.access.now()}
	relayed := false // the relay will write the record
	defer func() {
		if !relayed {
			r.p.access.write(&rec)
		}
	}()
	if !rt.permits(c.client.Addr()) {
		rt.state.blocked.Add(1)
		rec.refused = &r.p.stats.blocked
		r.reject(c, &r.p.stats.blocked, fmt.Errorf("route %q does not permit this address", rt.Name))
		return
	}
	if !rt.acquire() {
		rt.state.blocked.Add(1)
		rec.refused = &r.p.stats.routeFull
		r.reject(c, &r.p.stats.routeFull, fmt.Errorf("route %q has its maximum of connections", rt.Name))
		return
	}
	rt.state.streams.Add(1)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	s := c.begin(rt, cancel)
	r.checkDrain(routes.version)
	end := func() {
		c.end(s)
		rt.release()
		c.Close()
	}
	defer func() {
		if !relayed {
			end()
		}
	}()

	info := c.info(rt)
	if h := rt.Action.SocketHandler; h != nil {
		if len(head) > 0 {
			client = &netconn.Unread{Conn: client, Head: head}
		}
		defer client.Close()
		// A cancelled context must end reads and writes too.
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		r.serveSocket(ctx, h, client, info)
		return
	}

	e, upstream, err := r.dialStream(ctx, rt, &info)
	if err != nil {
		rec.problem = err
		if ctx.Err() == nil {
			r.unreachable(c, rt, err)
		}
		return
	}
	relayed = true
	began := rec.began
	r.working.Add(1)
	both := r.newRelay(client, upstream, s, rt.state)
	both.ended = func() {
		defer r.working.Done()
		upstream.Close()
		e.release()
		if r.p.access != nil {
			r.p.access.write(&accessRecord{conn: c, route: rt, target: e.target, began: began, in: both.counts[0].own.Load(), out: both.counts[1].own.Load()})
		}
		end()
	}
	s.target.Store(e.target)
	c.watch(s, both.cut, both.doze)
	r.checkDrain(routes.version)
	if ctx.Err() != nil {
		both.cut() // in case this has been missed in between
	}
	both.start(head)
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
		upstream, err := e.target.dialStream(ctx, port, info.ServerName, e.target.proxyHeader(info.Client, info.Local), r.times.Connect)
		if err == nil {
			e.report(connected, nil)
			return e, upstream, nil
		}
		if ctx.Err() != nil {
			e.done(givenUp, nil)
			return nil, nil, ctx.Err()
		}
		outcome := rt.unreached(err)
		if rt.provoked(e, err) {
			outcome = provoked
		}
		e.done(outcome, err)
		if !rt.balancer.mayRetry(&ch, e, outcome) {
			return nil, nil, err
		}
		problem = err
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
		case *netconn.Unread:
			c = inner.Conn
		default:
			c.Close()
			return
		}
	}
}
