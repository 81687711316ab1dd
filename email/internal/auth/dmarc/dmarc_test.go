package dmarc

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

func from(values ...string) message.Header {
	var h message.Header
	for _, v := range values {
		h = append(h, message.Field{Name: "From", Raw: []byte("From: " + v + "\r\n")})
	}
	return h
}

func TestCheck(t *testing.T) {
	zone := dnstest.Zone{
		// Appendix B.1 and B.4 of RFC 9989.
		"_dmarc.example.com":                {"TXT v=DMARC1; p=reject; aspf=r; rua=mailto:dmarc-feedback@example.com"},
		"_dmarc.signing.example.com":        {"TXT v=DMARC1; p=none"},
		"_dmarc.bank.example":               {"TXT v=DMARC1; p=reject; sp=quarantine; psd=y"},
		"_dmarc.giant.bank.example":         {"TXT v=DMARC1; p=reject"},
		"_dmarc.strict.example":             {"TXT v=DMARC1; p=quarantine; adkim=s; aspf=s"},
		"_dmarc.test.example":               {"TXT v=DMARC1; p=reject; sp=quarantine; np=none; t=y"},
		"mail.test.example":                 {"A 192.0.2.1"},
		"_dmarc.np.example":                 {"TXT v=DMARC1; p=none; sp=quarantine; np=reject"},
		"mx.np.example":                     {"MX 10 mail.example.com"},
		"a.np.example":                      {"AAAA 2001:db8::1"},
		"txt.np.example":                    {"TXT hello"},
		"down.np.example":                   {"SERVFAIL"},
		"_dmarc.own.example":                {"TXT v=DMARC1; p=none; psd=n"},
		"_dmarc.unit.own.example":           {"TXT v=DMARC1; p=reject; psd=n"},
		"_dmarc.twice.example":              {"TXT v=DMARC1; p=reject", "TXT v=DMARC1; p=none"},
		"_dmarc.other.example":              {"TXT v=spf1 -all", "TXT v=DMARC1; p=reject"},
		"_dmarc.nop.example":                {"TXT v=DMARC1; rua=mailto:x@nop.example"},
		"_dmarc.noprua.example":             {"TXT v=DMARC1; adkim=s"},
		"_dmarc.badsp.example":              {"TXT v=DMARC1; p=reject; sp=what; rua=mailto:x@badsp.example"},
		"_dmarc.down.example":               {"SERVFAIL"},
		"_dmarc.mild.down.example":          {"TXT v=DMARC1; p=reject; t=y"},
		"_dmarc.lax.down.example":           {"TXT v=DMARC1; p=none"},
		"_dmarc.half.example":               {"TXT v=DMARC1; p=reject"},
		"_dmarc.a.half.example":             {"SERVFAIL"},
		"_dmarc.down.test.example":          {"SERVFAIL"},
		"_dmarc.xn--bcher-kva.example":      {"TXT v=DMARC1; p=reject"},
		"_dmarc.mail.xn--bcher-kva.example": {"TXT v=DMARC1; p=none"},
	}
	server := dnstest.New(t, zone)
	r := server.Resolver()
	tests := []struct {
		name    string
		from    string
		ids     Identifiers
		code    Code
		policy  Policy // what is to be done
		request Policy
		org     string
		at      string // where the policy is
	}{
		{"B.1.1 SPF strict", "sender@example.com", Identifiers{SPF: "example.com"}, Pass, None, Reject, "example.com", "example.com"},
		{"B.1.1 SPF relaxed", "sender@example.com", Identifiers{SPF: "child.example.com"}, Pass, None, Reject, "example.com", "example.com"},
		{"B.1.1 SPF not aligned", "sender@child.example.com", Identifiers{SPF: "example.net"}, Fail, Reject, Reject, "example.com", "example.com"},
		{"B.1.2 DKIM strict", "sender@example.com", Identifiers{DKIM: []string{"example.com"}}, Pass, None, Reject, "example.com", "example.com"},
		{"B.1.2 DKIM relaxed", "sender@child.example.com", Identifiers{DKIM: []string{"example.com"}}, Pass, None, Reject, "example.com", "example.com"},
		{"B.1.2 DKIM not aligned", "sender@child.example.com", Identifiers{DKIM: []string{"example.net"}}, Fail, Reject, Reject, "example.com", "example.com"},
		{"B.4.1 simple", "a@example.com", Identifiers{DKIM: []string{"signing.example.com"}}, Pass, None, Reject, "example.com", "example.com"},
		{"B.4.2 deep", "a@a.b.c.d.e.f.g.h.i.j.k.example.com", Identifiers{SPF: "example.com", DKIM: []string{"signing.example.com"}}, Pass, None, Reject, "example.com", "example.com"},
		{"B.4.3 public suffix, SPF", "a@giant.bank.example", Identifiers{SPF: "mail.giant.bank.example", DKIM: []string{"mail.mega.bank.example"}}, Pass, None, Reject, "giant.bank.example", "giant.bank.example"},
		{"B.4.3 public suffix, DKIM", "a@giant.bank.example", Identifiers{DKIM: []string{"mail.mega.bank.example"}}, Fail, Reject, Reject, "giant.bank.example", "giant.bank.example"},
		{"public suffix's policy", "a@mega.bank.example", Identifiers{}, Fail, Quarantine, Quarantine, "mega.bank.example", "bank.example"},
		{"public suffix itself", "a@bank.example", Identifiers{SPF: "mega.bank.example"}, Fail, Reject, Reject, "bank.example", "bank.example"},
		{"its own policy comes first", "a@signing.example.com", Identifiers{}, Fail, None, None, "example.com", "signing.example.com"},
		{"nothing", "a@example.com", Identifiers{}, Fail, Reject, Reject, "example.com", "example.com"},
		{"several signatures", "a@example.com", Identifiers{DKIM: []string{"example.org", "x.example.com"}}, Pass, None, Reject, "example.com", "example.com"},
		{"looks alike", "a@example.com", Identifiers{SPF: "badexample.com"}, Fail, Reject, Reject, "example.com", "example.com"},
		{"strict", "a@strict.example", Identifiers{SPF: "strict.example"}, Pass, None, Quarantine, "strict.example", "strict.example"},
		{"strict, below", "a@strict.example", Identifiers{SPF: "m.strict.example", DKIM: []string{"m.strict.example"}}, Fail, Quarantine, Quarantine, "strict.example", "strict.example"},
		{"testing", "a@test.example", Identifiers{}, Fail, Quarantine, Reject, "test.example", "test.example"},
		{"testing, subdomain", "a@mail.test.example", Identifiers{}, Fail, None, Quarantine, "test.example", "test.example"},
		{"np", "a@gone.np.example", Identifiers{}, Fail, Reject, Reject, "np.example", "np.example"},
		{"sp, there is MX", "a@mx.np.example", Identifiers{}, Fail, Quarantine, Quarantine, "np.example", "np.example"},
		{"sp, there is AAAA", "a@a.np.example", Identifiers{}, Fail, Quarantine, Quarantine, "np.example", "np.example"},
		{"sp, there is TXT", "a@txt.np.example", Identifiers{}, Fail, Quarantine, Quarantine, "np.example", "np.example"},
		{"np, DNS is down", "a@down.np.example", Identifiers{}, TempError, Reject, "", "np.example", "np.example"},
		{"psd=n", "a@unit.own.example", Identifiers{SPF: "own.example"}, Fail, Reject, Reject, "unit.own.example", "unit.own.example"},
		{"psd=n, below", "a@x.unit.own.example", Identifiers{SPF: "y.unit.own.example"}, Pass, None, Reject, "unit.own.example", "unit.own.example"},
		{"psd=n, from above", "a@own.example", Identifiers{SPF: "unit.own.example"}, Fail, None, None, "own.example", "own.example"},
		{"no record", "a@none.example", Identifiers{SPF: "none.example"}, NoPolicy, None, "", "none.example", ""},
		{"two records", "a@twice.example", Identifiers{}, NoPolicy, None, "", "twice.example", ""},
		{"other records", "a@other.example", Identifiers{}, Fail, Reject, Reject, "other.example", "other.example"},
		{"no p", "a@nop.example", Identifiers{}, Fail, None, None, "nop.example", "nop.example"},
		{"no p and no rua", "a@noprua.example", Identifiers{}, NoPolicy, None, "", "noprua.example", ""},
		{"bad sp", "a@badsp.example", Identifiers{}, Fail, None, None, "badsp.example", "badsp.example"},
		{"DNS is down", "a@down.example", Identifiers{SPF: "down.example"}, TempError, None, "", "", ""},
		{"DNS is down, by DKIM", "a@down.example", Identifiers{SPF: "example.org", DKIM: []string{"example.net", "down.example"}}, TempError, None, "", "", ""},
		{"DNS is down and nobody vouches", "a@down.example", Identifiers{}, TempError, Reject, "", "", ""},
		{"DNS is down and others vouch", "a@down.example", Identifiers{SPF: "example.com", DKIM: []string{"x.down.example"}}, TempError, Reject, "", "", ""},
		{"DNS is down above a policy", "a@mild.down.example", Identifiers{}, TempError, Quarantine, "", "", ""},
		{"DNS is down above none", "a@lax.down.example", Identifiers{}, TempError, None, "", "", ""},
		{"DNS is down for an identifier", "a@half.example", Identifiers{SPF: "a.half.example"}, TempError, Reject, Reject, "half.example", "half.example"},
		{"DNS is down for one that does not matter", "a@mail.test.example", Identifiers{SPF: "down.test.example"}, TempError, None, Quarantine, "test.example", "test.example"},
		{"DNS is down for one of two", "a@half.example", Identifiers{SPF: "a.half.example", DKIM: []string{"half.example"}}, Pass, None, Reject, "half.example", "half.example"},
		{"U-label", "a@B\u00dcCHER.example", Identifiers{DKIM: []string{"xn--bcher-kva.example"}}, Pass, None, Reject, "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"case and dot", "a@EXAMPLE.com.", Identifiers{SPF: "example.com"}, Pass, None, Reject, "example.com", "example.com"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Check(t.Context(), r, from(test.from), test.ids)
			if got.Code != test.code || got.Policy != test.policy || got.Requested != test.request || got.Organization != test.org || got.PolicyDomain != test.at {
				t.Errorf("%+v", got)
			}
			if (got.Err != nil) != (got.Code == TempError) {
				t.Errorf("error %v", got.Err)
			}
		})
	}
}

