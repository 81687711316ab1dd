package dcrouter

import "github.com/prometheus/client_golang/prometheus"

// blockingMetrics are the collector's part about blocked addresses.
type blockingMetrics struct{ active, counted, made, refused *prometheus.Desc }

func newBlockingMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) blockingMetrics {
	return blockingMetrics{
		active:  desc("blocks", "Addresses and networks blocked now."),
		counted: desc("blocks_counted", "Addresses with security events that have not led to a block."),
		made:    desc("blocks_made_total", "Blocks that security events have led to."),
		refused: desc("blocks_refused_total", "Connections, requests and messages of blocked addresses that were refused.", "by"),
	}
}

func (m *blockingMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.active, m.counted, m.made, m.refused} {
		ch <- d
	}
}

func (m *blockingMetrics) collect(s *BlockingStats, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	gauge(m.active, float64(s.Active))
	gauge(m.counted, float64(s.Counted))
	counter(m.made, s.Made)
	for by, n := range s.Refused {
		counter(m.refused, n, by)
	}
}
