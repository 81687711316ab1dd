package dcrouter_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// certificates is the host's hook, with a certificate for the names.
func certificates(t testing.TB, names ...string) (hook dcrouter.Option, ca string) {
	cert, key, _ := testenv.SelfSigned(t, names...)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return dcrouter.WithGetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }), cert
}

func startRouter(t testing.TB, opts ...dcrouter.Option) *dcrouter.Router {
	t.Helper()
	r, err := dcrouter.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		r.Stop(ctx)
	})
	return r
}

func TestDNSInTheRouter(t *testing.T) {
	testenv.Goroutines(t)
	testenv.Need(t, "dig", "bind9-dnsutils")
	testenv.Need(t, "curl", "curl")
	hook, ca := certificates(t, "dns.example.com", "www.example.com")
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{
		"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": []},
		"dnsDomain": "dns.example.com", "dohPort": 0,
		"dnsNsDomains": ["ns1.example.com", "ns2.example.com"],
		"publicIp": ["192.0.2.53", "2001:db8::53"],
		"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0, "nameServers": "ns9.example.net", "records": [
			{"name": "www.example.com", "type": "A", "value": "192.0.2.80", "ttl": 300},
			{"name": "ns2.example.com", "type": "A", "value": "192.0.2.54"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := startRouter(t, dcrouter.WithConfig(cfg), hook, dcrouter.WithStorage(storage.Dir(dir)))
	dig := func(args ...string) string {
		t.Helper()
		host, port, _ := net.SplitHostPort(strings.TrimSuffix(r.Addrs()["dns"][0], "/udp"))
		return run(t, "dig", append([]string{"@" + host, "-p", port, "+time=5"}, args...)...)
	}
	got := dig("example.com", "NS")
	for _, want := range []string{"flags: qr aa rd;", "IN\tNS\tns1.example.com.", "IN\tNS\tns2.example.com.", "IN\tNS\tns9.example.net.",
		"ns1.example.com.\t3600\tIN\tA\t192.0.2.53", "ns1.example.com.\t3600\tIN\tAAAA\t2001:db8::53", "ns2.example.com.\t3600\tIN\tA\t192.0.2.54"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "ns2.example.com.\t3600\tIN\tA\t192.0.2.53") {
		t.Errorf("ns2 has a second address:\n%s", got)
	}
	if got := dig("example.com", "SOA", "+short"); !strings.HasPrefix(got, "ns1.example.com. hostmaster.example.com. ") {
		t.Error(got)
	}

	curl := func(path string) string {
		t.Helper()
		_, port, _ := net.SplitHostPort(r.Addrs()["proxy"][0])
		return run(t, "curl", "-sS", "--cacert", ca, "--connect-to", "dns.example.com:443:127.0.0.1:"+port, "-w", "\n%{http_version} %{http_code}", "https://dns.example.com"+path)
	}
	doh := func() {
		t.Helper()
		body, status, _ := strings.Cut(curl("/resolve?name=www.example.com&type=A"), "\n\n")
		var answer struct {
			Status int
			Answer []struct {
				Name, Data string
				TTL        int
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Answer) != 1 || answer.Answer[0].Data != "192.0.2.80" || answer.Answer[0].TTL != 300 || status != "2 200" {
			t.Errorf("%v, %s, %q", err, body, status)
		}
	}
	doh()
	if got := curl("/elsewhere"); !strings.HasSuffix(got, " 404") {
		t.Error(got)
	}

	// Updates of routes leave the Router's own alone, and do not see them.
	route := proxy.Route{Name: "web", Match: proxy.Match{Ports: []proxy.PortRange{{}}, Domains: []string{"www.example.com"}},
		Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.org/"}}}
	if err := r.UpdateRoutes(t.Context(), []proxy.Route{route}); err != nil {
		t.Fatal(err)
	}
	if routes := r.Routes(); len(routes) != 1 || routes[0].Name != "web" {
		t.Errorf("%+v", routes)
	}
	doh()

	// A record that is changed is there at once, over each way, and stays.
	tx := new(dnsserver.Tx)
	tx.Add(dnsserver.Record{Name: "_acme-challenge.www.example.com", Type: "TXT", Value: "token", TTL: 5})
	if err := r.UpdateDNS(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	if got := dig("_acme-challenge.www.example.com", "TXT", "+short"); got != "\"token\"\n" {
		t.Error(got)
	}
	s := r.Stats()
	if s.DNS == nil || s.DNS.Transports.HTTPS.Queries != 2 || s.DNS.Rcodes["NOERROR"] < 4 || len(s.DNS.Zones) != 1 || s.DNS.Zones[0].Name != "example.com." {
		t.Errorf("%+v", s.DNS)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dcrouter_dns_queries_total", "dcrouter_dns_rcodes_total", "dcrouter_dns_zone_serial"} {
		if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name }) {
			t.Errorf("no %s", name)
		}
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	doh()
	if got := dig("_acme-challenge.www.example.com", "TXT", "+short"); got != "\"token\"\n" {
		t.Error(got)
	}
}

func TestDNSScopesAndFiles(t *testing.T) {
	testenv.Need(t, "dig", "bind9-dnsutils")
	file := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(file, []byte("@ IN SOA ns1 h 1 2 3 4 5\n NS ns1\nns1 A 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(records string) (dcrouter.Config, error) {
		return dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"dnsNsDomains": ["ns1.example.com", "ns.elsewhere.net"], "dnsScopes": ["sub.example.org", "example.com"], "publicIp": "192.0.2.53",
			"dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0, "zones": [{"name": "example.com", "file": %q}], "records": [%s]}}`, file, records)))
	}
	cfg, err := config(`{"name": "www.sub.example.org", "type": "A", "value": "192.0.2.9"}`)
	if err != nil {
		t.Fatal(err)
	}
	r := startRouter(t, dcrouter.WithConfig(cfg))
	var zones []string
	for _, z := range r.DNS().Zones() {
		zones = append(zones, z.Name)
	}
	if !slices.Equal(zones, []string{"example.com.", "sub.example.org."}) {
		t.Errorf("zones %v", zones)
	}
	host, port, _ := net.SplitHostPort(strings.TrimSuffix(r.Addrs()["dns"][0], "/udp"))
	// The file knows the address of ns1 better.
	if got := run(t, "dig", "@"+host, "-p", port, "ns1.example.com", "A", "+short"); got != "192.0.2.1\n" {
		t.Error(got)
	}
	if got := run(t, "dig", "@"+host, "-p", port, "sub.example.org", "NS", "+short"); !strings.Contains(got, "ns.elsewhere.net.") {
		t.Error(got)
	}
	if _, err := config(`{"name": "www.example.org", "type": "A", "value": "192.0.2.9"}`); err == nil || err.Error() != `dnsServerConfig.records[0].name: "www.example.org" is in none of dnsScopes and in no zone` {
		t.Error(err)
	}
}

// What is wrong with routes that nobody wrote is told of what they come from.
func TestDNSDomainWithoutCertificate(t *testing.T) {
	cfg, err := dcrouter.LoadConfig(strings.NewReader(`{"dnsDomain": "dns.example.com", "dohPort": 0, "dnsServerConfig": {"listenHost": "127.0.0.1", "port": 0}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err == nil {
		err = r.Start(t.Context())
	}
	if err == nil || !strings.HasPrefix(err.Error(), "dnsDomain: its route in the proxy: ") || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}
