package dcrouter

import (
	"cmp"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// proxyEvent takes what hints at abuse of the proxy.
func (r *Router) proxyEvent(e proxy.Event) {
	if e.Proven && e.Reason != "badProxyHeader" { // which is the doing of a proxy in front
		calm := e.Reason != "badRequest" && e.Reason != "tooManyResets"
		r.punish(misdeed{by: CountProxy, addr: e.Client, connID: e.ConnID, reason: "proxy: " + e.Reason, calm: calm})
	}
	r.reportCalmly(opsapi.SecurityEvent{Time: e.Time, Kind: "proxy_" + snake(e.Reason), Component: "proxy", Address: e.Client,
		Subject: e.Route, Message: e.Detail, Correlation: e.ConnID})
}

// radiusEvent takes what hints at abuse of the RADIUS server. What clients do does
// not count: they are switches, whose secret or certificate may be outdated. Where
// there is no list of clients, who fails is a stranger.
func (r *Router) radiusEvent(e radius.Event) {
	if e.Proven && e.Client == "" {
		r.punish(misdeed{by: CountRADIUS, addr: e.Remote.Addr(), reason: "radius: " + e.Reason})
	}
	r.reportCalmly(opsapi.SecurityEvent{Time: e.Time, Kind: "radius_" + snake(e.Reason), Component: "radius", Address: e.Remote.Addr(),
		Subject: cmp.Or(e.User, e.Client), Message: e.Detail})
}

// opsEvent takes what the operations API has noticed itself, and has shown.
func (r *Router) opsEvent(e opsapi.SecurityEvent) {
	if e.Kind == "login_failed" || e.Kind == "login_locked" {
		r.punish(misdeed{by: CountOps, addr: e.Address, reason: "ops: " + e.Kind})
	}
}

// mailMisdeed counts what hints at abuse of the mail system.
func (r *Router) mailMisdeed(e email.Event) {
	m := misdeed{by: CountEmail, addr: e.Client, connID: e.ConnID, reason: "email: " + cmp.Or(e.Cause, e.Kind)}
	switch e.Cause {
	case "relay", "sender", "authentication", "scanner":
		return // others can have a server hand on such mail, and would have it blocked
	case "reputation":
		if r.blocking == nil || !r.blocking.reputation {
			return
		}
		m.enough = true
	case "connections":
		m.calm = true
	}
	r.punish(m)
}

// snake is "tooManyPerIp" as "too_many_per_ip".
func snake(name string) string {
	var b strings.Builder
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// reportCalmly shows an event, if it is the first of its kind from its address in
// a minute, and there were not too many of its kind: a flood must not push out
// everything else.
func (r *Router) reportCalmly(e opsapi.SecurityEvent) { r.reportCause(e, "") }

// reportCause is reportCalmly for a kind that has several causes, each of which is
// bounded for itself.
func (r *Router) reportCause(e opsapi.SecurityEvent, cause string) {
	if r.ops != nil && r.shown.first(e.Kind+" "+cause, e.Address, e.Time) {
		r.ops.ReportSecurity(e)
	}
}

// maxShown bounds the events of a kind in a minute.
const maxShown = 64

// shownEvents remembers the events of a minute.
type shownEvents struct {
	mu   sync.Mutex
	last map[string]map[netip.Addr]bool // by kind and cause
	from time.Time
}

func (s *shownEvents) first(kind string, addr netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := now.Sub(s.from); since >= time.Minute || since < 0 {
		s.from, s.last = now, map[string]map[netip.Addr]bool{}
	}
	shown := s.last[kind]
	if shown == nil {
		shown = map[netip.Addr]bool{}
		s.last[kind] = shown
	}
	if shown[addr] || len(shown) >= maxShown {
		return false
	}
	shown[addr] = true
	return true
}
