package email

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// texts is a resolver that also has TXT records.
type texts struct {
	hosts
	txt map[string]string
}

func (r texts) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if text, ok := r.txt[strings.TrimSuffix(name, ".")]; ok {
		return []string{text}, nil
	}
	return r.hosts.LookupTXT(ctx, name)
}

// Domains that ask for reports get them once the day is over: about TLS on the way
// to them, and about mail in their name.
func TestReportsGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := texts{hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}, map[string]string{
			"_smtp._tls.b.example": "v=TLSRPTv1; rua=mailto:tls@b.example",
			"_dmarc.b.example":     "v=DMARC1; p=none; rua=mailto:dmarc@b.example",
		}}
		cfg := relay("a.example")
		cfg.Outbound.TLSReports, cfg.Outbound.DMARCReports = true, true
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		inbox := newMailbox(nil)
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.1"], n.servers["192.0.2.2"] = a.Server, b.Server

		n.inject(t, a, "10.0.0.1", "user@a.example", "user@b.example", toB)
		for range 20 { // a single one is not worth a report
			n.inject(t, a, "192.0.2.66", "user@b.example", "user@a.example", strings.ReplaceAll(toB, "From: user@a", "From: user@b"))
		}
		time.Sleep(time.Minute)
		if got := inbox.all(); len(got) != 1 || got[0].Recipient != "user@b.example" {
			t.Fatalf("%+v", got)
		}
		time.Sleep(36 * time.Hour)
		reports := make(map[string]string)
		for _, m := range inbox.all()[1:] {
			reports[m.Recipient] += strings.ToLower(m.content)
		}
		for _, want := range []string{"content-type: application/tlsrpt+gzip", "tls-report-domain: b.example", "tls-report-submitter: a.example", "from: <postmaster@a.example>", "tls-required: no"} {
			if !strings.Contains(reports["tls@b.example"], want) {
				t.Errorf("%q is missing in the report about TLS:\n%s", want, reports["tls@b.example"])
			}
		}
		for _, want := range []string{"subject: report domain: b.example submitter: ", "content-type: application/gzip"} {
			if !strings.Contains(reports["dmarc@b.example"], want) {
				t.Errorf("%q is missing in the report about mail:\n%s", want, reports["dmarc@b.example"])
			}
		}
		if got := len(inbox.all()); got != 3 {
			t.Errorf("%d messages, with 2 reports", got)
		}
		time.Sleep(72 * time.Hour) // there is nothing to tell but of the reports
		if got := len(inbox.all()); got != 3 {
			t.Errorf("%d messages, reports about reports among them", got)
		}
	})
}
