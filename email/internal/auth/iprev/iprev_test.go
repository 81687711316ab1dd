package iprev

import (
	"net/netip"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

func TestCheck(t *testing.T) {
	many := []string{}
	for range 12 {
		many = append(many, "PTR other.example")
	}
	r := dnstest.New(t, dnstest.Zone{
		"1.2.0.192.in-addr.arpa": {"PTR other.example", "PTR Mail.Example"},
		"2.2.0.192.in-addr.arpa": {"PTR other.example"},
		"3.2.0.192.in-addr.arpa": {"SERVFAIL"},
		"4.2.0.192.in-addr.arpa": {"PTR down.example"},
		"5.2.0.192.in-addr.arpa": append(many, "PTR five.example"),
		"6.2.0.192.in-addr.arpa": {"PTR gone.example"},
		"7.2.0.192.in-addr.arpa": {"PTR localhost"},
		"localhost":              {"A 192.0.2.7"},
		"mail.example":           {"A 192.0.2.9", "A 192.0.2.1", "AAAA 2001:db8::1"},
		"other.example":          {"A 192.0.2.77"},
		"five.example":           {"A 192.0.2.5"},
		"down.example":           {"SERVFAIL"},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {"PTR mail.example"},
	}).Resolver()
	for ip, want := range map[string]Result{
		"192.0.2.1":        {Code: Pass, Name: "mail.example"},
		"::ffff:192.0.2.1": {Code: Pass, Name: "mail.example"},
		"2001:db8::1":      {Code: Pass, Name: "mail.example"},
		"192.0.2.2":        {Code: Fail},
		"192.0.2.3":        {Code: TempError},
		"192.0.2.4":        {Code: TempError},
		"192.0.2.6":        {Code: Fail},
		"192.0.2.7":        {Code: Fail},
		"192.0.2.8":        {Code: PermError},
	} {
		got := Check(t.Context(), r, netip.MustParseAddr(ip))
		if got.Code != want.Code || got.Name != want.Name || (got.Err != nil) != (want.Code == TempError || want.Code == PermError) {
			t.Errorf("%s: %+v, want %+v", ip, got, want)
		}
	}
	if got := Check(t.Context(), r, netip.MustParseAddr("192.0.2.5")); got.Code != Fail {
		t.Errorf("more than 10 names were looked at: %+v", got)
	}
}
