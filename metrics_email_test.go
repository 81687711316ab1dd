package dcrouter

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter/email"
)

// oneStats collects a given snapshot of the mail system.
type oneStats struct {
	m emailMetrics
	s email.Stats
}

func (o *oneStats) Describe(ch chan<- *prometheus.Desc) { o.m.describe(ch) }

func (o *oneStats) Collect(ch chan<- prometheus.Metric) {
	o.m.collect(&o.s,
		func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		},
		func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
		})
}

// What goes out shows in the metrics, and no name that a sender has chosen.
func TestMetricsOfMailGoingOut(t *testing.T) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("dcrouter_"+name, help, labels, nil)
	}
	s := email.Stats{
		Submitted: 7,
		Deliveries: email.DeliveryStats{Bounced: 2, Complaints: 1, Running: 3, Waiting: 4, Sites: []email.SiteStats{
			{Site: "mx.chosen-by-a-sender.example", Waiting: 4, Rest: time.Now()}, {Site: "mx2.chosen-by-a-sender.example", Active: 3}}},
		Spool:  email.SpoolStats{Paused: true},
		Quotas: map[string]email.QuotaStats{"": {Hour: 5, HourLimit: 100, Day: 6}, "example.com": {Hour: 1, DayLimit: 50}},
		Sources: []email.SourceStats{{Address: "192.0.2.1", Pool: "main", Day: 3, Days: 30, Limit: 200, Today: 20,
			Providers: map[string]email.SourceProviderStats{"gmail": {Day: 2}}}, {Address: "192.0.2.2", Pool: "main", Warm: true, Today: 9}},
		Providers: map[string]email.Traffic{"gmail": {Score: 98, LastDay: email.TrafficCounts{Sent: 20, Delivered: 18, HardBounces: 2}}},
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&oneStats{newEmailMetrics(desc), s})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			all.WriteString(f.GetName() + " " + strings.ReplaceAll(m.String(), "  ", " ") + "\n")
		}
	}
	for name, want := range map[string]float64{
		"email_submitted_total":                              7,
		"email_reports_total complaint":                      1,
		"email_reports_total bounced":                        2,
		"email_deliveries_running":                           3,
		"email_deliveries_waiting":                           4,
		"email_queue_paused":                                 1,
		"email_sites_waiting":                                1,
		"email_sites_resting":                                1,
		"email_quota_used  hour":                             5,
		"email_quota_used example.com hour":                  1,
		"email_quota_limit  hour":                            100,
		"email_quota_limit example.com day":                  50,
		"email_source_warm_up_day 192.0.2.1 main":            3,
		"email_source_warm_up_days 192.0.2.1 main":           30,
		"email_source_limit 192.0.2.1 main":                  200,
		"email_source_today 192.0.2.2 main":                  9,
		"email_provider_score gmail":                         98,
		"email_provider_last_day gmail hard_bounce":          2,
		"email_provider_last_day gmail delivered":            18,
		"email_quota_limit  day":                             -1, // no limit
		"email_source_limit 192.0.2.2 main":                  -1,
		"email_sites_resting mx.chosen-by-a-sender.example":  -1,
		"email_sites_waiting mx2.chosen-by-a-sender.example": -1,
	} {
		got := -1.0
		for _, f := range families {
			for _, m := range f.Metric {
				full := strings.TrimPrefix(f.GetName(), "dcrouter_")
				for _, l := range m.Label { // in the order of their names
					full += " " + l.GetValue()
				}
				if full == name {
					got = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		if got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if strings.Contains(all.String(), "chosen-by-a-sender") {
		t.Error("a name that senders choose is in the metrics")
	}
}