// TestQueries is the example of RFC 9989 section 4.10, and that domains outside
// of the author's organization are not asked about.
func TestQueries(t *testing.T) {
	server := dnstest.New(t, dnstest.Zone{"_dmarc.example.com": {"TXT v=DMARC1; p=none"}})
	check := func(author string, ids Identifiers, want ...string) {
		t.Helper()
		Check(t.Context(), server.Resolver(), from("x@"+author), ids)
		asked := server.Asked()
		if got := slices.Sorted(maps.Keys(asked)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("asked for %q, want %q", got, want)
		}
		for name, n := range asked {
			if n != 1 {
				t.Errorf("%s was asked for %d times", name, n)
			}
		}
	}
	check("a.b.c.d.e.f.g.h.i.j.mail.example.com", Identifiers{},
		"_dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com", "_dmarc.g.h.i.j.mail.example.com", "_dmarc.h.i.j.mail.example.com",
		"_dmarc.i.j.mail.example.com", "_dmarc.j.mail.example.com", "_dmarc.mail.example.com", "_dmarc.example.com", "_dmarc.com")
	check("a.b.c.d.e.f.example.com", Identifiers{},
		"_dmarc.a.b.c.d.e.f.example.com", "_dmarc.b.c.d.e.f.example.com", "_dmarc.c.d.e.f.example.com", "_dmarc.d.e.f.example.com",
		"_dmarc.e.f.example.com", "_dmarc.f.example.com", "_dmarc.example.com", "_dmarc.com")
	check("example.com", Identifiers{SPF: "x.y.example.org", DKIM: []string{"example.net", "a.example.com", "b.example.com"}},
		"_dmarc.example.com", "_dmarc.com", "_dmarc.a.example.com")
	server.Set("_dmarc.unit.example.com", "TXT v=DMARC1; p=none; psd=n")
	check("x.unit.example.com", Identifiers{}, "_dmarc.x.unit.example.com", "_dmarc.unit.example.com")
}

