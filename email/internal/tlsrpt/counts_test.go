package tlsrpt

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCounts(t *testing.T) {
	c := &counts{}
	a, b := Policy{Type: NoPolicy, Domain: "a.test"}, Policy{Type: TLSA, Domain: "mx.a.test", Lines: []string{"3 1 1 00"}}
	failed := Session{Policy: b, Failure: TLSAInvalid, MX: "mx.a.test", SendingIP: netip.MustParseAddr("192.0.2.1"), Reason: "x"}
	other := failed
	other.MX = "mx2.a.test"
	for _, s := range []Session{{Policy: a}, {Policy: b}, {Policy: b}, failed, failed, other} {
		if !c.add(s, maxOwned) {
			t.Error("no room")
		}
	}
	got := ""
	for _, p := range c.Policies {
		got += fmt.Sprint(p.Policy.Type, " ", p.Successes, " ", p.Failures, ":")
		for _, d := range p.Details {
			got += fmt.Sprint(" ", d.MX, " ", d.Count)
		}
		got += "\n"
	}
	if want := "no-policy-found 1 0:\ntlsa 2 3: mx.a.test 2 mx2.a.test 1\n"; got != want {
		t.Error(got)
	}
}

// However much strangers vary what they do, what is kept of it is bounded, and
// the sums are right.
func TestCountsAreBounded(t *testing.T) {
	c := &counts{}
	long := strings.Repeat("ü", 1000)
	for i := range 5000 {
		for _, f := range []Failure{ValidationFailure, CertificateExpired} {
			c.add(Session{Policy: Policy{Type: STS, Domain: "a.test"}, Failure: f, MX: fmt.Sprint(i), Reason: fmt.Sprint(i, long)}, maxOwned)
		}
	}
	p := c.Policies[0]
	sum := uint64(0)
	for _, d := range p.Details {
		sum += d.Count
		if len(d.Reason) > maxReason+3 || !utf8.ValidString(d.Reason) {
			t.Errorf("%q", d.Reason)
		}
	}
	if len(p.Details) != maxDetails+2 || sum != 10_000 || p.Failures != sum {
		t.Error(len(p.Details), sum, p.Failures)
	}
	for i := range 100 {
		c.add(Session{Policy: Policy{Type: STS, Domain: fmt.Sprint(i)}}, maxOwned)
	}
	if len(c.Policies) != maxPolicies {
		t.Error(len(c.Policies))
	}
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		txts []string
		want []string
		err  string
	}{
		{[]string{"v=TLSRPTv1; rua=mailto:reports@example.com"}, []string{"mailto:reports@example.com"}, ""},
		{[]string{"v=TLSRPTv1;rua=https://reporting.example.com/v1/tlsrpt;"}, []string{"https://reporting.example.com/v1/tlsrpt"}, ""},
		{[]string{"v=TLSRPTv1; ext=1; rua=mailto:a@example.com , https://example.com/x?a=b,mailto:a@example.com; rua=mailto:c@example.com"}, []string{"mailto:a@example.com", "https://example.com/x?a=b"}, ""},
		{[]string{"v=spf1", "v=TLSRPTv1; rua=mailto:%22a%2Cb%22@example.com"}, []string{"mailto:%22a%2Cb%22@example.com"}, ""},
		{[]string{"v=TLSRPTv1; rua=ftp://a.example,http://example.com,mailto:,mailto:x,https:///x,https://u:p@example.com/,mailto:a@example.com"}, []string{"mailto:a@example.com"}, ""},
		{[]string{"v=TLSRPTv1; rua=" + strings.Repeat("mailto:a@example.com,", 9) + "mailto:1@a.example,mailto:2@a.example,mailto:3@a.example,mailto:4@a.example,mailto:5@a.example"},
			[]string{"mailto:a@example.com", "mailto:1@a.example", "mailto:2@a.example", "mailto:3@a.example", "mailto:4@a.example"}, ""},
		{nil, nil, "no TLSRPT record"},
		{[]string{"v=TLSRPTv2; rua=mailto:a@example.com"}, nil, "no TLSRPT record"},
		{[]string{"v=TLSRPTv1; rua=mailto:a@example.com", "v=TLSRPTv1; rua=mailto:b@example.com"}, nil, "2 TLSRPT records"},
		{[]string{"v=TLSRPTv1"}, nil, "no address"},
		{[]string{"v=TLSRPTv1; rua=mailto:a@example.com%0d%0aBcc:b@example.com"}, nil, "no address"},
		{[]string{"v=TLSRPTv1; rua=mailto:ü@example.com"}, nil, "no address"},
	} {
		got, err := parseRecord(c.txts)
		if !slices.Equal(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v", c.txts, got, err)
		}
	}
	if to, ok := mailbox("mailto:%22a%2Cb%22@Example.com?subject=x"); !ok || to != `"a,b"@example.com` {
		t.Error(to, ok)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("v=TLSRPTv1; rua=mailto:reports@example.com,https://example.com/v1/tlsrpt")
	f.Add("v=TLSRPTv1;rua=mailto:%22a%20b%22@example.com;x=y")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseRecord([]string{text})
		if (err == nil) != (len(list) > 0) || len(list) > maxAddresses {
			t.Errorf("%q, %v", list, err)
		}
		for _, uri := range list {
			if to, ok := mailbox(uri); ok && strings.ContainsAny(to, "\r\n\x00") {
				t.Errorf("%q", to)
			}
		}
	})
}
