package dnsserver

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/conf/conftest"
)

func TestReferenceConfigs(t *testing.T) {
	conftest.Reference[Config](t, "dnsServerConfig", "dns-doh", "enterprise")
}

func TestValidate(t *testing.T) {
	tests := []conftest.Case{
		{"nothing", `{}`, ``},
		{"everything", `{"listenHost":"::1","port":0,"authoritative":false,"records":{"name":"*.a.example.","type":"a","value":"192.0.2.1","ttl":1},
			"zones":[{"name":"example.com","file":"f","dnssec":{"enabled":true}},{"name":"."},{"name":"0/25.2.0.192.in-addr.arpa"}]}`,
			``},
		{"host and port", `{"listenHost":"x","port":-5}`, "listenHost: \"x\" is not an IP address\nport: -5 is not a port (1-65535, or 0 for any free one)"},
		{"no name", `{"records":[{"type":"A","value":"192.0.2.1"}]}`, `records[0].name: missing: give a domain name`},
		{"bad name", `{"records":[{"name":"a..b","type":"A","value":"192.0.2.1"}]}`, `records[0].name: "a..b" is not a domain name`},
		{"star inside", `{"records":[{"name":"a.*.b","type":"A","value":"192.0.2.1"}]}`, `records[0].name: "a.*.b" is not a domain name`},
		{"no type", `{"records":[{"name":"a.b","value":"x"}]}`, `records[0].type: missing: give a record type such as A`},
		{"unknown type", `{"records":[{"name":"a.b","type":"WKS","value":"x"}]}`, `records[0].type: "WKS" is not a known record type`},
		{"misspelt type", `{"records":[{"name":"a.b","type":"CNMAE","value":"x"}]}`, `records[0].type: "CNMAE" is not a known record type, did you mean "CNAME"?`},
		{"no value", `{"records":[{"name":"a.b","type":"MX"}]}`, `records[0].value: missing: want a preference and a name, as 10 mail.example.com`},
		{"bad value", `{"records":[{"name":"a.b","type":"A","value":"::1"}]}`, `records[0].value: "::1" is not the value of a record of type A: want an IPv4 address`},
		{"bad ttl", `{"records":[{"name":"a.b","type":"A","value":"192.0.2.1","ttl":-1}]}`, `records[0].ttl: -1 is not between 0 and 2147483647`},
		{"twice", `{"records":[{"name":"a.b","type":"A","value":"192.0.2.1"},{"name":"A.B.","type":"a","value":"192.0.2.1"}]}`,
			`records[1]: "a.b A 192.0.2.1" is that of records[0] already`},
		{"several values", `{"records":[{"name":"a.b","type":"A","value":"192.0.2.1"},{"name":"a.b","type":"A","value":"192.0.2.2"}]}`, ``},
		{"alias and another", `{"records":[{"name":"a.b","type":"A","value":"192.0.2.1"},{"name":"A.b","type":"CNAME","value":"c.d"}]}`,
			`records[0].name: "a.b" has a CNAME record, records[1], and so no other`},
		{"two aliases", `{"records":[{"name":"a.b","type":"CNAME","value":"x.y"},{"name":"a.b","type":"CNAME","value":"c.d"}]}`,
			`records[1].name: "a.b" is that of records[0] already`},
		{"dnssec", `{"zones":[{"name":"example.com","dnssec":{"algorithm":"ed25519","denial":"compact","signatureValidity":"168h","refresh":"48h",
			"zskLifetime":-1,"propagation":"10m","signaturesPerSecond":10}},{"name":"example.net","dnssec":{}}]}`, ``},
		{"bad dnssec", `{"zones":[{"name":"a.b","dnssec":{"algorithm":"rsa","denial":"NSEC","signatureValidity":"1m","zskLifetime":"2h","propagation":-1,"signaturesPerSecond":-1}},
			{"name":"c.d","dnssec":{"refresh":"400h"}}]}`,
			"zones[0].dnssec.algorithm: \"rsa\" is not known; use ecdsa-p256 or ed25519\nzones[0].dnssec.denial: \"NSEC\" is not known; use nsec, nsec3 or compact\n" +
				"zones[0].dnssec.signatureValidity: 1m0s is not between 1h0m0s and 87600h0m0s\n" +
				"zones[0].dnssec.zskLifetime: 2h0m0s is too short: a rollover takes longer than the time for propagation and the TTL of the keys, so give at least 3h59m59.996s\n" +
				"zones[0].dnssec.propagation: -1ms is negative\nzones[0].dnssec.signaturesPerSecond: -1 is negative\n" +
				"zones[1].dnssec.refresh: 400h0m0s is not between 1m and 294h0m0s, seven eighths of signatureValidity"},
		{"zones", `{"zones":[{"name":"example.com"},{"name":"-"},{"name":"Example.com."},{}]}`,
			"zones[1].name: \"-\" is not a domain name\nzones[2].name: \"example.com\" is that of zones[0] already\nzones[3].name: missing: give a domain name"},
	}
	conftest.Validate[Config](t, tests)
}

