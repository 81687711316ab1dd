package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// patience is for what takes a second or two on a machine that is not busy.
const patience = time.Minute

// gateway is a Router in front of a web server, which is the source of
// example.com, and a certification authority that looks names up there. All
// names lead to 127.0.0.1.
type gateway struct {
	*dcrouter.Router
	pebble *testenv.Pebble
	dns    string // address
	log    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// setup says how to make a gateway.
type setup struct {
	pebble  testenv.PebbleOpts
	acme    proxy.ACME
	routes  []proxy.Route
	opts    []dcrouter.Option
	config  func(*dcrouter.Config)
	backend storage.Backend
	// front, if there is one, stands before the authority.
	front *front
	// world is where the authority looks names up, if not at the gateway.
	world *dnsserver.Server
	// down does not start the authority yet.
	down bool
}

// newGateway starts a gateway whose ports for the authority are those of
// routes.
func newGateway(t *testing.T, s setup) *gateway {
	t.Helper()
	g := &gateway{log: new(syncBuffer)}
	dnsPort := testenv.FreePort(t)
	g.dns = fmt.Sprintf("127.0.0.1:%d", dnsPort)
	if !s.down {
		s.pebble.DNS = g.dns
		if s.world != nil {
			s.pebble.DNS = strings.TrimSuffix(s.world.Addrs()[0], "/udp")
		}
		g.pebble = testenv.StartPebble(t, s.pebble)
	}
	acme := s.acme
	if g.pebble != nil {
		acme.CARootPath, acme.CADirectory = g.pebble.CAPath, g.pebble.Directory
	}
	if s.front != nil {
		acme.CARootPath, acme.CADirectory = s.front.certPath, s.front.directory()
		if !s.down {
			s.front.start(t, g.pebble)
		}
	}
	if acme.RetryInterval == 0 {
		acme.RetryInterval = time.Second
	}
	cfg := dcrouter.Config{
		Proxy: &proxy.Config{ListenHost: "127.0.0.1", Routes: s.routes, ACME: &acme},
		DNS: &dnsserver.Config{ListenHost: "127.0.0.1", Port: &dnsPort, Zones: []dnsserver.Zone{{Name: "example.com"}}, Records: []dnsserver.Record{
			{Name: "example.com", Type: "A", Value: "127.0.0.1"}, {Name: "*.example.com", Type: "A", Value: "127.0.0.1"}}},
	}
	if s.config != nil {
		s.config(&cfg)
	}
	if s.backend == nil {
		s.backend = storage.Memory()
	}
	log := slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opts := append([]dcrouter.Option{dcrouter.WithConfig(cfg), dcrouter.WithStorage(s.backend), dcrouter.WithLogger(log)}, s.opts...)
	r, err := dcrouter.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	g.Router = r
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", g.log)
		}
	})
	t.Cleanup(func() { g.stop(t) })
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// hello is a handler that says its name.
func hello(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

// autoRoute is a route for HTTPS with automatic certificates.
func autoRoute(port int, domains ...string) proxy.Route {
	return proxy.Route{
		Name: strings.Join(domains, " "), Match: proxy.Match{Ports: proxy.Ports(port), Domains: domains},
		Action: proxy.Action{Handler: hello("hello"), TLS: &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}},
	}
}

