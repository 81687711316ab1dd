package message

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/mail"
)

func TestDecodeHeader(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain", "plain"},
		{"=?utf-8?Q?Gr=C3=BC=C3=9Fe_aus?= =?utf-8?B?IEvDtmxu?=", "Grüße aus Köln"},
		{"=?ISO-8859-1?q?caf=E9?= and =?iso-8859-1*fr?q?th=E9?=", "café and thé"},
		{"=?utf-8?B?8J+Y?= =?utf-8?B?gA==?=", "😀"}, // a character in two words
		{`"=?utf-8?Q?in quotes, with spaces?="`, `"in quotes, with spaces"`},
		{"=?utf-8?Q?a?=\t\r\n =?utf-8?Q?b?= c", "ab c"},
		{"=?utf-8?Q?a?==?utf-8?Q?b?=", "ab"},
		{"=?nonsense?Q?=41bc?=", "Abc"},
		{"=?gb2312?B?xOO6ww==?=", "你好"},
		{"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"},
		{"=?koi8-r?B?0NLJ18XU?=", "привет"},
		{"gr\xc3\xbc\xc3\x9fe", "grüße"},
		{"gr\xfc\xdfe", "grüße"},
		{"=?iso-8859-1?Q?=93x=94?=", "“x”"},
		{"=?us-ascii?Q?=93x=94?=", "“x”"},
		{"=?cp850?Q?gr=81=E1e?= =?IBM437?Q?gr=81=E1e?=", "grüßegrüße"},
		{"=?ibm1047?B?yIWTk5Y=?=", "Hello"},
		{"=?hz-gb-2312?Q?~{Dc:C~}?=", "你好"},
		{"=?utf-16?B?/v8AaABp?= =?utf-16le?B?aABpAA==?=", "hihi"},
		{"=?iso-2022-kr?Q?=1B$)Chello?=", "$)Chello"},
		{"=?utf-8?Q?bad=FF?=", "bad\uFFFD"},
		{"=?utf-8?X?what?= =?utf-8?Q?open", "=?utf-8?X?what?= =?utf-8?Q?open"},
		{"a\x00b\x1b[31m=?utf-8?Q?=0D=0Ac?=", "ab[31m c"},
		{"=?=?=?utf-8?Q?x?=", "=?=?x"},
		{"=?us-ascii?Q??=", ""},
	}
	for _, test := range tests {
		if got := DecodeHeader(test.in); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

// TestWordsOfLibrary reads what go-message writes.
func TestWordsOfLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		var b strings.Builder
		for range 1 + rng.IntN(60) {
			b.WriteRune([]rune("aZ09 .,_?=<>()\"@:;/äß€你😀\u202e")[rng.IntN(25)])
		}
		want := strings.TrimSpace(b.String())
		if strings.Contains(want, "=?") {
			continue // written as it is
		}
		var h mail.Header
		h.SetSubject(want)
		if got := DecodeHeader(h.Get("Subject")); got != want {
			t.Errorf("%q: got %q, want %q", h.Get("Subject"), got, want)
		}
		h.SetAddressList("From", []*mail.Address{{Name: want, Address: "a@example.com"}})
		if list, err := Addresses(h.Get("From")); err != nil || len(list) != 1 || list[0] != (Address{want, "a", "example.com"}) {
			t.Errorf("%q: got %q, %v, want %q", h.Get("From"), list, err, want)
		}
	}
}

