package addr

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in            string
		local, domain string // of what it means
		out           string // how it is written; the same as in if ""
	}{
		{"a@example.com", "a", "example.com", ""},
		{"First.Last+tag@EXAMPLE.com", "First.Last+tag", "example.com", "First.Last+tag@example.com"},
		{"!#$%&'*+-/=?^_`{|}~@x", "!#$%&'*+-/=?^_`{|}~", "x", ""},
		{`"a b"@x.org`, "a b", "x.org", ""},
		{`"a"@x.org`, "a", "x.org", "a@x.org"},
		{`"a\b"@x.org`, "ab", "x.org", "ab@x.org"},
		{`"a\"b\\c"@x.org`, `a"b\c`, "x.org", ""},
		{`"v@other.com> NOTIFY=NEVER "@d.org`, "v@other.com> NOTIFY=NEVER ", "d.org", ""},
		{`".a"@x.org`, ".a", "x.org", ""},
		{`"a..b"@x.org`, "a..b", "x.org", ""},
		{"a@[192.0.2.1]", "a", "[192.0.2.1]", ""},
		{"a@[IPV6:2001:DB8:0::1]", "a", "[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"},
		{"a@BÜCHER.example", "a", "xn--bcher-kva.example", "a@xn--bcher-kva.example"},
		{"a@Xn--Bcher-KVA.example", "a", "xn--bcher-kva.example", "a@xn--bcher-kva.example"},
		{"jürgen@example.com", "jürgen", "example.com", ""},
		{"\"jür gen\"@example.com", "jür gen", "example.com", ""},
		{"a@host_1.example.com", "a", "host_1.example.com", ""},
		{strings.Repeat("l", 248) + "@x.org", strings.Repeat("l", 248), "x.org", ""},
	}
	for _, test := range tests {
		a, err := Parse(test.in)
		if err != nil {
			t.Errorf("%q: %v", test.in, err)
			continue
		}
		if a.Local != test.local || a.Domain != test.domain {
			t.Errorf("%q: got %q at %q", test.in, a.Local, a.Domain)
		}
		out := test.out
		if out == "" {
			out = test.in
		}
		if got := a.String(); got != out {
			t.Errorf("%q is written %q, want %q", test.in, got, out)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	label := strings.Repeat("d", 63)
	for _, in := range []string{
		"", "a", "@", "a@", "@b", "a@b@c", "a b@c", " a@b", "a@b ", "a@b.", "a@.b", "a@b..c", "a@-b", "a@b-", "a@b-.c",
		".a@b", "a.@b", "a..b@c", `"a"b@c`, `a"b"@c`, `"a@b`, `"a\`, `"a"`, `""@b`, "<a@b>", "a@b>", "a(x)@b", "a,b@c", "a;b@c", `a\b@c`,
		"a\r@b", "a\n@b", "\"a\r\nb\"@c", "\"a\x00\"@b", "a\x00@b", "a@b\x00", "a\x7f@b", "\"\\\r\"@b", "a\u0085@b", "\"a\u2028\"@b",
		"a\xff@b", "a@b\xff", "a@\u200db", "a@xn--a", "a@xn--99999999", "a@b\u3002\u3002c", "a@b_ü.c",
		"a@[1.2.3]", "a@[1.2.3.4", "a@[1.2.3.4]x", "a@[::1]", "a@[IPv6:1.2.3.4]", "a@[IPv6:fe80::1%eth0]", "a@[x:y]", "a@[]",
		strings.Repeat("l", 249) + "@x.org", "a@" + label + "d", "a@" + strings.Repeat(label+".", 4),
		"ab@" + label + "." + label + "." + label + "." + strings.Repeat("d", 61),
		"a@" + strings.Repeat("ü", 300),
	} {
		if a, err := Parse(in); err == nil {
			t.Errorf("%q is taken for %q at %q", in, a.Local, a.Domain)
		}
	}
}

func TestPaths(t *testing.T) {
	tests := []struct {
		in               string
		reverse, forward string // what is read and what is left, "" if it is refused
	}{
		{"<a@b.org>", "a@b.org|", "a@b.org|"},
		{"<a@b.org> SIZE=1", "a@b.org| SIZE=1", "a@b.org| SIZE=1"},
		{"<>", "|", ""},
		{"<> X", "| X", ""},
		{"<Postmaster>", "", "Postmaster|"},
		{"<postmaster@b.org>", "postmaster@b.org|", "postmaster@b.org|"},
		{`<"x> y"@b.org> z`, `"x> y"@b.org| z`, `"x> y"@b.org| z`},
		{`<"x\"> y"@b.org>z`, `"x\"> y"@b.org|z`, `"x\"> y"@b.org|z`},
		{"<@a.org,@b.org:c@d.org>", "", ""},
		{"<@a.org:c@d.org>", "", ""},
		{"a@b.org", "", ""},
		{"<a@b.org", "", ""},
		{"< a@b.org>", "", ""},
		{"<a@b.org >", "", ""},
		{"<a>", "", ""},
		{"< >", "", ""},
		{"", "", ""},
		{"<", "", ""},
		{`<"`, "", ""},
		{`<"\`, "", ""},
	}
	show := func(a Address, rest string, err error) string {
		if err != nil {
			return ""
		}
		return a.String() + "|" + rest
	}
	for _, test := range tests {
		if got := show(ParseReversePath(test.in)); got != test.reverse {
			t.Errorf("reverse path %q: got %q, want %q", test.in, got, test.reverse)
		}
		if got := show(ParseForwardPath(test.in)); got != test.forward {
			t.Errorf("forward path %q: got %q, want %q", test.in, got, test.forward)
		}
	}
}

// Source routes are refused by name: their senders should learn why.
func TestSourceRoute(t *testing.T) {
	if _, _, err := ParseForwardPath("<@a.org:c@d.org>"); err == nil || !strings.Contains(err.Error(), "source route") {
		t.Errorf("got %v", err)
	}
}

func TestProperties(t *testing.T) {
	parse := func(s string) Address {
		a, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for in, want := range map[string]bool{"a%b@c": true, "b!a@c": true, `"a@b"@c`: true, "a+b@c": false} {
		if got := parse(in).Reroutes(); got != want {
			t.Errorf("Reroutes of %s is %v", in, got)
		}
	}
	if !(Address{}).IsNull() || parse("a@b").IsNull() || (Address{Local: "postmaster"}).IsNull() {
		t.Error("IsNull is wrong")
	}
	if !parse(`"a"@B`).Equal(parse("a@b")) || parse("A@b").Equal(parse("a@b")) || !parse("POSTMASTER@b").Equal(parse("postmaster@b")) {
		t.Error("Equal is wrong")
	}
	if parse("ü@b").IsASCII() || !parse("a@ü.de").IsASCII() {
		t.Error("IsASCII is wrong")
	}
	if got := parse("a@xn--bcher-kva.example").UnicodeDomain(); got != "bücher.example" {
		t.Errorf("UnicodeDomain gives %s", got)
	}
	if !parse("a@[192.0.2.1]").IsLiteral() || parse("a@b").IsLiteral() {
		t.Error("IsLiteral is wrong")
	}
}

func TestAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = Parse("first.last@mail.example.com") }); n != 0 {
		t.Errorf("an ordinary address costs %v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a@b", `"a\"b"@c.org`, "<a@b> SIZE=1", "<>", "ü@ü.de", "a@[IPv6:::1]", "a%b@c", "<postmaster>", `<"a>"@b>x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(a Address) {
			out := a.String()
			if strings.ContainsAny(out, "\r\n\x00") {
				t.Fatalf("%q is written %q", s, out)
			}
			again, err := Parse(out)
			if err != nil || again != a {
				t.Fatalf("%q is written %q and read back as %#v, %v", s, out, again, err)
			}
			if p, rest, err := ParseForwardPath("<" + out + ">x"); err != nil || p != a || rest != "x" {
				t.Fatalf("%q as a path: %#v, %q, %v", out, p, rest, err)
			}
		}
		if a, err := Parse(s); err == nil {
			check(a)
		}
		if a, rest, err := ParseReversePath(s); err == nil {
			if !strings.HasSuffix(s, rest) {
				t.Fatalf("%q leaves %q", s, rest)
			}
			if !a.IsNull() {
				check(a)
			}
		}
		if a, _, err := ParseForwardPath(s); err == nil && a.Domain != "" {
			check(a)
		}
	})
}
