package spf

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// TestRFC7208 is the test suite of openspf.org for RFC 7208, release 2019.08,
// made JSON. Names that time out in it are answered with SERVFAIL here.
func TestRFC7208(t *testing.T) {
	data, err := os.ReadFile("testdata/rfc7208.json")
	if err != nil {
		t.Fatal(err)
	}
	var suites []struct {
		Description string
		Zone        dnstest.Zone
		Tests       []struct {
			Name, Helo, Host, MailFrom, Explanation string
			Result                                  []string
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, suite := range suites {
		t.Run(suite.Description, func(t *testing.T) {
			server := dnstest.New(t, suite.Zone)
			for _, test := range suite.Tests {
				n++
				var r lookup.Resolver = server.Resolver()
				switch test.Name {
				case "a-colon-domain", "a-colon-domain-ip4mapped", "mx-colon-domain", "mx-colon-domain-ip4mapped", "macro-mania-in-domain":
					r = server.Client() // *net.Resolver does not ask for "foo:bar/baz.example.com"
				}
				got := Check(t.Context(), r, Request{
					IP: netip.MustParseAddr(test.Host), Helo: test.Helo, MailFrom: test.MailFrom,
					Hostname: "receiver.example.net", Now: time.Unix(1000, 0),
				})
				if !slices.Contains(test.Result, string(got.Code)) {
					t.Errorf("%s: %s (%v), want %v", test.Name, got.Code, got.Err, test.Result)
				}
				want := test.Explanation
				if want == "DEFAULT" {
					want = "" // ours is none
				}
				if !strings.EqualFold(got.Explanation, want) { // it has ip6.arpa in upper case
					t.Errorf("%s: explanation %q, want %q", test.Name, got.Explanation, want)
				}
			}
		})
	}
	if n != 203 {
		t.Errorf("%d tests ran, the suite has 203", n)
	}
}
