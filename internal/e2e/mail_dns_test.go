package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// tool runs a program and returns what it prints.
func tool(t *testing.T, name, how string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testenv.Need(t, name, how), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// dig returns what the gateway's DNS server says, a record a line, the strings of
// texts put together.
func (g *gateway) dig(t *testing.T, name, rtype string) []string {
	t.Helper()
	host, port, _ := net.SplitHostPort(g.dns)
	out := strings.TrimSpace(tool(t, "dig", "apt-get install bind9-dnsutils", "@"+host, "-p", port, "+short", "+time=10", name, rtype))
	if out == "" {
		return nil
	}
	lines := strings.Split(strings.ReplaceAll(out, `" "`, ""), "\n")
	slices.Sort(lines)
	return lines
}

// All that others look up to send mail to a domain, and to take mail from it, is
// there once the Router runs: the records in its DNS server, and the policy of
// MTA-STS with a certificate that an authority has given for its host.
func TestMailDomain(t *testing.T) {
	testenv.Goroutines(t)
	g := newGateway(t, setup{config: func(c *dcrouter.Config) {
		c.DNSNSDomains, c.PublicIP, c.MTASTSPort = []string{"ns.b.example"}, []string{"127.0.0.1"}, new(int)
		c.Email = &email.Config{
			ListenHost: "127.0.0.1", Hostname: "mx.b.example", Ports: email.Ports(0),
			Domains: []email.Domain{{Domain: "b.example", DNSMode: email.InternalDNS, DNS: email.DomainDNS{Internal: &email.InternalDNSSettings{TTL: 300}},
				Policies: email.Policies{MTASTS: email.EnforceMTASTS, DMARC: "v=DMARC1; p=reject; rua=mailto:dmarc@b.example"}}},
			Routes: []email.Route{{Match: email.Match{Recipients: []string{"*@b.example"}}, Action: email.Action{Type: email.Process}}},
		}
	}})
	g.waitForState(t, "mta-sts.b.example", func(s dcrouter.CertificateState) bool { return !s.NotAfter.IsZero() && !s.InProgress })
	testenv.WaitFor(t, patience, func() error {
		keys := g.Email().Domains()[0].Keys
		if len(keys) != 2 || keys[0].State != "active" || keys[1].State != "active" {
			return fmt.Errorf("%+v", keys)
		}
		return nil
	})
	for _, want := range []struct{ name, rtype, value string }{
		{"b.example", "NS", "ns.b.example."},
		{"b.example", "MX", "10 mx.b.example."},
		{"mx.b.example", "A", "127.0.0.1"},
		{"b.example", "TXT", `"v=spf1 mx ip4:127.0.0.1 ~all"`},
		{"mx.b.example", "TXT", `"v=spf1 ip4:127.0.0.1 ~all"`},
		{"default._domainkey.b.example", "TXT", `"v=DKIM1; k=rsa; p=MII`},
		{"default-ed25519._domainkey.b.example", "TXT", `"v=DKIM1; k=ed25519; p=`},
		{"_dmarc.b.example", "TXT", `"v=DMARC1; p=reject; rua=mailto:dmarc@b.example"`},
		{"_mta-sts.b.example", "TXT", `"v=STSv1; id=`},
		{"mta-sts.b.example", "A", "127.0.0.1"},
		{"_smtp._tls.b.example", "TXT", `"v=TLSRPTv1; rua=mailto:postmaster@b.example"`},
	} {
		if got := g.dig(t, want.name, want.rtype); len(got) != 1 || !strings.HasPrefix(got[0], want.value) {
			t.Errorf("%s %s is %q, want %s", want.name, want.rtype, got, want.value)
		}
	}
	ca := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(ca, g.pebble.Get(t, "/roots/0"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(g.Addrs()["proxy"][0])
	got := tool(t, "curl", "apt-get install curl", "-sS", "--cacert", ca, "--connect-to", "mta-sts.b.example:443:127.0.0.1:"+port,
		"-w", "%{http_code} %{content_type}", "https://mta-sts.b.example/.well-known/mta-sts.txt")
	if want := "version: STSv1\r\nmode: enforce\r\nmx: mx.b.example\r\nmax_age: 604800\r\n200 text/plain; charset=utf-8"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if strings.Contains(g.log.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}