func TestAuthor(t *testing.T) {
	tests := []struct {
		from string
		want string
		err  error
	}{
		{"a@example.com", "example.com", nil},
		{"<a@example.com>", "example.com", nil},
		{"Joe <a@Example.COM>", "example.com", nil},
		{"\"bank@bank.example\" <a@example.com>", "example.com", nil},
		{"\"bank@bank.example, b@bank.example\\\" <x@bank.example>\" <a@example.com>", "example.com", nil},
		{"bank@bank.example <a@example.com>", "example.com", nil},
		{"(bank@bank.example (nested) <b@bank.example>) a@example.com (Joe)", "example.com", nil},
		{"Joe, Inc. <a@example.com>", "example.com", nil},
		{"a@example.com, b@example.com", "example.com", nil},
		{"group: a@example.com, <b@EXAMPLE.com>;", "example.com", nil},
		{"\"a@b\"@example.com", "example.com", nil},
		{"<@relay.example,@x.example:a@example.com>", "example.com", nil},
		{"=?utf-8?q?=3Cb=40bank.example=3E?= <a@example.com>", "example.com", nil},
		{"a@xn--bcher-kva.example", "xn--bcher-kva.example", nil},
		{"a@b\u00fccher.example, b@XN--BCHER-KVA.example", "xn--bcher-kva.example", nil},
		{"b@bank.example, a@example.com", "", ErrSeveralAuthors},
		{"b@bank.example, <a@example.com>", "", ErrSeveralAuthors},
		{"<b@bank.example> <a@example.com>", "", ErrSeveralAuthors},
		{"Joe <b@bank.example>, a@example.com", "", ErrSeveralAuthors},
		{"x: b@bank.example; a@example.com", "", ErrSeveralAuthors},
		{"<b@bank.example <a@example.com>", "", ErrSeveralAuthors},
		{"<b@bank.example,a@example.com>", "", ErrSeveralAuthors},
		{"<b@bank.example:a@example.com>", "", ErrSeveralAuthors},
		{"<@b@bank.example:a@example.com>", "", ErrSeveralAuthors},
		{"<b,@bank.example:a@example.com>", "", ErrSeveralAuthors},
		{"b@bank.example: a@example.com;", "", ErrSeveralAuthors},
		{"b@bank.example:;, <a@example.com>", "", ErrSeveralAuthors},
		{"x: <b@bank.example>: a@example.com;", "", ErrSeveralAuthors},
		{"<a@example.com> b@bank.example", "", ErrSeveralAuthors},
		{"<a@example.com> b@bank.example <a@example.com>", "", ErrSeveralAuthors},
		{"b@bank.example a@example.com", "", ErrSeveralAuthors},
		{"b@bank.example@example.com", "", ErrSeveralAuthors},
		{"a@example.com, \"b@bank.example", "", ErrSeveralAuthors},
		{"a@example.com (, b@bank.example", "", ErrSeveralAuthors},
		{"a@example.com (, b@bank.example>", "", ErrNoAuthor},
		{"a@example.com (Joe", "example.com", nil},
		{"\"b@bank.example\": a@example.com;", "example.com", nil},
		{"a@example.com: b@example.com;", "example.com", nil},
		{"<a@example.com> Joe", "example.com", nil},
		{"Joe <a@example.com> (b@bank.example)", "example.com", nil},
		{"<@relay.example , , @x.example : a@example.com>", "example.com", nil},
		{"", "", ErrNoAuthor},
		{"Joe", "", ErrNoAuthor},
		{"<>", "", ErrNoAuthor},
		{"Joe <joe>", "", ErrNoAuthor},
		{"undisclosed:;", "", ErrNoAuthor},
		{"a@[192.0.2.1]", "", ErrNoAuthor},
		{"a@ex ample.com", "", ErrNoAuthor},
		{"a@bank.example nonsense", "", ErrNoAuthor},
		{"a@-\u200b.example\x00", "", ErrNoAuthor},
		{"a@" + strings.Repeat("a.", 200) + "example", "", ErrNoAuthor},
		{"<a@example.com", "example.com", nil},
		{"\"never closed <a@example.com>", "", ErrNoAuthor},
	}
	for _, test := range tests {
		got, err := Author(from(test.from))
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%q: %q, %v; want %q, %v", test.from, got, err, test.want, test.err)
		}
	}
	if _, err := Author(nil); !errors.Is(err, ErrNoAuthor) {
		t.Error(err)
	}
	two := Check(t.Context(), nil, from("a@example.com", "a@example.com"), Identifiers{SPF: "example.com"})
	if two.Code != PermError || two.Policy != Reject || !errors.Is(two.Err, ErrSeveralAuthors) {
		t.Errorf("%+v", two)
	}
}

