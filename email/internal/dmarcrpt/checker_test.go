package dmarcrpt

import (
	"bufio"
	"net/netip"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/auth"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// From a message over what the checks find of it to a report at another
// organization.
func TestWithChecker(t *testing.T) {
	dns := dnstest.New(t, dnstest.Zone{
		"_dmarc.example.com":                           {"TXT v=DMARC1; p=none; sp=reject; t=y; aspf=s; rua=mailto:reports@collector.example!20m"},
		"example.com._report._dmarc.collector.example": {"TXT v=DMARC1"},
		"example.com":                                  {"TXT v=spf1 ip4:192.0.2.0/24 -all"},
	})
	c, b := newClock(), &box{}
	r := open(t, Config{Resolver: dns.Resolver(), Send: b.send, Now: c.Now})
	checker := auth.Checker{Resolver: dns.Resolver(), Hostname: "mx.receiver.example"}
	for i, from := range []string{"example.com", "sub.example.com", "nobody.example"} {
		h, _, err := message.ReadHeader(bufio.NewReader(strings.NewReader("From: A <a@"+from+">\r\nSubject: x\r\n\r\n")), 1<<10)
		if err != nil {
			t.Fatal(err)
		}
		res := checker.Check(t.Context(), auth.Request{ClientIP: netip.MustParseAddr("192.0.2.1"), Helo: "mx.example.com", MailFrom: "a@example.com", Header: h})
		add(r, 5+i, Message{SourceIP: netip.MustParseAddr("192.0.2.1"), MailFrom: "a@example.com", Auth: &res, Applied: res.DMARC.Policy})
	}
	if s := r.Stats(); s.Messages != 11 || s.Domains != 1 {
		t.Fatalf("%+v", s)
	}
	var rows []row
	for line := range r.domains[key{dayOf(c.Now()), "example.com"}].rows {
		rows = append(rows, line)
	}
	if len(rows) != 2 {
		t.Fatalf("%+v", rows)
	}
	if rows[0].HeaderFrom != "example.com" {
		rows[0], rows[1] = rows[1], rows[0]
	}
	if a := rows[0]; !a.SPF || a.DKIM || a.Disposition != "none" || a.Reasons != "" || a.SPFResult != "pass" || a.SPFDomain != "example.com" {
		t.Errorf("%+v", a)
	}
	if a := rows[1]; a.SPF || a.Disposition != string(dmarc.Quarantine) || a.Reasons != "policy_test_mode" {
		t.Errorf("%+v", a)
	}
	if list := dayOver(t, r, c, b); len(list) != 1 || list[0].To != "reports@collector.example" {
		t.Errorf("%d reports", len(list))
	}
}
