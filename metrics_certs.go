package dcrouter

import "github.com/prometheus/client_golang/prometheus"

// certificateMetrics are the part of the collector about automatic
// certificates, of configured names only.
type certificateMetrics struct {
	expiry, failures *prometheus.Desc
}

func newCertificateMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) certificateMetrics {
	return certificateMetrics{
		expiry:   desc("certificate_expiry_timestamp_seconds", "When the certificate in use expires, in Unix time; 0 if there is none.", "name"),
		failures: desc("certificate_failures_total", "Attempts to obtain a certificate that have failed.", "name"),
	}
}

func (m *certificateMetrics) describe(ch chan<- *prometheus.Desc) {
	ch <- m.expiry
	ch <- m.failures
}

func (m *certificateMetrics) collect(states []CertificateState, gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	for i := range states {
		s := &states[i]
		if s.OnDemand { // clients have chosen the name
			continue
		}
		expiry := 0.0
		if !s.NotAfter.IsZero() {
			expiry = float64(s.NotAfter.Unix())
		}
		gauge(m.expiry, expiry, s.Name)
		counter(m.failures, s.TotalFailures, s.Name)
	}
}
