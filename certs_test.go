package dcrouter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

// In development everything has TLS, offline, and a restart is no new root.
func TestLocalCA(t *testing.T) {
	testenv.Goroutines(t)
	curl := testenv.Need(t, "curl", "apt-get install curl")
	port := testenv.FreePort(t)
	route := forward("web", port, backend(t, "x"))
	route.Match.Domains = []string{"dev.example", "*.dev.example"}
	route.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	dir := t.TempDir()
	run := func() []byte {
		r := start(t, dcrouter.WithStorage(storage.Dir(dir)),
			dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}, ACME: &proxy.ACME{LocalCA: true}}))
		defer stop(t, r)
		root := r.LocalCARoot()
		path := filepath.Join(t.TempDir(), "root.pem")
		if err := os.WriteFile(path, root, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"dev.example", "www.dev.example"} {
			out, err := exec.Command(curl, "-sS", "--cacert", path, "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", name, port), fmt.Sprintf("https://%s:%d/", name, port)).CombinedOutput()
			if err != nil || string(out) != "x" {
				t.Errorf("%s: %s, %v", name, out, err)
			}
		}
		if out, err := exec.Command(curl, "-sS", "--cacert", path, "--resolve", fmt.Sprintf("other.example:%d:127.0.0.1", port), fmt.Sprintf("https://other.example:%d/", port)).CombinedOutput(); err == nil {
			t.Errorf("a name of nobody's: %s", out)
		}
		return root
	}
	if first, second := run(), run(); string(first) != string(second) {
		t.Error("another root after a restart")
	}
}

// A route for any name has a certificate for whatever name clients ask for, or for
// the address; the operations API lists them.
func TestLocalCAWithoutDomains(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	port, named := testenv.FreePort(t), autoRoute("dev.example")
	named.Name = "named"
	route := forward("any", port, backend(t, "x"))
	route.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	r := start(t, dcrouter.WithStorage(storage.Memory()), dcrouter.WithOps(opsSection()),
		dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route, named}, ACME: &proxy.ACME{LocalCA: true}}))
	path := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(path, r.LocalCARoot(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"whatever.example", "127.0.0.1"} {
		at := fmt.Sprintf("%s:%d", host, port)
		if out, err := exec.Command(curl, "-sS", "--cacert", path, "--resolve", at+":127.0.0.1", "https://"+at+"/").CombinedOutput(); err != nil || string(out) != "x" {
			t.Errorf("%s: %s, %v", host, out, err)
		}
	}
	o := signIn(t, r)
	list := o.call("getCertificates", nil, nil)
	for _, name := range []string{"127.0.0.1", "dev.example", "whatever.example"} {
		if !strings.Contains(list, fmt.Sprintf(`"name":%q,"source":"local","state":"valid","issuer":"dcrouter local CA`, name)) {
			t.Errorf("no %s in %s", name, list)
		}
	}
	for name, want := range map[string]int{"dev.example": 400, "none.example": 404} {
		if status, body := o.try("renewCertificate", map[string]any{"name": name}); status != want {
			t.Errorf("renewing %s: %d %s", name, status, body)
		}
	}
}

// A failure is one warning, with the name and when it is tried again.
func TestOneWarningForEachFailure(t *testing.T) {
	var log safeBuffer
	r := start(t, dcrouter.WithStorage(storage.Memory()), dcrouter.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{autoRoute("www.example.com")},
			ACME: &proxy.ACME{CADirectory: fmt.Sprintf("https://127.0.0.1:%d/", testenv.FreePort(t)), RetryInterval: time.Second}}))
	testenv.WaitFor(t, 30*time.Second, func() error {
		if n := r.Stats().Certificates[0].TotalFailures; n < 2 {
			return fmt.Errorf("%d failures", n)
		}
		return nil
	})
	stop(t, r)
	failures, warnings := r.Stats().Certificates[0].TotalFailures, 0
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, "www.example.com") {
			warnings++
			if !strings.Contains(line, "next_try=") {
				t.Error(line)
			}
		}
	}
	if uint64(warnings) != failures {
		t.Errorf("%d warnings of %d failures:\n%s", warnings, failures, log.String())
	}
}

