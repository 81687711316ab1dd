package dcrouter

import (
	"cmp"
	"fmt"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// Values of [Limit.From].
const (
	FromSection = "section" // the field itself
	FromLimits  = "limits"  // Config.Limits
	FromDefault = "default"
)

// Limit is a limit in force.
type Limit struct {
	// Name is the path of its field in the configuration, as
	// "smartProxyConfig.maxConnections".
	Name string `json:"name"`
	// Value is the limit, in Unit; 0 means that there is none.
	Value int64 `json:"value"`
	// Unit is what Value counts: "ms", "bytes", "connections", ...
	Unit string `json:"unit"`
	// From says where Value comes from: [FromSection], [FromLimits] or
	// [FromDefault].
	From string `json:"from"`
	// Used is how much of Value is taken now. Nil means that it is not counted.
	Used *int64 `json:"used,omitempty"`
	// Reached is how often the limit has refused something since New. Nil means that
	// it is not counted, or only together with others.
	Reached *uint64 `json:"reached,omitempty"`
}

// Limits lists the limits in force of the subsystems that are configured. Their
// defaults, and those that are not in the configuration, are in docs/limits.md.
func (r *Router) Limits() []Limit { return r.limitsOf(r.Stats()) }

func (r *Router) limitsOf(s Stats) []Limit {
	var l limitList
	given, is := &r.config, &r.limited
	var gp proxy.Config
	if given.Proxy != nil {
		gp = *given.Proxy
	}
	l.proxy(&gp, is.Proxy, r.Routes(), &s.Proxy)
	if s.Email != nil {
		l.email(given.Email, is.Email, s.Email)
	}
	if s.DNS != nil {
		var gd dnsserver.Config
		if given.DNS != nil {
			gd = *given.DNS
		}
		l.dns(&gd, is.DNS, s.DNS)
	}
	if s.RADIUS != nil {
		l.radius(given.RADIUS, is.RADIUS, s.RADIUS)
	}
	return l
}

// limitList is made limit by limit.
type limitList []Limit

// add adds a limit of a section: what is given there, what holds with
// Config.Limits, and the default. Less than 0 means none where 0 means the
// default. It returns the limit to say more about it.
func (l *limitList) add(name, unit string, given, holds, standard int64) *Limit {
	one := Limit{Name: name, Unit: unit, Value: max(0, holds), From: FromSection}
	switch {
	case holds == 0:
		one.Value, one.From = standard, FromDefault
	case given == 0:
		one.From = FromLimits
	}
	*l = append(*l, one)
	return &(*l)[len(*l)-1]
}

func (l *limitList) time(name string, given, holds, standard time.Duration) {
	l.add(name, "ms", given.Milliseconds(), holds.Milliseconds(), standard.Milliseconds())
}

func (l *Limit) used(n int64) *Limit {
	l.Used = &n
	return l
}

func (l *Limit) reached(n uint64) { l.Reached = &n }

func (l *limitList) proxy(given, is *proxy.Config, routes []proxy.Route, s *proxy.Stats) {
	const at = "smartProxyConfig."
	l.add(at+"maxConnections", "connections", int64(given.MaxConnections), int64(is.MaxConnections), 0).
		used(int64(s.ActiveConnections)).reached(s.Refused["tooManyConnections"])
	l.add(at+"maxConnectionsPerIp", "connections", int64(given.MaxConnectionsPerIP), int64(is.MaxConnectionsPerIP), 0).reached(s.Refused["tooManyPerIp"])
	l.add(at+"maxUdpSessions", "sessions", int64(given.MaxUDPSessions), int64(is.MaxUDPSessions), 10_000).used(int64(s.UDPSessions))
	l.add(at+"maxHeaderBytes", "bytes", int64(given.MaxHeaderBytes), int64(is.MaxHeaderBytes), 16<<10)
	g, t := &given.Timeouts, &is.Timeouts
	l.time(at+"timeouts.route", g.Route, t.Route, 10*time.Second)
	l.time(at+"timeouts.requestHead", g.RequestHead, t.RequestHead, 10*time.Second)
	l.time(at+"timeouts.keepAlive", g.KeepAlive, t.KeepAlive, keepAliveTimeout)
	l.time(at+"timeouts.connect", g.Connect, t.Connect, 5*time.Second)
	l.time(at+"timeouts.responseHead", g.ResponseHead, t.ResponseHead, time.Minute)
	l.time(at+"timeouts.idle", g.Idle, t.Idle, streamTimeout)
	l.time(at+"timeouts.udpIdle", g.UDPIdle, t.UDPIdle, time.Minute)
	l.time(at+"timeouts.drain", g.Drain, t.Drain, 30*time.Second)
	for i := range routes {
		most := int64(routes[i].Action.Security.MaxConnections)
		if most == 0 {
			continue
		}
		place := fmt.Sprintf("routes[%d]", i)
		one := l.add(at+place+".action.security.maxConnections", "connections", most, most, 0)
		for _, rs := range s.Routes {
			if rs.Name == cmp.Or(routes[i].Name, place) {
				one.used(rs.Active)
			}
		}
	}
}

func (l *limitList) email(given, is *email.Config, s *email.Stats) {
	const at = "emailConfig."
	all := l.add(at+"connections.max", "connections", int64(given.Connections.Max), int64(is.Connections.Max), mailConnections).used(s.Connections.Open)
	if is.RateLimits.Inbound.ConnectionsPerIP == 0 { // they are counted together
		all.reached(s.Refused["connections"])
	}
	l.time(at+"connections.timeout", given.Connections.Timeout, is.Connections.Timeout, mailTimeout)
	l.add(at+"connections.maxErrors", "errors", int64(given.Connections.MaxErrors), int64(is.Connections.MaxErrors), 20)
	most := int64(is.Security.MaxConnections)
	port := l.add(at+"security.maxConnections", "connections on each port", most, most, 0)
	if !is.UseSocketHandler { // or the proxy counts
		port.reached(s.Refused["port-full"])
	}
	l.add(at+"maxMessageSize", "bytes", given.MaxMessageSize, is.MaxMessageSize, 50<<20)
	g, in := &given.RateLimits.Inbound, &is.RateLimits.Inbound
	l.add(at+"rateLimits.inbound.connectionsPerIp", "connections", int64(g.ConnectionsPerIP), int64(in.ConnectionsPerIP), 0)
	l.add(at+"rateLimits.inbound.messagesPerMinute", "messages", int64(g.MessagesPerMinute), int64(in.MessagesPerMinute), 0)
	l.add(at+"rateLimits.inbound.messagesPerMinutePerIp", "messages", int64(g.MessagesPerMinutePerIP), int64(in.MessagesPerMinutePerIP), 0)
	l.add(at+"rateLimits.inbound.messagesPerMinutePerUser", "messages", int64(g.MessagesPerMinutePerUser), int64(in.MessagesPerMinutePerUser), 0)
	l.add(at+"rateLimits.inbound.recipientsPerMessage", "recipients", int64(g.RecipientsPerMessage), int64(in.RecipientsPerMessage), 1000)
	out := &is.RateLimits.Outbound
	hour := l.add(at+"rateLimits.outbound.messagesPerHour", "messages", int64(out.MessagesPerHour), int64(out.MessagesPerHour), 0)
	if q, ok := s.Quotas[""]; ok && out.MessagesPerHour > 0 {
		hour.used(int64(q.Hour))
	}
	day := l.add(at+"rateLimits.outbound.messagesPerDay", "messages", int64(out.MessagesPerDay), int64(out.MessagesPerDay), 0)
	if q, ok := s.Quotas[""]; ok && out.MessagesPerDay > 0 {
		day.used(int64(q.Day))
	}
	l.add(at+"queue.concurrency", "deliveries", int64(given.Queue.Concurrency), int64(is.Queue.Concurrency), 50).used(int64(s.Deliveries.Running))
	l.add(at+"queue.concurrencyPerSite", "deliveries", int64(given.Queue.ConcurrencyPerSite), int64(is.Queue.ConcurrencyPerSite), 20)
	l.retries(at+"queue.maxRetries", given.Queue.MaxRetries, is.Queue.MaxRetries)
	l.time(at+"queue.retryDelay", given.Queue.RetryDelay, is.Queue.RetryDelay, 5*time.Minute)
	l.time(at+"queue.maxAge", given.Queue.MaxAge, is.Queue.MaxAge, 5*24*time.Hour)
	l.time(at+"queue.keepHeld", given.Queue.KeepHeld, is.Queue.KeepHeld, 30*24*time.Hour)
	l.time(at+"outbound.mxCacheTimeout", given.Outbound.MXCacheTimeout, is.Outbound.MXCacheTimeout, 5*time.Minute)
	if is.IPReputation != nil {
		l.time(at+"ipReputation.cacheTimeout", given.IPReputation.CacheTimeout, is.IPReputation.CacheTimeout, time.Hour)
	}
}

// retries is the limit whose 0 means never, and which by default is as many as
// fit into maxAge.
func (l *limitList) retries(name string, given, is *int) {
	if is == nil {
		l.add(name, "retries", 0, 0, 0)
		return
	}
	one := l.add(name, "retries", 1, 1, 0)
	if one.Value = int64(*is); given == nil {
		one.From = FromLimits
	}
}

func (l *limitList) dns(given, is *dnsserver.Config, s *dnsserver.Stats) {
	const at = "dnsServerConfig."
	t := &s.Transports
	open := t.TCP.OpenConnections + t.TLS.OpenConnections + t.QUIC.OpenConnections
	l.add(at+"maxConnections", "connections", int64(given.MaxConnections), int64(is.MaxConnections), dnsserver.DefaultMaxConnections).used(open)
	l.add(at+"maxConnectionsPerClient", "connections", int64(given.MaxConnectionsPerClient), int64(is.MaxConnectionsPerClient), dnsserver.DefaultMaxConnectionsPerClient)
	l.time(at+"idleTimeout", given.IdleTimeout, is.IdleTimeout, dnsserver.DefaultIdleTimeout)
	l.add(at+"maxUdpSize", "bytes", int64(given.MaxUDPSize), int64(is.MaxUDPSize), dnsserver.DefaultMaxUDPSize)
	if rate := is.ResponseRateLimit; rate != nil {
		n := int64(rate.ResponsesPerSecond)
		l.add(at+"responseRateLimit.responsesPerSecond", "responses", n, n, dnsserver.DefaultResponsesPerSecond).reached(t.UDP.Limited)
	}
}

func (l *limitList) radius(given, is *radius.Config, s *radius.Stats) {
	const at = "radiusConfig."
	most := int64(is.Limits.MaxConcurrent)
	l.add(at+"limits.maxConcurrent", "requests", most, most, 256).reached(s.Dropped["overloaded"])
	failures := int64(is.Limits.MaxFailures)
	l.add(at+"limits.maxFailures", "failures", failures, failures, 10).reached(s.Dropped["tooManyFailures"])
	if rate := is.Limits.RateLimit; rate != nil {
		n := int64(rate.RequestsPerSecond)
		l.add(at+"limits.rateLimit.requestsPerSecond", "requests", n, n, 0).reached(s.Dropped["rateLimited"])
	}
	sessions := int64(is.Accounting.MaxSessions)
	l.add(at+"accounting.maxSessions", "sessions", sessions, sessions, 2_000_000).used(int64(s.Sessions))
	if is.RadSec != nil {
		l.add(at+"radSec.maxConnections", "connections", int64(given.RadSec.MaxConnections), int64(is.RadSec.MaxConnections), radSecConnections).
			used(int64(s.RadSecConnections)).reached(s.Dropped["tooManyRadSecConnections"])
	}
}
