package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Stats is a snapshot of a Proxy's counters. They count from New on.
type Stats struct {
	// ActiveConnections are the client connections open now.
	ActiveConnections int `json:"activeConnections"`
	// UDPSessions are the sessions of UDP clients open now.
	UDPSessions int `json:"udpSessions"`
	// Connections is how many were accepted.
	Connections uint64 `json:"connections"`
	// Requests is how many HTTP requests a route took.
	Requests uint64 `json:"requests"`
	// Refused counts connections and requests that went nowhere, by reason.
	Refused map[string]uint64 `json:"refused"`
	// Routes are in the order of the configuration, enabled ones only.
	Routes []RouteStats `json:"routes"`
	// Targets are ordered by name.
	Targets []TargetStats `json:"targets"`
}

// RouteStats are the counters of one route.
type RouteStats struct {
	// Name is the route's, or where it has none its place, as in "routes[3]".
	Name string `json:"name"`
	// Active are streams and requests in flight.
	Active int64 `json:"active"`
	// Streams counts UDP sessions too.
	Streams  uint64 `json:"streams"`
	Requests uint64 `json:"requests"`
	// Responses counts by status class, from 1xx at index 1 to 5xx at index 5;
	// index 0 has requests that got no response.
	Responses [6]uint64 `json:"responses"`
	// BytesIn and BytesOut are contents received from and sent to clients.
	BytesIn  uint64 `json:"bytesIn"`
	BytesOut uint64 `json:"bytesOut"`
	// Blocked is what Security refused.
	Blocked uint64 `json:"blocked"`
	// Queued are the streams and requests that wait for a target now.
	Queued int64 `json:"queued"`
	// Retries is how often another target was tried, RetriesRefused how often
	// the budget for that was used up.
	Retries        uint64 `json:"retries"`
	RetriesRefused uint64 `json:"retriesRefused"`
}

// TargetStats are the counters of one target.
type TargetStats struct {
	// Name is host:port, and for UDP host:port/udp.
	Name string `json:"name"`
	// Healthy is false if a health check fails, the target is ejected or could
	// just now not be reached.
	Healthy bool `json:"healthy"`
	// Circuit is the state of its circuit breaker: [CircuitClosed],
	// [CircuitOpen] or [CircuitHalfOpen]; of several the worst. It is "" where
	// there is none.
	Circuit string `json:"circuit,omitempty"`
	// Ejections is how often a circuit breaker has ejected the target.
	Ejections uint64 `json:"ejections"`
	// Active are streams and requests in flight.
	Active int64 `json:"active"`
	// Total is how many were sent to it, Failures how many of them could not
	// be, or got no answer.
	Total    uint64 `json:"total"`
	Failures uint64 `json:"failures"`
	// LastError is the last failure, also after recovery.
	LastError string `json:"lastError,omitempty"`
}

// Values of [TargetStats.Circuit].
const (
	CircuitClosed   = "closed"
	CircuitHalfOpen = "half-open" // one request tries whether the target is well again
	CircuitOpen     = "open"      // the target is ejected
)

// counters are those of the Proxy as a whole.
type counters struct {
	connections atomic.Uint64
	requests    atomic.Uint64

	silent, badProxyHeader, badTLS, badRequest, unknownName, noRoute, blocked, blockedAddress,
	misdirected, rateLimited, routeFull, unreachable, targetsBusy, noFolder, tooMany, tooManyPerIP, stopping, badHTTP2, resets rejection
}

// rejection counts one reason to refuse.
type rejection struct {
	name  string
	count atomic.Uint64
	logLimit
}

// all lists the reasons under their public names.
func (c *counters) all() []*rejection {
	return []*rejection{&c.silent, &c.badProxyHeader, &c.badTLS, &c.badRequest, &c.unknownName, &c.noRoute, &c.blocked, &c.blockedAddress,
		&c.misdirected, &c.rateLimited, &c.routeFull, &c.unreachable, &c.targetsBusy, &c.noFolder, &c.tooMany, &c.tooManyPerIP, &c.stopping, &c.badHTTP2, &c.resets}
}

func (c *counters) init() {
	for i, name := range []string{"silent", "badProxyHeader", "badTls", "badRequest", "unknownName", "noRoute", "blocked", "blockedAddress",
		"misdirected", "rateLimited", "routeFull", "unreachable", "targetsBusy", "noFolder", "tooManyConnections", "tooManyPerIp", "stopping", "badHttp2", "tooManyResets"} {
		c.all()[i].name = name
	}
}

// logLimit bounds what strangers can have written to the log for one reason.
type logLimit struct {
	second  atomic.Int64 // the second that logged counts in
	logged  atomic.Int64
	skipped atomic.Uint64
}

