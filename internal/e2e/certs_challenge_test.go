package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// The authority connects to the port of the route itself, which also passes TLS
// on to others.
func TestCertificatesByTLSALPN(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	g := newGateway(t, setup{
		acme:   proxy.ACME{Challenges: []string{"tls-alpn-01"}, TLSALPNPort: &port, KeyType: "rsa2048"},
		pebble: testenv.PebbleOpts{TLSPort: port},
		routes: []proxy.Route{autoRoute(port, "example.com"), {
			Name: "passthrough", Match: proxy.Match{Ports: proxy.Ports(port), Domains: []string{"*.example.com"}},
			Action: proxy.Action{Targets: []proxy.Target{{Host: "127.0.0.1", Port: 1}}, Type: proxy.Forward, TLS: &proxy.TLS{Mode: proxy.Passthrough}},
		}},
		// One that only needs a certificate, of a route that passes TLS on.
		config: func(c *dcrouter.Config) { c.TLS = &dcrouter.TLSConfig{Domain: "mail.example.com"} },
	})
	cert := waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	if cert.PublicKeyAlgorithm != x509.RSA {
		t.Errorf("a key of type %v", cert.PublicKeyAlgorithm)
	}
	for _, name := range []string{"example.com", "mail.example.com"} {
		s := g.waitForState(t, name, func(s dcrouter.CertificateState) bool { return !s.NotAfter.IsZero() && !s.InProgress })
		if s.Challenge != "tls-alpn-01" {
			t.Errorf("%+v", s)
		}
	}
}

// The authority asks over HTTP, where a route redirects all else.
func TestCertificatesByHTTP(t *testing.T) {
	testenv.Goroutines(t)
	port, plain := testenv.FreePort(t), testenv.FreePort(t)
	g := newGateway(t, setup{
		// The first two are not possible, and that is no failure.
		acme:   proxy.ACME{Challenges: []string{"tls-alpn-01", "http-01"}, HTTPPort: &plain},
		pebble: testenv.PebbleOpts{HTTPPort: plain},
		routes: []proxy.Route{autoRoute(port, "example.com"), {
			Name: "redirect", Match: proxy.Match{Ports: proxy.Ports(plain)}, Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://{host}{uri}"}},
		}},
	})
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	if s.Challenge != "http-01" || s.TotalFailures > 0 {
		t.Errorf("%+v", s)
	}
	// Whatever else is below that path is the route's.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/.well-known/acme-challenge/%s", plain, strings.Repeat("a", 43)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 3 {
		t.Errorf("a stranger's token: %s", resp.Status)
	}
}

// What cannot be proven says what is missing, and comes when routes make it
// possible.
func TestChallengeBecomesPossible(t *testing.T) {
	testenv.Goroutines(t)
	port, plain := testenv.FreePort(t), testenv.FreePort(t)
	g := newGateway(t, setup{
		acme:   proxy.ACME{Challenges: []string{"http-01"}, HTTPPort: &plain},
		pebble: testenv.PebbleOpts{HTTPPort: plain},
		routes: []proxy.Route{autoRoute(port, "example.com")},
	})
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Failures > 0 && !s.InProgress })
	if !strings.Contains(s.LastError, "http-01: no route listens") {
		t.Errorf("%+v", s)
	}
	web := proxy.Route{Name: "web", Match: proxy.Match{Ports: proxy.Ports(plain)}, Action: proxy.Action{Handler: hello("web")}}
	if err := g.UpdateRoutes(t.Context(), []proxy.Route{autoRoute(port, "example.com"), web}); err != nil {
		t.Fatal(err)
	}
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
}

// A challenge that is possible by all that the Router knows, but fails, is
// followed by the next one: here the zone is not the one that the world sees.
func TestNextChallengeAfterFailure(t *testing.T) {
	testenv.Goroutines(t)
	world, err := dnsserver.New(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}},
		Records: []dnsserver.Record{{Name: "example.com", Type: "A", Value: "127.0.0.1"}}})
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, world)
	plain, port := testenv.FreePort(t), testenv.FreePort(t)
	g := newGateway(t, setup{
		acme:   proxy.ACME{HTTPPort: &plain},
		world:  world,
		pebble: testenv.PebbleOpts{HTTPPort: plain},
		routes: []proxy.Route{autoRoute(port, "example.com"), {Name: "web", Match: proxy.Match{Ports: proxy.Ports(plain)}, Action: proxy.Action{Handler: hello("web")}}},
	})
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	if s.Challenge != "http-01" || s.TotalFailures != 1 {
		t.Errorf("%+v", s)
	}
}

