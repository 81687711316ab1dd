package tlspolicy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestSTSRecord(t *testing.T) {
	for _, c := range []struct {
		txts []string
		id   string
		err  string
	}{
		{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z", ""},
		{[]string{"v=STSv1;id=1"}, "1", ""},
		{[]string{"v=STSv1 ; id=1 ; other=x y; "}, "1", ""},
		{[]string{"v=STSv1; ext=1; id=a; id=b"}, "a", ""},
		{[]string{"v=spf1 -all", "v=STSv1; id=1", "something"}, "1", ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 32)}, strings.Repeat("a", 32), ""},
		{nil, "", "no MTA-STS record"},
		{[]string{"v=STSv2; id=1"}, "", "no MTA-STS record"},
		{[]string{"V=STSV1; id=1"}, "", "no MTA-STS record"},
		{[]string{"v=STSv11; id=1"}, "", "no MTA-STS record"},
		{[]string{"v=STSv1; id=1", "v=STSv1; id=2"}, "", "2 MTA-STS records"},
		{[]string{"v=STSv1"}, "", "no id"},
		{[]string{"v=STSv1;"}, "", "is none"},
		{[]string{"v=STSv1; id="}, "", "letters and digits"},
		{[]string{"v=STSv1; id=a-b"}, "", "letters and digits"},
		{[]string{"v=STSv1; id=ä"}, "", "letters and digits"},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, "", "letters and digits"},
		{[]string{"v=STSv1; id=1; nonsense"}, "", "is none"},
		{[]string{"v=STSv1; ; id=1"}, "", "is none"},
		{[]string{"v=STSv1; -x=1; id=1"}, "", "is none"},
	} {
		id, err := stsRecord(c.txts)
		if id != c.id || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v", c.txts, id, err)
		}
	}
}

func TestParseSTS(t *testing.T) {
	const good = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\nmax_age: 604800\n"
	for _, c := range []struct{ text, want string }{
		{good, "enforce [mail.example.com *.example.net backupmx.example.com] 168h0m0s"},
		{strings.ReplaceAll(good, "\n", "\r\n"), "enforce [mail.example.com *.example.net backupmx.example.com] 168h0m0s"},
		{"max_age:1\nmx:\tA.Example\nmode:testing  \n\nversion:STSv1", "testing [a.example] 1s"},
		{"version: STSv1\nmode: none\nmax_age: 0\n", "none [] 0s"},
		{"version: STSv1\nmode: none\nmax_age: 9999999999\n", "none [] 8766h0m0s"},
		{"version: STSv1\nmode: none\nmode: enforce\nmax_age: 1\nmax_age: x\nnew_field.x: a: b\n", "none [] 1s"},
		{"version: STSv1\nmode: enforce\nmx: xn--bcher-kva.example\nmax_age: 1", "enforce [xn--bcher-kva.example] 1s"},
		{"", "version"},
		{strings.Replace(good, "STSv1", "STSv2", 1), "version"},
		{strings.Replace(good, "STSv1", "stsv1", 1), "version"},
		{strings.Replace(good, "enforce", "Enforce", 1), "mode"},
		{"version: STSv1\nmode: enforce\nmax_age: 1\n", "no mx"},
		{"version: STSv1\nmode: testing\nmax_age: 1\n", "no mx"},
		{"version: STSv1\nmode: enforce\nmx: a.example\n", "no max_age"},
		{strings.Replace(good, "604800", "", 1), "max_age"},
		{strings.Replace(good, "604800", "-1", 1), "max_age"},
		{strings.Replace(good, "604800", "+1", 1), "max_age"},
		{strings.Replace(good, "604800", "1d", 1), "max_age"},
		{strings.Replace(good, "604800", "12345678901", 1), "max_age"},
		{strings.Replace(good, "*.example.net", "*", 1), "mx"},
		{strings.Replace(good, "*.example.net", "a.*.example.net", 1), "mx"},
		{strings.Replace(good, "*.example.net", "*.*.example.net", 1), "mx"},
		{strings.Replace(good, "*.example.net", "*example.net", 1), "mx"},
		{strings.Replace(good, "*.example.net", ".example.net", 1), "mx"},
		{strings.Replace(good, "*.example.net", "example.net.", 1), "mx"},
		{strings.Replace(good, "*.example.net", "bücher.example", 1), "mx"},
		{strings.Replace(good, "*.example.net", "a b", 1), "mx"},
		{strings.Replace(good, "*.example.net", "", 1), "mx"},
		{strings.Replace(good, "mode:", "mode", 1), "no field"},
		{strings.Replace(good, "mode:", " mode:", 1), "no field"},
		{strings.Replace(good, "mode:", "mode :", 1), "no field"},
		{good + "x: a\x00b\n", "control"},
		{good + "x: a\rmode: none\n", "control"},
		{"<html>\n" + good, "no field"},
		{"version: STSv1\nmode: enforce\nmax_age: 1\n" + strings.Repeat("mx: a.example\n", maxSTSHosts+1), "more than"},
	} {
		p, err := parseSTS(c.text)
		got := ""
		if err == nil {
			got = fmt.Sprint(p.Mode, " ", p.MX, " ", p.MaxAge)
		}
		if err == nil && got != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200q: %s, %v, want %s", c.text, got, err, c.want)
		}
	}
}