const logsPerSecond = 10

// mayLog reports whether another line may be written now, and how many have
// been left out since the last one.
func (l *logLimit) mayLog(now time.Time) (skipped uint64, ok bool) {
	return l.allow(now, logsPerSecond)
}

// allow is mayLog with another limit.
func (l *logLimit) allow(now time.Time, perSecond int64) (skipped uint64, ok bool) {
	if second := now.Unix(); l.second.Swap(second) != second {
		l.logged.Store(0)
	}
	if l.logged.Add(1) > perSecond {
		l.skipped.Add(1)
		return 0, false
	}
	return l.skipped.Swap(0), true
}

// netLog takes what net/http has to say about connections.
type netLog struct {
	log   *slog.Logger
	limit logLimit
}

// newNetLog returns a logger for net/http that writes to log, at debug level
// and not without limit.
func newNetLog(to *slog.Logger) *log.Logger { return log.New(&netLog{log: to}, "", 0) }

// Write logs one message.
func (n *netLog) Write(b []byte) (int, error) {
	if n.log.Enabled(context.Background(), slog.LevelDebug) {
		if skipped, ok := n.limit.mayLog(time.Now()); ok {
			n.log.Debug(strings.TrimSpace(string(b)), "not_logged", skipped)
		}
	}
	return len(b), nil
}

// unreachable reports that no target took a stream or request. Each client of a
// dead service causes one of these, so not all are logged.
func (r *run) unreachable(c *conn, rt *route, err error) { r.noTarget(c.name(), c.client, rt, err) }

func (r *run) noTarget(id string, client netip.AddrPort, rt *route, err error) {
	reason := &r.p.stats.unreachable
	if errors.Is(err, errBusy) {
		reason = &r.p.stats.targetsBusy
	}
	reason.count.Add(1)
	if skipped, ok := reason.mayLog(time.Now()); ok {
		r.log.Warn("no target answered", "route", rt.Name, "conn_id", id, "remote", client, "err", err, "not_logged", skipped)
	}
}

// Stats returns a snapshot of the counters.
func (p *Proxy) Stats() Stats {
	s := Stats{
		Connections: p.stats.connections.Load(),
		Requests:    p.stats.requests.Load(),
		Refused:     make(map[string]uint64),
	}
	for _, r := range p.stats.all() {
		s.Refused[r.name] = r.count.Load()
	}
	r := p.current()
	if r == nil {
		return s
	}
	r.mu.Lock()
	s.ActiveConnections, s.UDPSessions = len(r.conns), r.sessions
	r.mu.Unlock()

	now := time.Now()
	targets := make(map[*target]TargetStats)
	for _, rt := range r.table.Load().routes {
		s.Routes = append(s.Routes, rt.stats())
		if rt.balancer == nil {
			continue
		}
		for i := range rt.balancer.entries {
			e := &rt.balancer.entries[i]
			t, seen := targets[e.target]
			if !seen {
				t = e.target.stats(now)
			}
			t.Healthy = t.Healthy && e.healthy()
			if e.circuit != nil {
				state := e.circuit.state(now)
				t.Circuit = max(t.Circuit, state) // the worse the later in the alphabet
				t.Healthy = t.Healthy && state == CircuitClosed
			}
			targets[e.target] = t
		}
	}
	for _, t := range targets {
		s.Targets = append(s.Targets, t)
	}
	slices.SortStableFunc(s.Targets, func(a, b TargetStats) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

func (r *route) stats() RouteStats {
	s := RouteStats{
		Name:     cmp.Or(r.Name, fmt.Sprintf("routes[%d]", r.index)),
		Active:   r.state.active.Load(),
		Streams:  r.state.streams.Load(),
		Requests: r.state.requests.Load(),
		BytesIn:  r.state.bytesIn.Load(),
		BytesOut: r.state.bytesOut.Load(),
		Blocked:  r.state.blocked.Load(),
		Queued:   r.state.queue.all.Load(),

		Retries:        r.state.retries.made.Load(),
		RetriesRefused: r.state.retries.refused.Load(),
	}
	for i := range s.Responses {
		s.Responses[i] = r.state.responses[i].Load()
	}
	return s
}

func (t *target) stats(now time.Time) TargetStats {
	s := TargetStats{
		Name:     t.name,
		Healthy:  now.UnixNano() >= t.pause.until.Load(),
		Active:   t.active.Load(),
		Total:    t.total.Load(),
		Failures: t.failures.Load(),

		Ejections: t.ejections.Load(),
	}
	if text := t.lastError.Load(); text != nil {
		s.LastError = *text
	}
	return s
}