// server is a DNS server, a mail server and the like.
type server interface {
	Start(context.Context) error
	Stop(context.Context) error
}

func startServer(t *testing.T, s server) {
	t.Helper()
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// cloudflare answers as much of Cloudflare's API as adding and removing records
// takes, and has the zone in a DNS server.
type cloudflare struct {
	zone  dcrouter.DNSProvider
	token string

	mu      sync.Mutex
	records map[string]dnsserver.Record // by id
	last    int
	seen    []string
}

func (c *cloudflare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, r.Method+" "+r.URL.Path)
	reply := func(result any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "errors": []any{}, "result": result, "result_info": map[string]int{"page": 1, "per_page": 100, "total_count": 1}})
	}
	if r.Header.Get("Authorization") != "Bearer "+c.token {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{"success": false, "errors": []any{map[string]any{"code": 9109, "message": "Invalid access token"}}})
		return
	}
	const base = "/client/v4/zones"
	switch id, isRecord := strings.CutPrefix(r.URL.Path, base+"/z1/dns_records"); {
	case r.Method == http.MethodGet && r.URL.Path == base:
		list := []any{}
		if r.URL.Query().Get("name") == "example.com" {
			list = append(list, map[string]string{"id": "z1", "name": "example.com"})
		}
		reply(list)
	case r.Method == http.MethodPost && isRecord:
		var in struct{ Type, Name, Content string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		name := in.Name
		if !strings.HasSuffix(name, "example.com") {
			name += ".example.com"
		}
		rec := dnsserver.Record{Name: name, Type: in.Type, Value: in.Content, TTL: 60}
		tx := new(dnsserver.Tx)
		tx.Add(rec)
		if err := c.zone.Server.Update(r.Context(), tx); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.last++
		key := fmt.Sprint("r", c.last)
		c.records[key] = rec
		reply(map[string]any{"id": key, "name": name, "type": in.Type, "content": in.Content, "ttl": 60})
	case r.Method == http.MethodGet && isRecord:
		list := []any{}
		for key, rec := range c.records {
			if q := r.URL.Query(); rec.Name == q.Get("name") && rec.Type == q.Get("type") && strings.Contains(rec.Value, q.Get("content.contains")) {
				list = append(list, map[string]any{"id": key, "name": rec.Name, "type": rec.Type, "content": rec.Value, "ttl": 60})
			}
		}
		reply(list)
	case r.Method == http.MethodDelete && isRecord:
		key := strings.TrimPrefix(id, "/")
		rec := c.records[key]
		tx := new(dnsserver.Tx)
		tx.Remove(rec)
		if err := c.zone.Server.Update(r.Context(), tx); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		delete(c.records, key)
		reply(map[string]any{"id": key, "name": rec.Name, "type": rec.Type, "content": rec.Value, "ttl": 60})
	default:
		http.NotFound(w, r)
	}
}

// elsewhere sends requests to another server than they are for.
type elsewhere struct {
	to     *url.URL
	client http.Client
}