func TestSTSAllows(t *testing.T) {
	p := &stsPolicy{MX: []string{"mail.example.com", "*.example.net"}}
	for host, want := range map[string]bool{
		"mail.example.com": true, "a.example.net": true,
		"example.net": false, "a.b.example.net": false, "a.mail.example.com": false, "example.com": false, "": false, ".example.net": true, "xexample.net": false,
	} {
		if p.allows(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
	if lines := (&stsPolicy{Mode: stsTesting, MX: []string{"*.a.example"}, MaxAge: time.Hour}).lines(); fmt.Sprintf("%q", lines) != `["version: STSv1" "mode: testing" "mx: *.a.example" "max_age: 3600"]` {
		t.Errorf("%q", lines)
	}
}

func TestRules(t *testing.T) {
	r, err := compile([]Rule{
		{"Example.com", RuleStartTLS}, {".example.com", RuleDANE}, {".deep.example.com", RuleNone},
		{"*", RuleOpportunistic}, {"bücher.example", RuleNone},
	})
	if err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[string]RuleMode{
		"example.com": RuleStartTLS, "a.example.com": RuleDANE, "b.a.example.com": RuleDANE, "deep.example.com": RuleDANE,
		"a.deep.example.com": RuleNone, "xexample.com": RuleOpportunistic, "com": RuleOpportunistic, "[192.0.2.1]": RuleOpportunistic,
		"xn--bcher-kva.example": RuleNone,
	} {
		if got := r.find(domain); got != want {
			t.Errorf("%s: %q", domain, got)
		}
	}
	if got := (rules{}).find("a.example"); got != "" {
		t.Error(got)
	}
	err = CheckRules([]Rule{{"a.example", "starttls"}, {"", "none"}, {"A.example.", "none"}, {"b.example", "tls"}, {"*.example", "none"}})
	want := `rules[1].domain: "" is no domain name
rules[2].domain: there is another rule for "A.example."
rules[3].mode: "tls" is not one of none, opportunistic, starttls, dane
rules[4].domain: "*.example" is no domain name`
	if err == nil || err.Error() != want {
		t.Error(err)
	}
}

func FuzzParseSTS(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmx: *.example.net\nmax_age: 604800\n")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 0\r\nnew: x\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseSTS(text)
		if err != nil {
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Errorf("%q", err)
			}
			return
		}
		again, err := parseSTS(strings.Join(p.lines(), "\n"))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(p) {
			t.Errorf("%+v, %+v, %v", p, again, err)
		}
		p.allows("mx.example.net")
	})
}

func FuzzSTSRecord(f *testing.F) {
	f.Add("v=STSv1; id=20160831085700Z;")
	f.Add("v=STSv1;a=b;id=1")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := stsRecord([]string{text})
		if (err == nil) != (id != "") {
			t.Errorf("%q, %v", id, err)
		}
		if err == nil {
			if again, err := stsRecord([]string{"v=STSv1; id=" + id}); again != id || err != nil {
				t.Errorf("%q, %q, %v", id, again, err)
			}
		}
	})
}
