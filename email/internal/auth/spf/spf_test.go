package spf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

func TestExplanation(t *testing.T) {
	server := dnstest.New(t, dnstest.Zone{
		"example.com":     {"TXT v=spf1 -all exp=why.example.com"},
		"why.example.com": {"TXT %{s}"},
	})
	check := func(from string) Result {
		return Check(t.Context(), server.Resolver(), Request{IP: netip.MustParseAddr("192.0.2.1"), Helo: "x.example", MailFrom: from, Now: time.Unix(0, 0)})
	}
	if got := check("joe@example.com"); got.Code != Fail || got.Explanation != "joe@example.com" {
		t.Errorf("%+v", got)
	}
	if got := check("joe\r\n250 ok@example.com"); got.Code != Fail || got.Explanation != "" {
		t.Errorf("%+v", got)
	}
	if got := check("jos\u00e9@example.com"); got.Code != Fail || got.Explanation != "" {
		t.Errorf("%+v", got)
	}
	server.Set("why.example.com", "TXT "+strings.Repeat("%{s}", 100))
	if got := check("joe@example.com"); got.Code != Fail || len(got.Explanation) != maxExplanation {
		t.Errorf("%+v", got)
	}
	server.Set("why.example.com", "TXT "+strings.Repeat("%{s}", 200))
	if got := check("joe@example.com"); got.Code != Fail || got.Explanation != "" {
		t.Errorf("%+v", got)
	}
}

func TestDomain(t *testing.T) {
	server := dnstest.New(t, dnstest.Zone{
		"xn--bcher-kva.example": {"TXT v=spf1 ip4:192.0.2.1 ip6:::ffff:192.0.2.2 -all"},
	})
	for from, want := range map[string]Code{
		"joe@b\u00fccher.EXAMPLE.": Pass, "\"a@b\"@xn--bcher-kva.example": Pass, "joe@[192.0.2.1]": None, "joe@example": None, "joe": None, "@": None,
	} {
		got := Check(t.Context(), server.Resolver(), Request{IP: netip.MustParseAddr("::ffff:192.0.2.1"), MailFrom: from})
		if got.Code != want || want == Pass && got.Domain != "xn--bcher-kva.example" {
			t.Errorf("%q: %+v, want %s", from, got, want)
		}
	}
	// The mapped address of a record is no IPv4 address.
	if got := Check(t.Context(), server.Resolver(), Request{IP: netip.MustParseAddr("192.0.2.2"), MailFrom: "x@xn--bcher-kva.example"}); got.Code != Fail {
		t.Errorf("%+v", got)
	}
}

func TestTenNames(t *testing.T) {
	names := []string{}
	for range 10 {
		names = append(names, "PTR other.example")
	}
	zone := dnstest.Zone{
		"example.com":            {"TXT v=spf1 ptr -all"},
		"mail.example.com":       {"A 192.0.2.1"},
		"1.2.0.192.in-addr.arpa": slices.Concat(names, []string{"PTR mail.example.com"}),
	}
	server := dnstest.New(t, zone)
	check := func() Code {
		return Check(t.Context(), server.Resolver(), Request{IP: netip.MustParseAddr("192.0.2.1"), MailFrom: "joe@example.com"}).Code
	}
	if got := check(); got != Fail {
		t.Errorf("the 11th name was looked at: %s", got)
	}
	server.Set("1.2.0.192.in-addr.arpa", slices.Concat(names[1:], []string{"PTR mail.example.com"})...)
	if got := check(); got != Pass {
		t.Errorf("the 10th name was not looked at: %s", got)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("v=spf1 +a:%{d2r.-}.example.com/24//64 -mx/0 ~ip4:192.0.2.0/24 ?ip6:2001:db8::/32 exists:%{ir}.%{v}._spf.%{h} ptr include:x.example redirect=%{l}.example exp=e.example all")
	f.Add("v=spf1 a:foo:bar/baz.example.com x=%{S} %%")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parse(text)
		if err != nil {
			return
		}
		e := &evaluation{Request: Request{IP: netip.MustParseAddr("192.0.2.1"), Helo: "h.example"}, local: "joe", senderDomain: "example.com", namesKnown: true}
		for _, m := range r.mechanisms {
			if m.domain != nil && len(e.target(m.domain, "example.com")) > maxName {
				t.Error("a name is too long")
			}
		}
	})
}
