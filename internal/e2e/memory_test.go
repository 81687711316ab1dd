package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// A gateway with everything on that has little to do takes little memory, and not
// much more when an operator has signed in: some megabytes for the hash of a new
// password, once, and what the connection takes.
func TestMemoryOfIdleGateway(t *testing.T) {
	if runtime.GOOS != "linux" {
		testenv.Lacks(t, "what a process uses is read from /proc, which only Linux has")
	}
	const limit, more = 40 << 20, 12 << 20 // bytes
	p := newPlace(t)
	p.serveAt(t, "website", 10, 80)
	g := p.run(t, p.load(t, "enterprise", func(c *dcrouter.Config) {
		a := p.authority(t, atGateway)
		a.Email = c.Proxy.ACME.Email
		c.Proxy.ACME, c.DNSChallenge = a, nil // Cloudflare is not here
		everythingOn(c, p.at(atGateway))
	}))
	for _, name := range []string{"example.com", "www.example.com", "api.example.com", "dns.example.com"} {
		testenv.WaitFor(t, patience, func() error {
			_, err := p.curl(t, "-o", "/dev/null", "https://"+name+"/")
			return err
		})
	}
	p.swaks(t, atStranger, 25, "--to", "x@notifications.example.com") // waits in the queue
	var rss int
	var err error
	testenv.WaitFor(t, patience, func() error { // what it took to start is given back
		if rss, err = resident(g.Pid); err == nil && rss > limit {
			err = fmt.Errorf("%.1f MiB resident, more than %d", float64(rss)/(1<<20), limit>>20)
		}
		return err
	})
	idle := rss
	for range 3 {
		signIn(t, "http://"+p.port(3000), "correct-horse-battery-staple")
	}
	if rss, err = resident(g.Pid); err != nil || rss > limit+more {
		t.Errorf("%.1f MiB resident after signing in, %v", float64(rss)/(1<<20), err)
	}
	t.Logf("%.1f MiB resident, %.1f after signing in", float64(idle)/(1<<20), float64(rss)/(1<<20))
}

// everythingOn adds to the enterprise setup what there is besides.
func everythingOn(c *dcrouter.Config, here string) {
	c.DNSDomain, c.DNSNSDomains, c.PublicIP = "dns.example.com", []string{"ns1.example.com"}, []string{here}
	c.DNS.Zones = []dnsserver.Zone{{Name: "example.com", DNSSEC: &dnsserver.DNSSEC{}}}
	for _, name := range []string{"example.com", "www.example.com", "api.example.com"} {
		c.DNS.Records = append(c.DNS.Records, dnsserver.Record{Name: name, Type: "A", Value: here})
	}
	c.DNS.DoT, c.DNS.DoQ = new(dnsserver.EncryptedPort), new(dnsserver.EncryptedPort)
	c.Proxy.HTTP3.Enabled, c.Proxy.AccessLog = true, new(proxy.AccessLog)
	c.Email.Domains[0].DNSMode = email.InternalDNS
	c.Email.Queue.Paused = true
	c.Email.Scanners = []email.Scanner{{Type: email.SpamScanner}, {Type: email.VirusScanner}, {Type: email.AttachmentScanner, BlockedExtensions: []string{".exe"}}}
	c.Email.Greylisting, c.Email.IPReputation = nil, &email.IPReputation{Providers: []string{"spamhaus"}}
}

// resident is how much memory a process has, in bytes.
func resident(pid int) (kib int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(after, &kib)
	return kib << 10, err
}
