package proxy

import (
	"net/http"
	"strconv"
	"time"
)

// refusal is the answer to a request that no route takes.
type refusal struct {
	reason     *rejection
	status     int // 0: not refused
	text       string
	retryAfter int    // seconds, 0: not said
	last       bool   // the connection ends with it
	route      *route // that refuses, nil: there is none
}

// badRequest refuses what is ambiguous or malformed.
func badRequest(stats *counters, text string) refusal {
	return refusal{reason: &stats.badRequest, status: http.StatusBadRequest, text: text}
}

// write sends it through net/http.
func (no *refusal) write(w http.ResponseWriter) {
	no.reason.count.Add(1)
	if no.last {
		w.Header().Set("Connection", "close")
	}
	if no.retryAfter > 0 {
		w.Header().Set("Retry-After", no.after())
	}
	http.Error(w, no.message(), no.status)
}

func (no *refusal) after() string { return strconv.Itoa(no.retryAfter) }

func (no *refusal) message() string { return http.StatusText(no.status) + ": " + no.text }

// lookup finds the route of a request by the rules of its connection. It is
// the same for all front ends.
func (r *run) lookup(c *conn, q *query) (*table, *route, refusal) {
	stats := &r.p.stats
	routes := r.table.Load()
	p := routes.ports[c.port]
	if p == nil || !p.tcp {
		// The port has been removed. Keep-alive connections end with it.
		return nil, nil, refusal{reason: &stats.noRoute, status: http.StatusNotFound, text: "no route for this request", last: true}
	}
	if r.isBlockedRequest(c, q.header) {
		return nil, nil, refusal{reason: &stats.blockedAddress, status: http.StatusForbidden, text: "this address is blocked", last: true}
	}
	misdirected := refusal{reason: &stats.misdirected, status: http.StatusMisdirectedRequest, text: "this name needs a connection of its own"}
	if qc, ok := c.Conn.(*quicConn); ok && qc.moved() {
		// Limits and rules have been applied to another address.
		misdirected.text, misdirected.last = "a client that has moved needs another connection", true
		return nil, nil, misdirected
	}
	index := &p.plain
	if c.tls != nil {
		index = &p.terminated
		// What the client was asked for in the handshake holds for the name it
		// gave there. Under a name with other rules the request needs another
		// connection (RFC 9110 section 15.5.20).
		if q.host != c.serverName {
			named := query{client: q.client, host: q.host}
			if rt := p.hello.find(&named, anyTraffic); rt != nil && rt.policy != c.policy {
				return nil, nil, misdirected
			}
		}
	}
	rt := index.find(q, httpTraffic)
	if rt == nil {
		return nil, nil, refusal{reason: &stats.noRoute, status: http.StatusNotFound, text: "no route for this request"}
	}
	if c.tls != nil && rt.policy != c.policy {
		// An update has changed what the name asks of clients.
		return nil, nil, misdirected
	}
	return routes, rt, refusal{}
}

// letIn lets a request in, by the rules and limits of its route. If it does not
// refuse, the caller releases the route in the end.
func (r *run) letIn(rt *route, q *query) refusal {
	stats := &r.p.stats
	if !rt.permits(q.client) {
		rt.state.blocked.Add(1)
		return refusal{reason: &stats.blocked, route: rt, status: http.StatusForbidden, text: "not permitted from this address"}
	}
	if rt.limiter != nil {
		if wait := rt.limiter.take(q); wait > 0 {
			rt.state.blocked.Add(1)
			return refusal{reason: &stats.rateLimited, route: rt, status: http.StatusTooManyRequests, text: "over the rate that is allowed",
				retryAfter: int((wait + time.Second - 1) / time.Second)}
		}
	}
	if !rt.acquire() {
		rt.state.blocked.Add(1)
		return refusal{reason: &stats.routeFull, route: rt, status: http.StatusServiceUnavailable, text: "too many requests at once", retryAfter: 1}
	}
	stats.requests.Add(1)
	rt.state.requests.Add(1)
	return refusal{}
}

// decide is lookup and letIn in one.
func (r *run) decide(c *conn, q *query) (*table, *route, refusal) {
	routes, rt, no := r.lookup(c, q)
	if no.status == 0 {
		no = r.letIn(rt, q)
	}
	return routes, rt, no
}