// Nobody agrees to an authority's terms for a host that has not asked for it.
func TestCertificatesAreNotObtainedUnasked(t *testing.T) {
	route := autoRoute("example.com")
	off := false
	for what, c := range map[string]dcrouter.Config{
		"no section": {Proxy: &proxy.Config{Routes: []proxy.Route{route}}},
		"turned off": {Proxy: &proxy.Config{Routes: []proxy.Route{route}, ACME: &proxy.ACME{Enabled: &off}}, TLS: &dcrouter.TLSConfig{ContactEmail: "a@example.com"}},
	} {
		r, err := dcrouter.New(dcrouter.WithConfig(c))
		if err != nil {
			t.Fatal(err)
		}
		fields := dcrouter.FieldErrors(r.Start(t.Context()))
		if len(fields) != 1 || fields[0].Path != "smartProxyConfig.routes[0].action.tls.certificate" || !strings.Contains(fields[0].Msg, "acme") {
			t.Errorf("%s: %v", what, fields)
		}
		if s := r.Stats().Certificates; s != nil {
			t.Errorf("%s: %+v", what, s)
		}
	}
}

func autoRoute(domains ...string) proxy.Route {
	r := proxy.Route{Name: "auto", Match: proxy.Match{Ports: proxy.Ports(0), Domains: domains}, Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.org/"}}}
	r.Action.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	return r
}

// The names come from all sections that want a certificate.
func TestCertificateNames(t *testing.T) {
	disabled := autoRoute("disabled.example.com")
	disabled.Name, disabled.Enabled = "disabled", new(bool)
	passed := proxy.Route{Name: "passed", Match: proxy.Match{Ports: proxy.Ports(0), Domains: []string{"passed.example.com"}},
		Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: 1}}, TLS: &proxy.TLS{Mode: proxy.Passthrough}}}
	// Of an authority that is not there.
	acme := &proxy.ACME{CADirectory: "https://127.0.0.1:1/dir"}
	cfg := dcrouter.Config{
		Proxy:     &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{autoRoute("WWW.example.com", "*.example.com"), disabled, passed}, ACME: acme},
		DNS:       &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), DoH: &dnsserver.EncryptedPort{Port: new(int)}},
		DNSDomain: "dns.example.com", DoHPort: new(int), DNSNSDomains: []string{"ns1.example.com"}, TLS: &dcrouter.TLSConfig{Domain: "default.example.com"},
	}
	r := start(t, dcrouter.WithConfig(cfg))
	names := func() (list []string) {
		for _, s := range r.Stats().Certificates {
			list = append(list, s.Name)
		}
		return list
	}
	if got, want := fmt.Sprint(names()), "[*.example.com default.example.com dns.example.com ns1.example.com www.example.com]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := r.UpdateRoutes(t.Context(), []proxy.Route{autoRoute("new.example.com")}); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(names()), "[default.example.com dns.example.com new.example.com ns1.example.com]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(families), "dcrouter_certificate_expiry_timestamp_seconds") {
		t.Error("no metric of certificates")
	}
	// A client without a name, and one with a name that is none of these.
	addr := r.Addrs()["proxy"][0]
	if c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "new.example.com", InsecureSkipVerify: true}); err != nil || c.ConnectionState().PeerCertificates[0].VerifyHostname("new.example.com") == nil {
		t.Errorf("the stand-in: %v", err)
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "else.example.com", RootCAs: x509.NewCertPool()}); err == nil {
		t.Error("a name of nobody's")
	}
}

func TestCertificateMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`{"smartProxyConfig": {"acme": {"challenges": ["http-01"]}, "routes": [{"match": {"ports": 443, "domains": ["a.b", "*.a.b"]},
			"action": {"type": "redirect", "redirect": {"to": "https://x/"}, "tls": {"mode": "terminate", "certificate": "auto"}}}]}, "dnsServerConfig": {}}`: `smartProxyConfig.routes[0].match.domains[1]: an automatic certificate for "*.a.b" is obtained by dns-01 only: this needs dns-01 in`,
		`{"smartProxyConfig": {"acme": {}, "routes": [{"match": {"ports": 443, "domains": ["*.a.b"]},
			"action": {"type": "redirect", "redirect": {"to": "https://x/"}, "tls": {"mode": "terminate", "certificate": "auto"}}}]}}`: `smartProxyConfig.routes[0].match.domains[0]: an automatic certificate for "*.a.b" is obtained by dns-01 only: this needs dnsServerConfig`,
		`{"smartProxyConfig": {"acme": {"challenges": ["dns-01"]}}}`:                                   "smartProxyConfig.acme.challenges: dns-01 needs",
		`{"smartProxyConfig": {"acme": {"localCa": true, "caDirectory": "https://ca/"}}}`:              "smartProxyConfig.acme.localCa:",
		`{"smartProxyConfig": {"acme": {"keyType": "dsa"}}}`:                                           `smartProxyConfig.acme.keyType: "dsa" is not known`,
		`{"smartProxyConfig": {"acme": {"onFailure": "panic"}}}`:                                       `smartProxyConfig.acme.onFailure: "panic" is not known`,
		`{"smartProxyConfig": {"acme": {"retryInterval": "1ms"}}}`:                                     "smartProxyConfig.acme.retryInterval: 1ms is less",
		`{"smartProxyConfig": {"acme": {"httpPort": 0}}}`:                                              "smartProxyConfig.acme.httpPort: 0 is not a port",
		`{"smartProxyConfig": {"acme": {"externalAccount": {"keyId": "k", "macKey": "not base64!"}}}}`: "smartProxyConfig.acme.externalAccount.macKey: not in base64url",
		`{"dnsChallenge": {"cloudflareApiKey": "x", "propagationTimeout": "-1s"}}`:                     "dnsChallenge.propagationTimeout: -1s is negative",
	} {
		_, err := dcrouter.LoadConfig(strings.NewReader(text))
		fields := dcrouter.FieldErrors(err)
		if len(fields) != 1 || !strings.HasPrefix(fields[0].Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", text, fields, want)
		}
	}
	r, err := dcrouter.New(dcrouter.WithProxy(proxy.Config{ACME: &proxy.ACME{CARootPath: "no/such/file"}}))
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Check": r.Check(), "Start": r.Start(t.Context())} {
		if fields := dcrouter.FieldErrors(err); len(fields) != 1 || fields[0].Path != "smartProxyConfig.acme.caRootPath" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Internationalised names are in certificates as they come with connections.
