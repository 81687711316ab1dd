package dcrouter

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter/email"
)

// emailMetrics are the mail system's part of the collector.
type emailMetrics struct {
	connections, connectionsTotal, connectionsRefused, messages, bytes, refusedMessages, refused, routes, checks, scans, signIns,
	deliveries, spoolMessages, spoolBytes, quarantined *prometheus.Desc
}

func newEmailMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) emailMetrics {
	return emailMetrics{
		connections:        desc("email_connections", "Client connections open now."),
		connectionsTotal:   desc("email_connections_total", "Client connections."),
		connectionsRefused: desc("email_connections_refused_total", "Client connections refused before the greeting."),
		messages:           desc("email_messages_total", "Messages accepted."),
		bytes:              desc("email_message_bytes_total", "Contents of accepted messages."),
		refusedMessages:    desc("email_messages_refused_total", "Messages not accepted after their content had come.", "reply"),
		refused:            desc("email_refused_total", "Refusals of any kind.", "reason"),
		routes:             desc("email_route_recipients_total", "Recipients by the route that took them.", "route"),
		checks:             desc("email_authentication_total", "Messages by the result of a check of their sender.", "method", "result"),
		scans:              desc("email_scans_total", "Messages by scanner and what came of it.", "scanner", "result"),
		signIns:            desc("email_sign_ins_total", "Attempts of users to sign in.", "result"),
		deliveries:         desc("email_deliveries_total", "Recipients by what became of their delivery.", "result"),
		spoolMessages:      desc("email_spool_messages", "Messages in the spool now."),
		spoolBytes:         desc("email_spool_bytes", "What they take up."),
		quarantined:        desc("email_quarantined", "Messages in quarantine now."),
	}
}

func (m *emailMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.connections, m.connectionsTotal, m.connectionsRefused, m.messages, m.bytes, m.refusedMessages, m.refused,
		m.routes, m.checks, m.scans, m.signIns, m.deliveries, m.spoolMessages, m.spoolBytes, m.quarantined} {
		ch <- d
	}
}

func (m *emailMetrics) collect(s *email.Stats, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	gauge(m.connections, float64(s.Connections.Open))
	counter(m.connectionsTotal, s.Connections.Total)
	counter(m.connectionsRefused, s.Connections.Refused)
	counter(m.messages, s.Messages.Accepted)
	counter(m.bytes, s.Messages.Bytes)
	counter(m.refusedMessages, s.Messages.Refused, "refused")
	counter(m.refusedMessages, s.Messages.Deferred, "deferred")
	for reason, n := range s.Refused {
		counter(m.refused, n, reason)
	}
	for route, n := range s.Routes {
		counter(m.routes, n, route)
	}
	for method, results := range map[string]map[string]uint64{"spf": s.SPF, "dkim": s.DKIM, "dmarc": s.DMARC, "arc": s.ARC} {
		for result, n := range results {
			counter(m.checks, n, method, result)
		}
	}
	for name, n := range s.Scans {
		scanner, result := name, ""
		if at := strings.LastIndexByte(name, '/'); at >= 0 {
			scanner, result = name[:at], name[at+1:]
		}
		counter(m.scans, n, scanner, result)
	}
	counter(m.signIns, s.SignIns, "success")
	counter(m.signIns, s.SignInFailures, "failure")
	counter(m.deliveries, s.Deliveries.Mailboxes, "mailbox")
	counter(m.deliveries, s.Deliveries.Forwarded, "forwarded")
	counter(m.deliveries, s.Deliveries.Deferred, "deferred")
	counter(m.deliveries, s.Deliveries.Failed, "failed")
	gauge(m.spoolMessages, float64(s.Spool.Messages))
	gauge(m.spoolBytes, float64(s.Spool.Bytes))
	gauge(m.quarantined, float64(s.Spool.Quarantined))
}
