package proxy

import (
	"net/netip"
	"strings"
	"time"
)

// Event is something about a client that hints at an attack or abuse.
type Event struct {
	Time time.Time `json:"time"`
	// Reason is what [Stats.Refused] counts it as: "blocked", "rateLimited",
	// "badRequest", "badProxyHeader", "tooManyPerIp" or "tooManyResets". Of
	// "badRequest" those are told of that are malformed, not such as are too long or
	// break off.
	Reason string `json:"reason"`
	// ConnID is the connection's correlation id, as in the log.
	ConnID string `json:"connId,omitempty"`
	// Client is whom it comes from: of a request by way of one of
	// [Config.TrustedProxies] the address that this names. It is the zero Addr
	// where it is not known.
	Client netip.Addr `json:"client,omitzero"`
	// Port is the one that the client came to.
	Port int `json:"port"`
	// Route is the name of the route that refused, or "".
	Route string `json:"route,omitempty"`
	// Detail says more, in words.
	Detail string `json:"detail,omitempty"`
	// Proven is whether the client has shown that it is where it says. Anybody can
	// send a datagram in another's name.
	Proven bool `json:"proven"`
}

// WithObserver sets who is told of what hints at an attack or abuse. It is called
// from the goroutines of connections, several at once, at each such event, so it
// should return soon.
func WithObserver(tell func(Event)) Option {
	return func(o *options) { o.observe = tell }
}

// WithBlocked sets who knows the clients that are not served at all on a port. It
// is asked about each connection at once when it is accepted, about those of
// PROXY headers when these are read, about each new session of UDP, and about each
// HTTP request, so that it also holds on connections that are open; of requests by
// way of one of [Config.TrustedProxies] about the client that this names. Streams
// under way go on. It has to return at once. What is refused is counted as
// "blockedAddress".
func WithBlocked(blocked func(client netip.Addr, port int) bool) Option {
	return func(o *options) { o.blocked = blocked }
}

// isSuspect reports whether a refusal for this reason hints at abuse.
func (c *counters) isSuspect(reason *rejection) bool {
	switch reason {
	case &c.blocked, &c.rateLimited, &c.badRequest, &c.badProxyHeader, &c.tooManyPerIP, &c.resets:
		return true
	}
	return false
}

// isBlocked reports whether a client is not served, as far as its connection
// says who it is.
func (r *run) isBlocked(client netip.Addr, port int) bool {
	return r.p.opts.blocked != nil && !r.p.trusted.contains(client) && r.p.opts.blocked(client, port)
}

// isBlockedRequest is isBlocked for a request.
func (r *run) isBlockedRequest(c *conn, header fieldValues) bool {
	if r.p.opts.blocked == nil {
		return false
	}
	client := r.clientOf(c.client.Addr(), header)
	return client.IsValid() && r.p.opts.blocked(client, c.port)
}

// clientOf is whose doing something is: of a proxy that we trust, the client that
// it names, or nobody's. header may be nil.
func (r *run) clientOf(peer netip.Addr, header fieldValues) netip.Addr {
	if !r.p.trusted.contains(peer) {
		return peer
	}
	if header == nil {
		return netip.Addr{}
	}
	lists := header.Values("X-Forwarded-For")
	for i := len(lists) - 1; i >= 0; i-- {
		for list := lists[i]; list != ""; {
			rest, last := cutLast(list)
			client, err := netip.ParseAddr(strings.TrimSpace(last))
			if err != nil {
				return netip.Addr{}
			}
			client = client.Unmap().WithZone("")
			if !r.p.trusted.contains(client) {
				return client
			}
			list = rest
		}
	}
	return netip.Addr{} // the proxies speak for themselves
}

func cutLast(list string) (rest, last string) {
	i := strings.LastIndexByte(list, ',')
	return list[:max(i, 0)], list[i+1:]
}

// report tells of a refusal, if it hints at abuse and there is somebody to tell.
// header is that of a request, otherwise nil; rt may be nil.
func (r *run) report(c *conn, reason *rejection, header fieldValues, rt *route, detail string) {
	if r.p.opts.observe == nil || !r.p.stats.isSuspect(reason) {
		return
	}
	e := Event{Time: time.Now(), Reason: reason.name, ConnID: c.name(), Port: c.port, Detail: detail, Proven: true}
	if qc, ok := c.Conn.(*quicConn); ok && qc.quic.Load() == nil {
		e.Proven = false
	}
	if reason == &r.p.stats.badProxyHeader {
		e.Client = c.client.Addr() // the proxy's own doing
	} else {
		e.Client = r.clientOf(c.client.Addr(), header)
	}
	if rt != nil {
		e.Route = rt.Name
	}
	r.p.opts.observe(e)
}