func TestRecordValues(t *testing.T) {
	values := map[string]struct{ good, bad []string }{
		"A":      {[]string{"192.0.2.1"}, []string{"192.0.2", "::1", "example.com"}},
		"AAAA":   {[]string{"::1", "2001:db8::1"}, []string{"192.0.2.1", "fe80::1%eth0"}},
		"CNAME":  {[]string{"a.example.com", "a.example.com."}, []string{"a b", "a..b", "http://a"}},
		"NS":     {[]string{"ns1.example.com"}, []string{"10 ns1", "192.0.2.1"}},
		"PTR":    {[]string{"a.example"}, []string{""}},
		"ALIAS":  {[]string{"a.example"}, []string{"192.0.2.1"}},
		"TXT":    {[]string{"v=spf1 mx -all", `"a" "b"`, strings.Repeat("x", 300)}, []string{"a\nb", strings.Repeat("x", 70000)}},
		"MX":     {[]string{"10 mail.example.com", "0 ."}, []string{"mail.example.com", "10", "-1 a.b", "70000 a.b", "10 a.b c"}},
		"SRV":    {[]string{"10 5 5060 sip.example.com.", "0 0 0 ."}, []string{"10 5 sip.example.com", "10 5 70000 a.b"}},
		"CAA":    {[]string{`0 issue "letsencrypt.org"`, `128 iodef "mailto:a@b.c"`, `0 issue ";"`}, []string{`issue "x"`, `256 issue "x"`, `0 is-sue "x"`}},
		"SOA":    {[]string{"ns.a. host.a. 2024010101 7200 3600 1209600 3600"}, []string{"ns.a. host.a. 1", "ns.a. host.a. 1 2 3 4 x"}},
		"DS":     {[]string{"12345 13 2 ABCDEF01 2345"}, []string{"12345 13 2", "12345 13 2 xyz", "12345 13 2 abc"}},
		"TLSA":   {[]string{"3 1 1 abcd"}, []string{"3 1 abcd", "3 1 300 abcd"}},
		"SSHFP":  {[]string{"4 2 abcd"}, []string{"4 abcd"}},
		"HTTPS":  {[]string{"1 . alpn=h2,h3", "0 a.example", `1 . ipv4hint="192.0.2.1"`}, []string{"1", ". alpn=h2", "x ."}},
		"URI":    {[]string{`10 1 "https://a.example/x y"`}, []string{`10 "x"`, `10 1 x`, `10 1 ""`}},
		"NAPTR":  {[]string{`100 10 "U" "E2U+sip" "!^.*$!sip:a@b!" .`}, []string{"a\nb"}},
		"SMIMEA": {[]string{"3 0 0 ab"}, []string{"3 0 0 a"}},
	}
	for recordType, v := range values {
		s, known := shapeOf(recordType)
		if !known {
			t.Errorf("%s is not known", recordType)
			continue
		}
		for _, value := range v.good {
			if !s.ok(value) {
				t.Errorf("%s %q was refused", recordType, value)
			}
		}
		for _, value := range v.bad {
			if s.ok(value) {
				t.Errorf("%s %.60q was accepted", recordType, value)
			}
		}
	}
	for _, recordType := range recordTypes() {
		if s, known := shapeOf(recordType); !known || s.want == "" {
			t.Errorf("%s is listed but not known", recordType)
		}
	}
}
