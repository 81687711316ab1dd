package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// The configurations of the reference document start as processes of
// examples/gateway, on the ports that they name, and do what they say.
func TestReferenceConfigurations(t *testing.T) {
	tests := map[string]func(*testing.T){
		"basic-http":           referenceBasicHTTP,
		"http-routes":          referenceHTTPRoutes,
		"tcp-sni-routes":       referenceTCPRoutes,
		"dns-doh":              referenceDNS,
		"basic-email":          referenceBasicEmail,
		"email-routes":         referenceEmailRoutes,
		"email-domains":        referenceEmailDomains,
		"email-socket-handler": referenceSocketHandler,
		"radius-basic":         referenceRADIUS,
		"radius-mab":           referenceMAB,
		"radius-vlan":          referenceVLAN,
		"ops-dashboard":        referenceOps,
		"storage-fs":           referenceStorage,
		"enterprise":           nil, // TestEnterprise
	}
	files, err := filepath.Glob(filepath.Join(referenceFolder, "*.json"))
	if err != nil || len(files) != len(tests) {
		t.Fatalf("%d files for %d tests, %v", len(files), len(tests), err)
	}
	for name, test := range tests {
		if test != nil {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	}
}

var referenceFolder = filepath.Join("..", "..", "testdata", "configs")

// place is a network of its own on loopback addresses, with the machines around a
// gateway. What the reference has at 192.168.1.x is at x in here.
type place struct {
	net   string // "127.21.3."
	world *dnsserver.Server
	roots string // PEM file of the authority, once there is one
}

// Machines of a place.
const (
	atGateway  = 100
	atWorld    = 53 // the name server of everybody else
	atStranger = 66
	atOffice   = 7
	atMail     = 25 // internal-mail.company.com and others
	atPartner  = 26
	atTarget   = 27
	atMX       = 28 // where the MX records of everybody else lead
)

var places atomic.Int32

// newPlace finds a network in which the ports of mail, DNS and HTTPS are free.
func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{}
	var err error
	for range 20 {
		p.net = fmt.Sprintf("127.%d.%d.", 20+os.Getpid()%200, places.Add(1)%250)
		if err = portsFree(p.at(atGateway)); err == nil {
			break
		}
	}
	if err != nil {
		testenv.Lacks(t, "the ports of mail, DNS and HTTPS cannot be had on loopback addresses (that takes root): %v", err)
	}
	names := map[string]int{
		"example.com": atGateway, "www.example.com": atGateway, "api.example.com": atGateway, "cdn.example.com": atGateway,
		"mail.example.com": atGateway, "dns.example.com": atGateway, "mx.elsewhere.com": atMX,
	}
	cfg := dnsserver.Config{ListenHost: p.at(atWorld), Zones: []dnsserver.Zone{{Name: "com"}}}
	for name, host := range names {
		cfg.Records = append(cfg.Records, dnsserver.Record{Name: name, Type: "A", Value: p.at(host)})
	}
	for _, domain := range []string{"example.com", "company.com", "notifications.company.com", "notifications.example.com", "elsewhere.com"} {
		cfg.Records = append(cfg.Records, dnsserver.Record{Name: domain, Type: "MX", Value: "10 mx.elsewhere.com"})
	}
	p.world, err = dnsserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, p.world)
	return p
}

// at is the address of a machine.
func (p *place) at(host int) string { return fmt.Sprint(p.net, host) }

// port is an address of the gateway.
func (p *place) port(port int) string { return fmt.Sprintf("%s:%d", p.at(atGateway), port) }

