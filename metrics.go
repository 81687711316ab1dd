package dcrouter

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter/proxy"
)

// Collector returns the Router's metrics for a Prometheus registry of the
// host. Nothing is registered anywhere by itself. Several Routers in one
// registry need a label to tell them apart:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"router": "a"}, registry).MustRegister(r.Collector())
//
// Labels come from the configuration only, never from clients.
func (r *Router) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("dcrouter_"+name, help, labels, nil)
	}
	return &collector{
		router:            r,
		connections:       desc("proxy_connections", "Client connections open now."),
		udpSessions:       desc("proxy_udp_sessions", "Sessions of UDP clients open now."),
		connectionsTotal:  desc("proxy_connections_total", "Client connections accepted."),
		refused:           desc("proxy_refused_total", "Connections and requests that went nowhere.", "reason"),
		routeActive:       desc("route_active", "Streams and requests in flight.", "route"),
		routeStreams:      desc("route_streams_total", "Streams carried.", "route"),
		routeRequests:     desc("route_requests_total", "HTTP requests carried.", "route"),
		routeResponses:    desc("route_responses_total", "HTTP responses by status class; \"none\" where the client got none.", "route", "class"),
		routeReceived:     desc("route_received_bytes_total", "Contents received from clients.", "route"),
		routeSent:         desc("route_sent_bytes_total", "Contents sent to clients.", "route"),
		routeQueued:       desc("route_queued", "Streams and requests that wait for a target below its limit.", "route"),
		routeRetries:      desc("route_retries_total", "Times that another target was tried.", "route"),
		routeNoRetry:      desc("route_retries_refused_total", "Times that another target was not tried because the retry budget was used up.", "route"),
		routeBlocked:      desc("route_blocked_total", "Streams and requests refused by the route's security settings.", "route"),
		targetHealthy:     desc("target_healthy", "1 if the target is healthy, else 0.", "target"),
		targetActive:      desc("target_active", "Streams and requests in flight.", "target"),
		targetTotal:       desc("target_sent_total", "Streams and requests sent to the target.", "target"),
		targetFailedTotal: desc("target_failures_total", "Streams and requests that the target did not take or answer.", "target"),
		targetEjected:     desc("target_ejected", "1 if a circuit breaker has ejected the target (open or half-open), else 0.", "target"),
		targetEjections:   desc("target_ejections_total", "Ejections of the target by circuit breakers.", "target"),
		dns:               newDNSMetrics(desc),
		radius:            newRADIUSMetrics(desc),
		email:             newEmailMetrics(desc),
		certificates:      newCertificateMetrics(desc),
		blocking:          newBlockingMetrics(desc),
	}
}

type collector struct {
	router *Router

	connections, udpSessions, connectionsTotal, refused,
	routeActive, routeStreams, routeRequests, routeResponses, routeReceived, routeSent, routeBlocked, routeQueued, routeRetries, routeNoRetry,
	targetHealthy, targetActive, targetTotal, targetFailedTotal, targetEjected, targetEjections *prometheus.Desc
	dns    dnsMetrics
	radius radiusMetrics
	email  emailMetrics

	certificates certificateMetrics
	blocking     blockingMetrics
}

// Describe sends the descriptions of all metrics.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.connections, c.udpSessions, c.connectionsTotal, c.refused,
		c.routeActive, c.routeStreams, c.routeRequests, c.routeResponses, c.routeReceived, c.routeSent, c.routeBlocked, c.routeQueued, c.routeRetries, c.routeNoRetry,
		c.targetHealthy, c.targetActive, c.targetTotal, c.targetFailedTotal, c.targetEjected, c.targetEjections} {
		ch <- d
	}
	c.dns.describe(ch)
	c.radius.describe(ch)
	c.email.describe(ch)
	c.certificates.describe(ch)
	c.blocking.describe(ch)
}

// Collect sends a snapshot of all metrics.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	all := c.router.Stats()
	if all.DNS != nil {
		c.dns.collect(all.DNS, gauge, counter)
	}
	if all.RADIUS != nil {
		c.radius.collect(all.RADIUS, gauge, counter)
	}
	if all.Email != nil {
		c.email.collect(all.Email, gauge, counter)
	}
	c.certificates.collect(all.Certificates, gauge, counter)
	if all.Blocking != nil {
		c.blocking.collect(all.Blocking, gauge, counter)
	}
	s := all.Proxy
	gauge(c.connections, float64(s.ActiveConnections))
	gauge(c.udpSessions, float64(s.UDPSessions))
	counter(c.connectionsTotal, s.Connections)
	for reason, n := range s.Refused {
		counter(c.refused, n, reason)
	}
	for _, rt := range s.Routes {
		gauge(c.routeActive, float64(rt.Active), rt.Name)
		counter(c.routeStreams, rt.Streams, rt.Name)
		counter(c.routeRequests, rt.Requests, rt.Name)
		counter(c.routeReceived, rt.BytesIn, rt.Name)
		counter(c.routeSent, rt.BytesOut, rt.Name)
		counter(c.routeBlocked, rt.Blocked, rt.Name)
		gauge(c.routeQueued, float64(rt.Queued), rt.Name)
		counter(c.routeRetries, rt.Retries, rt.Name)
		counter(c.routeNoRetry, rt.RetriesRefused, rt.Name)
		for class, n := range rt.Responses {
			name := strconv.Itoa(class) + "xx"
			if class == 0 {
				name = "none"
			}
			counter(c.routeResponses, n, rt.Name, name)
		}
	}
	for _, t := range byName(s.Targets) {
		healthy, ejected := 0.0, 0.0
		if t.Healthy {
			healthy = 1
		}
		if t.Circuit == proxy.CircuitOpen || t.Circuit == proxy.CircuitHalfOpen {
			ejected = 1
		}
		gauge(c.targetHealthy, healthy, t.Name)
		gauge(c.targetEjected, ejected, t.Name)
		counter(c.targetEjections, t.Ejections, t.Name)
		gauge(c.targetActive, float64(t.Active), t.Name)
		counter(c.targetTotal, t.Total, t.Name)
		counter(c.targetFailedTotal, t.Failures, t.Name)
	}
}

// byName adds up targets with one name: routes that reach a server on
// different terms, such as another health check, count it separately.
func byName(targets []proxy.TargetStats) []proxy.TargetStats {
	var list []proxy.TargetStats
	for _, t := range targets { // ordered by name
		if n := len(list); n > 0 && list[n-1].Name == t.Name {
			last := &list[n-1]
			last.Healthy = last.Healthy && t.Healthy
			last.Active += t.Active
			last.Total += t.Total
			last.Failures += t.Failures
			last.Ejections += t.Ejections
			last.Circuit = max(last.Circuit, t.Circuit) // the worse the later in the alphabet
			continue
		}
		list = append(list, t)
	}
	return list
}
