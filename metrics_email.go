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

	outbound outboundMetrics
}

// outboundMetrics are about mail going out. The servers that it goes to are
// counted and not named: senders choose them.
type outboundMetrics struct {
	submitted, reports, running, waiting, paused, sitesBusy, sitesResting, quota, quotaLimit,
	sourceDay, sourceDays, sourceLimit, sourceToday, score, traffic *prometheus.Desc
}

func newOutboundMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) outboundMetrics {
	return outboundMetrics{
		submitted:    desc("email_submitted_total", "Messages that the host program gave to be sent."),
		reports:      desc("email_reports_total", "Recipients that others reported about: bounced or complaint.", "kind"),
		running:      desc("email_deliveries_running", "Deliveries under way."),
		waiting:      desc("email_deliveries_waiting", "Deliveries that are due and wait."),
		paused:       desc("email_queue_paused", "1 if the queue is paused, else 0."),
		sitesBusy:    desc("email_sites_waiting", "Servers that mail waits for, of the hundred that most happens at."),
		sitesResting: desc("email_sites_resting", "Servers that are not tried now because they refused or could not be reached, of these."),
		quota:        desc("email_quota_used", "Messages sent in the period, by domain of the sender; that of \"\" is the server's.", "domain", "period"),
		quotaLimit:   desc("email_quota_limit", "Messages that may be sent in the period; absent where there is no limit.", "domain", "period"),
		sourceDay:    desc("email_source_warm_up_day", "Day of the address's warm-up; 0 if it is over.", "address", "pool"),
		sourceDays:   desc("email_source_warm_up_days", "How many days it takes.", "address", "pool"),
		sourceLimit:  desc("email_source_limit", "Messages that the address may send today; absent where there is no limit.", "address", "pool"),
		sourceToday:  desc("email_source_today", "Messages that the address has sent today.", "address", "pool"),
		score:        desc("email_provider_score", "How the last day went with a provider: 100 is the best, 0 the worst.", "provider"),
		traffic:      desc("email_provider_last_day", "Recipients at a provider in the last day, by what became of them.", "provider", "result"),
	}
}

func (m *outboundMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.submitted, m.reports, m.running, m.waiting, m.paused, m.sitesBusy, m.sitesResting, m.quota, m.quotaLimit,
		m.sourceDay, m.sourceDays, m.sourceLimit, m.sourceToday, m.score, m.traffic} {
		ch <- d
	}
}

func (m *outboundMetrics) collect(s *email.Stats, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	counter(m.submitted, s.Submitted)
	counter(m.reports, s.Deliveries.Bounced, "bounced")
	counter(m.reports, s.Deliveries.Complaints, "complaint")
	gauge(m.running, float64(s.Deliveries.Running))
	gauge(m.waiting, float64(s.Deliveries.Waiting))
	paused := 0.0
	if s.Spool.Paused {
		paused = 1
	}
	gauge(m.paused, paused)
	busy, resting := 0, 0
	for _, site := range s.Deliveries.Sites {
		if site.Waiting > 0 {
			busy++
		}
		if !site.Rest.IsZero() {
			resting++
		}
	}
	gauge(m.sitesBusy, float64(busy))
	gauge(m.sitesResting, float64(resting))
	for domain, q := range s.Quotas {
		for _, p := range []struct {
			name        string
			used, limit int
		}{{"hour", q.Hour, q.HourLimit}, {"day", q.Day, q.DayLimit}} {
			gauge(m.quota, float64(p.used), domain, p.name)
			if p.limit > 0 {
				gauge(m.quotaLimit, float64(p.limit), domain, p.name)
			}
		}
	}
	for i := range s.Sources {
		a := &s.Sources[i]
		gauge(m.sourceDay, float64(a.Day), a.Address, a.Pool)
		gauge(m.sourceDays, float64(a.Days), a.Address, a.Pool)
		gauge(m.sourceToday, float64(a.Today), a.Address, a.Pool)
		if a.Limit > 0 {
			gauge(m.sourceLimit, float64(a.Limit), a.Address, a.Pool)
		}
	}
	for name, p := range s.Providers {
		gauge(m.score, float64(p.Score), name)
		day := p.LastDay
		for result, n := range map[string]int{"sent": day.Sent, "delivered": day.Delivered, "deferred": day.Deferred,
			"hard_bounce": day.HardBounces, "soft_bounce": day.SoftBounces, "block": day.Blocks, "complaint": day.Complaints} {
			gauge(m.traffic, float64(n), name, result)
		}
	}
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
		outbound:           newOutboundMetrics(desc),
	}
}

func (m *emailMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.connections, m.connectionsTotal, m.connectionsRefused, m.messages, m.bytes, m.refusedMessages, m.refused,
		m.routes, m.checks, m.scans, m.signIns, m.deliveries, m.spoolMessages, m.spoolBytes, m.quarantined} {
		ch <- d
	}
	m.outbound.describe(ch)
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
	m.outbound.collect(s, gauge, counter)
}
