package dmarcrpt

import (
	"math"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]struct {
		addr  string
		limit int64
	}{
		"mailto:a@example.com":                  {"a@example.com", math.MaxInt64},
		"MailTo:a@EXAMPLE.com?subject=x":        {"a@example.com", math.MaxInt64},
		"mailto:a@example.com!10m":              {"a@example.com", 10 << 20},
		"mailto:a@example.com!50K":              {"a@example.com", 50 << 10},
		"mailto:a@example.com!77":               {"a@example.com", 77},
		"mailto:a@example.com!2t":               {"a@example.com", 2 << 40},
		"mailto:a@example.com!4000000000t":      {"a@example.com", math.MaxInt64},
		"mailto:a%2Bb%21@example.com":           {"a+b!@example.com", math.MaxInt64},
		"mailto:a@xn--bcher-kva.example":        {"a@xn--bcher-kva.example", math.MaxInt64},
		"mailto:a@example.com!":                 {},
		"mailto:a@example.com!0":                {},
		"mailto:a@example.com!m":                {},
		"mailto:a@example.com!-1":               {},
		"mailto:a@example.com!10x":              {},
		"mailto:a@example.com!99999999999":      {},
		"mailto:a@example.com%2Cb@example.com":  {},
		"mailto:a@example.com%0D%0ABcc:b@x.org": {},
		"mailto:a%@example.com":                 {},
		"mailto:":                               {},
		"mailto:postmaster":                     {},
		"mailto:a@[192.0.2.1]":                  {},
		"mailto:ü@example.com":                  {},
		"https://example.com/":                  {},
		"a@example.com":                         {},
	} {
		d, err := parseURI(uri)
		if got := d.addr.String(); err == nil && (got != want.addr || d.limit != want.limit) || err != nil != (want.addr == "") {
			t.Errorf("%q: %q, %d, %v", uri, got, d.limit, err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"mailto:a@example.com!10m", "mailto:%22a%20b%22@x.org?subject=y", "https://x", "mailto:a@[::1]", "mailto:a@example.com%0d%0a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		d, err := parseURI(uri)
		if err != nil {
			return
		}
		text := d.addr.String()
		if d.limit <= 0 || strings.ContainsAny(text, "\r\n\x00") || len(text) > 260 {
			t.Fatalf("%q: %q, %d", uri, text, d.limit)
		}
		if again, err := addr.Parse(text); err != nil || again != d.addr {
			t.Fatalf("%q is not read back: %v, %v", text, again, err)
		}
	})
}

func TestDestinations(t *testing.T) {
	long := strings.TrimSuffix(strings.Repeat("sixteencharacter.", 12), ".") + ".example"
	dns := dnstest.New(t, dnstest.Zone{
		"_dmarc.example.com":                         {"TXT v=DMARC1; p=reject"},
		"_dmarc.own.example.com":                     {"TXT v=DMARC1; p=none; psd=n"},
		"_dmarc.com":                                 {"TXT v=DMARC1; p=none; psd=y"},
		"example.com._report._dmarc.a.example":       {"TXT v=DMARC1"},
		"example.com._report._dmarc.b.example":       {"TXT v=DMARC1; rua=mailto:other@b.example!1m,mailto:third@b.example", "TXT something else"},
		"example.com._report._dmarc.c.example":       {"TXT v=DMARC1; rua=mailto:x@victim.example"},
		"example.com._report._dmarc.d.example":       {"TXT v=DMARC2", "TXT yes"},
		"*._report._dmarc.any.example":               {"TXT v=DMARC1;"},
		"example.com._report._dmarc.broken.example":  {"SERVFAIL"},
		"example.com._report._dmarc.own.example.com": {"TXT v=spf1 -all"},
	})
	dns.Set("example.com._report._dmarc.any.example", "TXT v=DMARC1;")
	r := open(t, Config{Resolver: dns.Resolver(), Send: (&box{}).send})
	for rua, want := range map[string]string{
		"mailto:a@example.com":     "a@example.com",
		"mailto:a@sub.example.com": "a@sub.example.com", // the same organization
		"mailto:a@own.example.com": "",                  // not
		"mailto:a@other.com":       "",
		"mailto:a@a.example":       "a@a.example",
		"mailto:a@b.example":       "other@b.example third@b.example",
		"mailto:a@c.example":       "",
		"mailto:a@d.example":       "",
		"mailto:a@nothing.example": "",
		"mailto:a@any.example":     "a@any.example",
		"mailto:a@broken.example":  "error",
		"mailto:a@" + long:         "",
		"https://example.com":      "",
		"mailto:a@example.com mailto:a@EXAMPLE.com! mailto:a@EXAMPLE.com mailto:b@example.com": "a@example.com b@example.com",
	} {
		list, err := r.destinations(t.Context(), "example.com", strings.Fields(rua))
		var got []string
		for _, d := range list {
			got = append(got, d.addr.String())
		}
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, not %q (%v)", rua, got, want, err)
		}
	}
}