func (e *elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != "api.cloudflare.com" {
		return nil, errors.New("not a request for Cloudflare: " + r.URL.Host)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = e.to.Scheme, e.to.Host, ""
	return e.client.Do(out)
}

// The flow with Cloudflare: the zone is found, the records are added and
// removed, the certificates come. The server is written after Cloudflare's
// documentation and what libdns/cloudflare asks for. It says nothing about how the
// live API behaves, about its limits, or about how long records take to be
// seen at its name servers.
func TestCertificatesByCloudflare(t *testing.T) {
	testenv.Goroutines(t)
	world, err := dnsserver.New(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(int), Zones: []dnsserver.Zone{{Name: "example.com"}}})
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, world)
	hoster := &cloudflare{zone: dcrouter.DNSProvider{Server: world}, token: "a token of Cloudflare's", records: map[string]dnsserver.Record{}}
	server := httptest.NewServer(hoster)
	defer server.Close()
	to, _ := url.Parse(server.URL)
	client := &elsewhere{to: to, client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	port := testenv.FreePort(t)
	g := newGateway(t, setup{
		world:  world,
		routes: []proxy.Route{autoRoute(port, "deep.down.example.com", "*.example.com")},
		config: func(c *dcrouter.Config) {
			c.DNS = nil
			c.DNSChallenge = &dcrouter.DNSChallenge{CloudflareAPIKey: dcrouter.Secret(hoster.token), PropagationTimeout: 1}
		},
		opts: []dcrouter.Option{dcrouter.WithCloudflareClient(&http.Client{Transport: client})},
	})
	roots := g.pebble.Root(t)
	waitForCertificate(t, port, "deep.down.example.com", roots)
	waitForCertificate(t, port, "www.example.com", roots)
	g.waitForState(t, "*.example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress && s.Challenge == "dns-01" })
	g.waitForState(t, "deep.down.example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress && s.Challenge == "dns-01" })
	hoster.mu.Lock()
	defer hoster.mu.Unlock()
	if len(hoster.records) > 0 || !slices.ContainsFunc(hoster.seen, func(s string) bool { return strings.HasPrefix(s, "DELETE") }) {
		t.Errorf("left there: %v, seen %v", hoster.records, hoster.seen)
	}
	if strings.Contains(g.log.String(), hoster.token) {
		t.Error("the log has the token")
	}
}

// A name keeps the address that it has by a wildcard while it is being proven:
// a record below it would make it exist without one (RFC 4592 section 2.2.2).
func TestWildcardAnswersDuringChallenge(t *testing.T) {
	testenv.Goroutines(t)
	f := newFront(t)
	var g *gateway
	var asked atomic.Int32
	problem := make(chan error, 1)
	ready := make(chan struct{})
	f.interfere(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/chalZ") {
			return false
		}
		<-ready
		asked.Add(1)
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, g.dns)
		}}
		if addrs, err := resolver.LookupHost(r.Context(), "www.example.com."); err != nil || !slices.Equal(addrs, []string{"127.0.0.1"}) {
			select {
			case problem <- fmt.Errorf("%v, %v", addrs, err):
			default:
			}
		}
		return false
	})
	port := testenv.FreePort(t)
	g = newGateway(t, setup{front: f, routes: []proxy.Route{autoRoute(port, "www.example.com")}, config: func(c *dcrouter.Config) {
		c.DNS.Records = append(c.DNS.Records, dnsserver.Record{Name: "*.example.com", Type: "TXT", Value: "v=spf1 -all", TTL: 7200})
	}})
	close(ready)
	waitForCertificate(t, port, "www.example.com", g.pebble.Root(t))
	select {
	case err := <-problem:
		t.Error(err)
	default:
	}
	if asked.Load() == 0 {
		t.Error("there was no challenge")
	}
	g.waitForState(t, "www.example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	for name, want := range map[string]int{"*.example.com": 1, "_acme-challenge.www.example.com": 0} {
		texts, err := g.DNS().Lookup(name, "TXT")
		if err != nil || len(texts) != want || want > 0 && texts[0].TTL != 7200 {
			t.Errorf("%s: %+v, %v", name, texts, err)
		}
	}
}

// An alias has no CAA record beside it.
func TestCertificateOfAlias(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	g := newGateway(t, setup{acme: proxy.ACME{PublishCAA: new(true)}, routes: []proxy.Route{autoRoute(port, "www.example.com")}, config: func(c *dcrouter.Config) {
		c.DNS.Records = append(c.DNS.Records, dnsserver.Record{Name: "www.example.com", Type: "CNAME", Value: "example.com"})
	}})
	waitForCertificate(t, port, "www.example.com", g.pebble.Root(t))
	if strings.Contains(g.log.String(), "CAA") {
		t.Error("tried to publish a CAA record")
	}
}
