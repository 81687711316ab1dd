package dcrouter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter/dnsserver"
)

// dnsMetrics are the DNS server's part of the collector.
type dnsMetrics struct {
	queries, responses, dropped, limited, connections, questions, rcodes,
	zoneQueries, zoneSerial, zoneUpdates *prometheus.Desc
}

func newDNSMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) dnsMetrics {
	return dnsMetrics{
		queries:     desc("dns_queries_total", "Messages that came.", "transport"),
		responses:   desc("dns_responses_total", "Messages sent back.", "transport"),
		dropped:     desc("dns_dropped_total", "Queries without response.", "transport"),
		limited:     desc("dns_limited_total", "Responses held back by the rate limit.", "transport"),
		connections: desc("dns_connections", "Connections open now.", "transport"),
		questions:   desc("dns_questions_total", "Questions by record type.", "type"),
		rcodes:      desc("dns_rcodes_total", "Responses by response code.", "rcode"),
		zoneQueries: desc("dns_zone_queries_total", "Questions for names in the zone.", "zone"),
		zoneSerial:  desc("dns_zone_serial", "Serial number of the version that is served.", "zone"),
		zoneUpdates: desc("dns_zone_updates_total", "Versions of the zone since Start.", "zone"),
	}
}

func (m *dnsMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.queries, m.responses, m.dropped, m.limited, m.connections, m.questions, m.rcodes,
		m.zoneQueries, m.zoneSerial, m.zoneUpdates} {
		ch <- d
	}
}

func (m *dnsMetrics) collect(s *dnsserver.Stats, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	t := &s.Transports
	for name, stats := range map[string]*dnsserver.TransportStats{"udp": &t.UDP, "tcp": &t.TCP, "tls": &t.TLS, "https": &t.HTTPS, "quic": &t.QUIC} {
		counter(m.queries, stats.Queries, name)
		counter(m.responses, stats.Responses, name)
		counter(m.dropped, stats.Dropped, name)
		counter(m.limited, stats.Limited, name)
		gauge(m.connections, float64(stats.OpenConnections), name)
	}
	for rtype, n := range s.Types {
		counter(m.questions, n, rtype)
	}
	for rcode, n := range s.Rcodes {
		counter(m.rcodes, n, rcode)
	}
	for i := range s.Zones {
		z := &s.Zones[i]
		counter(m.zoneQueries, z.Queries, z.Name)
		gauge(m.zoneSerial, float64(z.Serial), z.Name)
		counter(m.zoneUpdates, z.Updates, z.Name)
	}
}