func TestFileNames(t *testing.T) {
	tests := []struct{ in, want string }{
		{`attachment; filename=a.txt`, "a.txt"},
		{`attachment; filename="a; b.txt"; size=3`, "a; b.txt"},
		{`attachment; filename=my file.txt`, "my file.txt"},
		{`attachment; filename="say \"hi\".txt"`, `say "hi".txt`},
		{`attachment; filename="/etc/passwd"`, "passwd"},
		{`attachment; filename="open.txt`, "open.txt"},
		{`attachment; FileName = a.txt (comment)`, "a.txt"},
		{`attachment; filename*=UTF-8''na%C3%AFve.txt`, "naïve.txt"},
		{`attachment; filename*=iso-8859-1'de'gr%FC%DFe.txt; filename="gruesse.txt"`, "grüße.txt|gruesse.txt"},
		{`attachment; filename*0="long"; filename*1="name.txt"`, "longname.txt"},
		{`attachment; filename*1*=%20b.txt; filename*0*=utf-8''a`, "a b.txt"},
		{`attachment; filename*0*=utf-8''%E2%82; filename*1*=%AC.txt`, "€.txt"},
		{`attachment; filename*=a%20b.txt`, "a b.txt"},
		{`attachment; filename="=?utf-8?Q?caf=C3=A9.txt?="`, "café.txt"},
		{`attachment; filename*0="=?utf-8?Q?caf=C3"; filename*1="=A9.txt?="`, "café.txt"},
		{"attachment; filename=\"gr\xfc\xdfe.txt\"", "grüße.txt"},
		{`attachment; filename=a.txt; filename=b.exe`, "a.txt|b.exe"},
		{`attachment; filename*99999999999999999999=x`, ""},
		{`attachment;;; = ; filename`, ""},
	}
	for _, test := range tests {
		p := newPart(Header{{Name: "Content-Disposition", Raw: []byte("Content-Disposition: " + test.in)}}, "text/plain")
		if got := strings.Join(p.Names, "|"); got != test.want || p.Disposition != "attachment" {
			t.Errorf("%s: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestHasAttachments(t *testing.T) {
	const head = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\n"
	tests := []struct {
		in   string
		want bool
	}{
		{"Subject: x\n\ntext", false},
		{"Content-Type: multipart/alternative; boundary=b\n\n--b\n\na\n--b\nContent-Type: text/html\n\nb\n--b--", false},
		{head + "Content-Disposition: attachment\n\nx\n--b--", true},
		{head + "Content-Type: application/octet-stream\n\nx\n--b--", true},
		{head + "Content-Type: text/csv; name=a.csv\n\nx\n--b--", true},
		{head + "Content-Type: message/rfc822\n\nSubject: y\n\nx\n--b--", true},
		{head + "Content-Type: image/png; name=logo.png\nContent-ID: <1@x>\nContent-Disposition: inline\n\nx\n--b--", false},
		{head + "Content-Type: application/pgp-signature; name=signature.asc\n\nx\n--b--", false},
		{"Content-Type: application/pdf\n\nx", true},
		{"Content-Type: multipart/report; boundary=b\n\n--b\n\nx\n--b\nContent-Type: message/delivery-status\n\nx\n--b--", false},
	}
	for _, test := range tests {
		if got, err := HasAttachments(section(crlf(test.in)), Limits{}); err != nil || got != test.want {
			t.Errorf("%q: %v, %v", test.in, got, err)
		}
	}
}

func TestFrom(t *testing.T) {
	tests := []struct{ in, want string }{
		{"From: a@example.com", "||a|example.com"},
		{"From: <a@example.com>", "||a|example.com"},
		{"From: Ann Example <a@example.com>", "|Ann Example|a|example.com"},
		{"From: John Q. Public <a@example.com>", "|John Q. Public|a|example.com"},
		{`From: "a@bank.example" <x@evil.example>`, "|a@bank.example|x|evil.example"},
		{"From: =?utf-8?q?J=C3=B6rg?= <a@example.com> (comment (nested))", "|Jörg|a|example.com"},
		{"From: a@example.com (Ann)", "||a|example.com"},
		{`From: "a b"@example.com`, "||a b|example.com"},
		{"From: a@example.com, Bob <b@example.org>", "||a|example.com|Bob|b|example.org"},
		{"From: a@[192.0.2.1]", "||a|[192.0.2.1]"},
		{"From: jörg@bücher.example", "||jörg|bücher.example"},
		{"From: Example [Support] <a@example.com>", "|Example [Support]|a|example.com"},
		{"From: Example, Inc. <a@example.com>", "|Example, Inc.|a|example.com"},
		{"From: Re: you <a@example.com>", "|Re: you|a|example.com"},
		{"From : a@example.com", "||a|example.com"},
		{"From: a@example.com\r\n (x)", "||a|example.com"},

		{"To: x", "the message has no From"},
		{"From:", "the message has no From"},
		{"From: a@b.example\r\nfrom: c@d.example", "the message has more than one From field"},
		{"From: nobody", "cannot"},
		{"From: a@b.example <c@d.example>", "cannot"},
		{"From: a@b.example c@d.example", "cannot"},
		{"From: a@b.example> <c@d.example>", "cannot"},
		{"From: <a@b.example> <c@d.example>", "cannot"},
		{"From: <@x.example:a@b.example>", "cannot"},
		{"From: group: a@b.example;", "cannot"},
		{"From: <a@b.example", "cannot"},
		{"From: a@b.example,", "cannot"},
		{"From: a@b .example", "cannot"},
		{"From: a@(x)b.example", "cannot"},
		{"From: a@b..example", "cannot"},
		{"From: .a@b.example", "cannot"},
		{"From: a@b@c.example", "cannot"},
		{"From: \"a\" \"b\"@c.example", "cannot"},
		{"From: \"a@b.example", "cannot"},
		{"From: (a@b.example", "cannot"},
		{"From: a@b.example\x00", "cannot"},
		{"From: a\xff@b.example", "cannot"},
		{"From: x <a@b.example\x00.evil.example>", "cannot"},
		{"From: a@b.example;c@d.example", "cannot"},
		{"From: a@[1.2.3.4]evil.example", "cannot"},
	}
	for _, test := range tests {
		h, _, err := ReadHeader(bufio.NewReader(strings.NewReader(test.in+"\r\n\r\n")), 4096)
		if err != nil {
			t.Fatal(err)
		}
		list, err := From(h)
		got := ""
		for _, a := range list {
			got += fmt.Sprintf("|%s|%s|%s", a.Name, a.Local, a.Domain)
		}
		if err != nil {
			got = err.Error()
			if !errors.Is(err, ErrNoFrom) && !errors.Is(err, ErrManyFrom) && !errors.Is(err, ErrAddress) {
				t.Errorf("%q: %v is of no known type", test.in, err)
			}
		}
		if got != test.want && (test.want != "cannot" || !errors.Is(err, ErrAddress)) {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add("=?utf-8?Q?a=C3=A9?= =?gb2312?B?xOO6ww==?= x")
	f.Fuzz(func(t *testing.T, s string) {
		got := DecodeHeader(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%q", got)
		}
		if len(got) > 6*len(s)+3 {
			t.Errorf("%d bytes of %d", len(got), len(s))
		}
	})
}

func FuzzParams(f *testing.F) {
	f.Add(`attachment; filename*0*=utf-8''%E2%82; filename*1*=%AC.txt; x="y\"z"`)
	f.Fuzz(func(t *testing.T, s string) {
		_, params, _ := parseValue(s)
		for name, value := range params {
			if name != "boundary" && !utf8.ValidString(value) || len(value) > 6*len(s)+3 {
				t.Errorf("%q=%q", name, value)
			}
		}
		p := &Part{}
		p.addNames(s, "filename")
		for _, name := range p.Names {
			if strings.ContainsAny(name, "/\\\r\n\x00") {
				t.Errorf("%q", name)
			}
		}
	})
}

func FuzzAddresses(f *testing.F) {
	f.Add(`"Ann" <a@example.com>, "b c"@[192.0.2.1] (x)`)
	f.Add("Smith, Inc. <a@b>")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := Addresses(s)
		if err != nil {
			return
		}
		if len(list) == 0 {
			t.Fatal("nothing, and no error")
		}
		// Another program reads the same, or nothing.
		if theirs, err := mail.ParseAddressList(s); err == nil {
			if len(theirs) != len(list) {
				t.Fatalf("go-message reads %d addresses: %q", len(theirs), s)
			}
			for i, a := range list {
				if theirs[i].Address != a.Local+"@"+a.Domain {
					t.Errorf("%q is %q for go-message", a, theirs[i].Address)
				}
			}
		}
		for _, a := range list {
			if !strings.Contains(s, "@"+a.Domain) || !utf8.ValidString(a.Domain) || strings.ContainsAny(a.Domain, " <>,@\"\x00") || a.Domain == "" {
				t.Errorf("domain %q", a.Domain)
			}
			// What an address alone is read as does not depend on what is around it.
			if !strings.ContainsAny(a.Local, "\"\\ \t") {
				if again, err := Addresses("<" + a.Local + "@" + a.Domain + ">"); err == nil && (again[0].Domain != a.Domain || again[0].Local != a.Local) {
					t.Errorf("%q is read as %q", a, again)
				}
			}
		}
	})
}
