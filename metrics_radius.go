package dcrouter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter/radius"
)

// radiusMetrics are the RADIUS server's part of the collector.
type radiusMetrics struct {
	requests, answers, duplicates, accounting, dropped, sessions, homeAlive, homeRequests, homeFailures *prometheus.Desc
}

func newRADIUSMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) radiusMetrics {
	return radiusMetrics{
		requests:     desc("radius_requests_total", "Packets from known clients."),
		answers:      desc("radius_answers_total", "Answers to Access-Requests.", "answer"),
		duplicates:   desc("radius_duplicates_total", "Packets that were repetitions."),
		accounting:   desc("radius_accounting_total", "Accounting records acknowledged."),
		dropped:      desc("radius_dropped_total", "Packets without answer, and what was rejected without asking.", "reason"),
		sessions:     desc("radius_sessions", "Accounting sessions open now."),
		homeAlive:    desc("radius_home_server_alive", "1 if the home server answers, else 0.", "realm", "address"),
		homeRequests: desc("radius_home_server_requests_total", "Requests sent to the home server.", "realm", "address"),
		homeFailures: desc("radius_home_server_failures_total", "Requests that the home server did not answer.", "realm", "address"),
	}
}

func (m *radiusMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.requests, m.answers, m.duplicates, m.accounting, m.dropped, m.sessions, m.homeAlive, m.homeRequests, m.homeFailures} {
		ch <- d
	}
}

func (m *radiusMetrics) collect(s *radius.Stats, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	counter(m.requests, s.Requests)
	counter(m.answers, s.Accepts, "accept")
	counter(m.answers, s.Rejects, "reject")
	counter(m.answers, s.Challenges, "challenge")
	counter(m.duplicates, s.Duplicates)
	counter(m.accounting, s.Accounting)
	for reason, n := range s.Dropped {
		counter(m.dropped, n, reason)
	}
	gauge(m.sessions, float64(s.Sessions))
	for _, h := range s.HomeServers {
		alive := 0.0
		if h.Alive {
			alive = 1
		}
		gauge(m.homeAlive, alive, h.Realm, h.Address)
		counter(m.homeRequests, h.Requests, h.Realm, h.Address)
		counter(m.homeFailures, h.Failures, h.Realm, h.Address)
	}
}