// authority starts a certification authority that looks names up there, and
// returns what is to be said about it.
func (p *place) authority(t *testing.T, dns int) *proxy.ACME {
	t.Helper()
	pebble := testenv.StartPebble(t, testenv.PebbleOpts{DNS: p.at(dns) + ":53", TLSPort: 443, HTTPPort: 80})
	p.roots = filepath.Join(testenv.Folder(t), "roots.pem")
	if err := os.WriteFile(p.roots, pebble.Get(t, "/roots/0"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &proxy.ACME{CADirectory: pebble.Directory, CARootPath: pebble.CAPath, RetryInterval: time.Second}
}

// load reads a configuration of the reference as it is, and moves it into the
// place: ports, names and all else stay. change may be nil.
func (p *place) load(t *testing.T, name string, change func(*dcrouter.Config)) dcrouter.Config {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(referenceFolder, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dcrouter.LoadConfig(strings.NewReader(string(text))); err != nil {
		t.Fatalf("as it is: %v", err)
	}
	moved := strings.NewReplacer(
		"192.168.1.0/24", p.net+"0/26", "192.168.0.0/16", p.at(atOffice), "192.168.1.", p.net,
		`"internal-mail.company.com"`, `"`+p.at(atMail)+`"`, `"internal-mail.example.com"`, `"`+p.at(atMail)+`"`,
		`"partner-mail.com"`, `"`+p.at(atPartner)+`"`, `"mail.target.com"`, `"`+p.at(atTarget)+`"`,
		"/var/lib/dcrouter/data", filepath.Join(t.TempDir(), "data"),
	).Replace(string(text))
	cfg, err := dcrouter.LoadConfig(strings.NewReader(moved))
	if err != nil {
		t.Fatal(err)
	}
	p.move(&cfg)
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// move has all sections listen at the gateway's address alone.
func (p *place) move(c *dcrouter.Config) {
	here := p.at(atGateway)
	if c.Proxy == nil {
		c.Proxy = new(proxy.Config)
	}
	c.Proxy.ListenHost = here
	if c.DNS == nil && (c.DNSDomain != "" || len(c.DNSNSDomains) > 0) {
		c.DNS = new(dnsserver.Config)
	}
	if c.DNS != nil {
		c.DNS.ListenHost = here
	}
	if c.RADIUS != nil {
		c.RADIUS.ListenHost = here
	}
	if c.Ops != nil {
		c.Ops.ListenHost = here
	}
	if c.Email != nil {
		c.Email.ListenHost = here
		c.Email.Resolvers = []string{p.at(atWorld)}
		c.Email.Outbound.PrivateNetworks = true
	}
}

// program is a running examples/gateway.
type program struct {
	*testenv.Process
	addrs map[string][]string
	ended bool
}

// run starts examples/gateway, and ends it with the test as an operator would.
func (p *place) run(t *testing.T, cfg dcrouter.Config) *program {
	t.Helper()
	return runGateway(t, testenv.Folder(t), cfg)
}

// runGateway starts examples/gateway in a folder, with more in its environment.
func runGateway(t *testing.T, folder string, cfg dcrouter.Config, env ...string) *program {
	t.Helper()
	file := filepath.Join(folder, "gateway.json")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dcrouter.WriteConfig(f, cfg), f.Close()); err != nil {
		t.Fatal(err)
	}
	g := &program{Process: testenv.Start(t, testenv.Opts{Dir: folder, Env: env, StopTimeout: patience}, gatewayProgram(t), "-config", file)}
	testenv.WaitFor(t, patience, func() error {
		select {
		case <-g.Done():
			t.Fatalf("the gateway does not start:\n%s", g.Output())
		default:
		}
		for line := range strings.Lines(g.Output()) {
			if object, ok := strings.CutPrefix(line, "ready "); ok && strings.HasSuffix(line, "\n") {
				return json.Unmarshal([]byte(object), &g.addrs)
			}
		}
		return errors.New("no ready line")
	})
	t.Cleanup(func() { g.end(t) })
	return g
}

// end stops the gateway gracefully. More calls are fine.
func (g *program) end(t *testing.T) {
	t.Helper()
	if g.ended {
		return
	}
	g.ended = true
	g.Stop()
	if code := g.ExitCode(); code != 0 {
		t.Errorf("the gateway ended with exit status %d", code)
	}
}

// kill ends the gateway at once.
func (g *program) kill() {
	g.ended = true
	g.Kill()
}

// listens compares where the gateway is bound with what is wanted.
func (g *program) listens(t *testing.T, p *place, component string, ports ...string) {
	t.Helper()
	var want []string
	for _, port := range ports {
		want = append(want, p.at(atGateway)+":"+port)
	}
	if got := strings.Join(g.addrs[component], " "); got != strings.Join(want, " ") {
		t.Errorf("%s listens on %s, want %s", component, got, strings.Join(want, " "))
	}
}

// dialFrom connects from a machine of the place.
func (p *place) dialFrom(host int, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(p.at(host))}}
	c, err := d.DialContext(context.Background(), "tcp", address)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// try executes a program that is allowed to fail, and returns what it prints.
func try(t *testing.T, name, how string, input string, args ...string) (string, error) {
	t.Helper()
	cmd := testenv.Command(t, testenv.Need(t, name, how), args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