func TestInternationalisedNames(t *testing.T) {
	const web, mx = "xn--bcher-kva.example", "xn--mgabs-gra.example"
	dial := func(addr, name string) {
		t.Helper()
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer c.Close()
		if err := c.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	mail := smtpsOnly()
	mail.Hostname = "mägabs.example"
	ops := opsSection()
	for _, acme := range []*proxy.ACME{{LocalCA: true}, nil} {
		cfg := dcrouter.Config{Proxy: &proxy.Config{ListenHost: "127.0.0.1", ACME: acme}, Email: &mail, Ops: &ops}
		if acme != nil {
			cfg.Proxy.Routes = []proxy.Route{autoRoute("Bücher.example")}
		}
		r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(storage.Memory()))
		dial(r.Addrs()["email"][0], mx)
		if acme != nil {
			dial(r.Addrs()["proxy"][0], web)
		}
		if list := signIn(t, r).call("getCertificates", nil, nil); !strings.Contains(list, mx) {
			t.Errorf("the operations API has %s", list)
		}
	}
}

// Mail, DNS and RADIUS show clients that ask for a name of nobody's the certificate
// of their own one, and have none obtained for it.
func TestServersAskedForOtherNames(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, _ := testenv.SelfSigned(t, "client.example")
	var asked atomic.Int64
	allow := func(context.Context, string) error { asked.Add(1); return errors.New("unknown") }
	for what, acme := range map[string]*proxy.ACME{"local": {LocalCA: true}, "of an authority that is not there": {CADirectory: "https://127.0.0.1:1/dir"}} {
		mail := smtpsOnly()
		cfg := dcrouter.Config{
			Proxy: &proxy.Config{ListenHost: "127.0.0.1", ACME: acme},
			Email: &mail, DNSNSDomains: []string{"ns1.example.com"}, TLS: &dcrouter.TLSConfig{Domain: "default.example.com"},
			DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), DoT: &dnsserver.EncryptedPort{Port: new(int)}},
			RADIUS: &radius.Config{ListenHost: "127.0.0.1", Port: new(int), AccountingPort: new(int), Secret: "a long shared secret",
				RadSec: &radius.RadSec{Port: new(int), Certificate: radius.Certificate{Auto: true}, ClientCAPath: cert}},
		}
		r := start(t, dcrouter.WithConfig(cfg), dcrouter.WithStorage(storage.Memory()), dcrouter.WithOnDemand(allow))
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		addrs := r.Addrs()
		for server, at := range map[string]struct{ addr, own string }{
			"mail":   {addrs["email"][0], "mx.example.com"},
			"dns":    {addrs["dns"][2], "ns1.example.com"},
			"radius": {addrs["radius"][2], ""},
		} {
			for _, name := range []string{"MX.example.com", "other.example.org"} {
				c, err := tls.Dial("tcp", strings.TrimSuffix(at.addr, "/tls"), &tls.Config{ServerName: name, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
				if err != nil {
					t.Errorf("%s: %s asked for %s: %v", what, server, name, err)
					continue
				}
				if own := at.own; acme.LocalCA && own != "" {
					if name == "MX.example.com" {
						own = name
					}
					if err := c.ConnectionState().PeerCertificates[0].VerifyHostname(own); err != nil {
						t.Errorf("%s asked for %s: %v", server, name, err)
					}
				}
				c.Close()
			}
		}
		stop(t, r)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the host was asked for %d certificates", n)
	}
}
