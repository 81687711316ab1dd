package authres

import (
	"bufio"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

func header(t testing.TB, text string) message.Header {
	t.Helper()
	h, _, err := message.ReadHeader(bufio.NewReader(strings.NewReader(text)), 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestValue(t *testing.T) {
	got := string(Value("mx.example.com", []Result{
		{Method: "spf", Value: "pass", Props: []Prop{{"smtp.mailfrom", "joe@example.com"}, {"smtp.helo", ""}}},
		{Method: "dkim", Value: "fail", Reason: "a \"b\"\r\nX: y \\ \u00fc", Props: []Prop{{"header.d", "example.com"}, {"header.b", "Ab/+9=="}}},
	}))
	want := "mx.example.com;\r\n\tspf=pass smtp.mailfrom=joe@example.com;\r\n" +
		"\tdkim=fail reason=\"a \\\"b\\\"??X: y \\\\ ??\" header.d=example.com\r\n\t header.b=\"Ab/+9==\""
	if got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	if got := string(Value("mx.example.com", nil)); got != "mx.example.com; none" {
		t.Errorf("%q", got)
	}
	if got := string(Value("b\u00fccher.example", nil)); got != `"b??cher.example"; none` {
		t.Errorf("%q", got)
	}
	long := string(Value("mx.example.com", []Result{{Method: "dkim", Value: "fail", Reason: strings.Repeat("x", 5000)}}))
	for line := range strings.SplitSeq(long, "\r\n") {
		if len(line) > 400 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func TestForged(t *testing.T) {
	ours := []string{
		"Authentication-Results: mx.example.com; spf=pass\r\n",
		"authentication-results:MX.Example.COM.;dkim=pass\r\n",
		"Authentication-Results : mx.example.com 1; none\r\n",
		"Authentication-Results:\r\n\t(a (nested \\) comment)) mx.example.com\r\n (x)\r\n 1 (y) ; spf=pass\r\n",
		"Authentication-Results: \"mx.example.com\"; spf=pass\r\n",
		"Authentication-Results: \"mx\\.example.com\" 1; spf=pass\r\n",
		"Authentication-Results: mx.example.com\r\n",
		// Whose these are cannot be said.
		"Authentication-Results: (never closed mx.example.com; spf=pass\r\n",
		"Authentication-Results: \"mx.example.com; spf=pass\r\n",
		"Authentication-Results: ; spf=pass\r\n",
		"Authentication-Results:\r\n",
		"Authentication-Results: mx.example.org mx.example.com; spf=pass\r\n",
		"Authentication-Results: mx.example.com=1; spf=pass\r\n",
	}
	theirs := []string{
		"Authentication-Results: mx.example.org; spf=pass\r\n",
		"Authentication-Results: smx.example.com; spf=pass (mx.example.com)\r\n",
		"Authentication-Results: (mx.example.com) example.org 1; spf=pass\r\n",
		"ARC-Authentication-Results: i=1; mx.example.com; spf=pass\r\n",
		"X-Authentication-Results: mx.example.com; spf=pass\r\n",
		"From: joe@example.com\r\n",
	}
	text := ""
	var want []Range
	for i := range max(len(ours), len(theirs)) {
		if i < len(theirs) {
			text += theirs[i]
		}
		if i < len(ours) {
			want = append(want, Range{int64(len(text)), int64(len(text) + len(ours[i]))})
			text += ours[i]
		}
	}
	got := Forged(header(t, text+"\r\n"), "mx.EXAMPLE.com")
	for i, r := range want {
		if i >= len(got) || got[i] != r {
			t.Fatalf("%q was not found: %v", text[r.Start:r.End], got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	idn := header(t, "Authentication-Results: b\u00fccher.example; spf=pass\r\nAuthentication-Results: xn--bcher-kva.example; spf=pass\r\n\r\n")
	if got := Forged(idn, "xn--bcher-kva.example"); len(got) != 2 {
		t.Errorf("U-label: %v", got)
	}
}

func FuzzServerID(f *testing.F) {
	f.Add("(a (b)) \"mx.example\\.com\" (c) 1 ; spf=pass")
	f.Add("mx.example.com; none")
	f.Fuzz(func(t *testing.T, value string) {
		field := message.Field{Name: "Authentication-Results", Raw: []byte("Authentication-Results:" + value)}
		if id, ok := ServerID(field); ok && id == "" {
			t.Errorf("%q has no id", value)
		}
		// What we write is found again.
		name := strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return 'x'
			}
			return r
		}, value)
		ours := message.Field{Name: "Authentication-Results", Raw: append([]byte("Authentication-Results: "), Value(name, nil)...)}
		if id, ok := ServerID(ours); name != "" && len(name) < maxQuoted && (!ok || id != name) {
			t.Errorf("%q: %q, %v", ours.Raw, id, ok)
		}
	})
}