// shake does a handshake that wants a certificate for a name that the roots have
// signed.
func shake(port int, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	d := &net.Dialer{Timeout: 20 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func waitForCertificate(t *testing.T, port int, name string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	var cert *x509.Certificate
	testenv.WaitFor(t, patience, func() (err error) {
		cert, err = shake(port, name, roots)
		return err
	})
	return cert
}

// state returns what Stats says about a name.
func (g *gateway) state(name string) dcrouter.CertificateState {
	for _, s := range g.Stats().Certificates {
		if s.Name == name {
			return s
		}
	}
	return dcrouter.CertificateState{}
}

// waitForState waits until Stats says what is wanted about a name.
func (g *gateway) waitForState(t *testing.T, name string, ok func(dcrouter.CertificateState) bool) dcrouter.CertificateState {
	t.Helper()
	var s dcrouter.CertificateState
	testenv.WaitFor(t, patience, func() error {
		if s = g.state(name); !ok(s) {
			return fmt.Errorf("%s is %+v", name, s)
		}
		return nil
	})
	return s
}

// A domain and all names below it, proven at the same name by DNS at the same
// time.
func TestCertificatesByDNS(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	var mu sync.Mutex
	events := map[string]string{}
	tell := func(e dcrouter.CertificateEvent) {
		mu.Lock()
		defer mu.Unlock()
		events[e.State.Name] += e.Kind
	}
	g := newGateway(t, setup{
		acme:   proxy.ACME{PublishCAA: new(true)},
		routes: []proxy.Route{autoRoute(port, "example.com", "*.example.com")},
		opts:   []dcrouter.Option{dcrouter.WithCertificateObserver(tell)},
	})
	roots := g.pebble.Root(t)
	cert := waitForCertificate(t, port, "example.com", roots)
	if cert.PublicKeyAlgorithm != x509.ECDSA || cert.Subject.CommonName != "" && cert.Subject.CommonName != "example.com" {
		t.Errorf("%v, %v", cert.PublicKeyAlgorithm, cert.Subject)
	}
	waitForCertificate(t, port, "www.example.com", roots)
	if _, err := shake(port, "a.b.example.com", roots); err == nil {
		t.Error("a name two labels below is served with the wildcard's certificate")
	}
	s := g.waitForState(t, "*.example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	if s.Challenge != "dns-01" || !strings.Contains(s.Issuer, "Pebble") || s.NotAfter.Before(time.Now().AddDate(0, 0, 80)) || s.NextTry.Before(time.Now()) || s.NextTry.After(s.NotAfter) {
		t.Errorf("%+v", s)
	}
	g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	testenv.WaitFor(t, patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		if events["example.com"] != "obtained" || events["*.example.com"] != "obtained" {
			return fmt.Errorf("events %v", events)
		}
		return nil
	})
	// The proofs are gone, and others are told that nobody else may have one.
	texts, err := g.DNS().Lookup("_acme-challenge.example.com", "TXT")
	if err != nil || len(texts) != 0 {
		t.Errorf("%v, %v", texts, err)
	}
	caa, err := g.DNS().Lookup("example.com", "CAA")
	if err != nil || len(caa) != 1 || !strings.HasPrefix(caa[0].Value, `0 issue "pebble.letsencrypt.org; accounturi=https://`) {
		t.Errorf("%v, %v", caa, err)
	}
}

// Names below that are served elsewhere can have certificates from others, unless
// the operator says otherwise.
func TestNoCAAUnasked(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	g := newGateway(t, setup{routes: []proxy.Route{autoRoute(port, "example.com")}})
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	if caa, err := g.DNS().Lookup("example.com", "CAA"); err != nil || len(caa) > 0 {
		t.Errorf("%v, %v", caa, err)
	}
}

// From a domain that nobody knew to a handshake that a client accepts.
func TestNewDomainInSeconds(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	g := newGateway(t, setup{acme: proxy.ACME{PublishCAA: new(true)}, routes: []proxy.Route{autoRoute(port, "old.example.com")}})
	roots := g.pebble.Root(t)
	waitForCertificate(t, port, "old.example.com", roots)
	begin := time.Now()
	if err := g.UpdateRoutes(t.Context(), []proxy.Route{autoRoute(port, "new.example.com")}); err != nil {
		t.Fatal(err)
	}
	waitForCertificate(t, port, "new.example.com", roots)
	took := time.Since(begin)
	t.Logf("from UpdateRoutes to a verified handshake in %v", took)
	if limit := 3 * time.Second; took > limit && !testenv.Race {
		t.Errorf("took %v, more than %v", took, limit)
	}
	// The other one is not looked after any more, and nothing is left of it in
	// the DNS.
	if s := g.state("old.example.com"); s.Name != "" {
		t.Errorf("%+v", s)
	}
	testenv.WaitFor(t, patience, func() error {
		if caa, err := g.DNS().Lookup("old.example.com", "CAA"); err != nil || len(caa) > 0 {
			return errors.Join(err, fmt.Errorf("%v", caa))
		}
		return nil
	})
}