func TestParseRecord(t *testing.T) {
	reject := Record{Policy: Reject, PSD: "u"}
	tests := []struct {
		txt  string
		want Record
		ok   bool
	}{
		{"v=DMARC1; p=reject", reject, true},
		{"v=DMARC1;p=REJECT;", reject, true},
		{" v = DMARC1 ; p = reject ; unknown=1;; what; p=none", reject, true},
		{"v=DMARC1; pct=0; p=reject; adkim=x; aspf=; t=maybe; psd=x", reject, true},
		{
			"v=DMARC1; p=none; sp=quarantine; np=reject; adkim=s; aspf=S; t=y; psd=y; rua=mailto:a@x.example!10m , https://x.example/ ,junk",
			Record{None, Quarantine, Reject, true, true, true, "y", []string{"mailto:a@x.example!10m", "https://x.example/"}, false}, true,
		},
		{"v=DMARC1; sp=reject", Record{Policy: None, PSD: "u", invalid: true}, true},
		{"v=DMARC1; p=reject; np=never", Record{Policy: None, PSD: "u", invalid: true}, true},
		{"v=DMARC1", Record{Policy: None, PSD: "u", invalid: true}, true},
		{"v=dmarc1; p=reject", Record{}, false},
		{"V=DMARC1; p=reject", Record{}, false},
		{"v=DMARC12; p=reject", Record{}, false},
		{"p=reject; v=DMARC1", Record{}, false},
		{"", Record{}, false},
	}
	for _, test := range tests {
		if got, ok := ParseRecord(test.txt); ok != test.ok || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: %+v, %v", test.txt, got, ok)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("v=DMARC1; p=none; sp=quarantine; np=reject; adkim=s; aspf=S; t=y; psd=y; rua=mailto:a@x.example!10m")
	f.Fuzz(func(t *testing.T, txt string) {
		r, ok := ParseRecord(txt)
		if ok != (r.Policy != "") || ok && r.PSD == "" {
			t.Errorf("%+v, %v", r, ok)
		}
	})
}

func FuzzAuthor(f *testing.F) {
	f.Add("\"b@bank.example\" (x <y@z>) <@r,@s:a@example.com>, group: a@example.com;")
	f.Fuzz(func(t *testing.T, value string) {
		if domain, err := Author(from(value)); (err == nil) != (domain != "") {
			t.Errorf("%q, %v", domain, err)
		}
	})
}
