package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ocsp"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// Routers in one process know nothing of each other, also if they have the same
// names: each obtains its own certificates, from its own authority.
func TestTwoRouters(t *testing.T) {
	testenv.Goroutines(t)
	one, two := testenv.FreePort(t), testenv.FreePort(t)
	a := newGateway(t, setup{routes: []proxy.Route{autoRoute(one, "example.com", "a.example.com")}})
	b := newGateway(t, setup{routes: []proxy.Route{autoRoute(two, "example.com", "b.example.com")}})
	for name, port := range map[string]int{"example.com": one, "a.example.com": one} {
		waitForCertificate(t, port, name, a.pebble.Root(t))
	}
	for name, port := range map[string]int{"example.com": two, "b.example.com": two} {
		waitForCertificate(t, port, name, b.pebble.Root(t))
	}
	if _, err := shake(two, "a.example.com", a.pebble.Root(t)); err == nil {
		t.Error("one Router has the certificate of the other")
	}
	a.stop(t)
	if _, err := shake(two, "example.com", b.pebble.Root(t)); err != nil {
		t.Errorf("after the other has stopped: %v", err)
	}
}

// Names that nobody has configured come with a handshake, if the host agrees.
func TestOnDemand(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	var asked atomic.Int64
	allow := func(_ context.Context, name string) error {
		asked.Add(1)
		if name != "customer.example.com" {
			return errors.New("no customer")
		}
		return nil
	}
	f := newFront(t)
	backend := storage.Memory()
	start := func() *gateway {
		return newGateway(t, setup{front: f, backend: backend, opts: []dcrouter.Option{dcrouter.WithOnDemand(allow)}, routes: []proxy.Route{autoRoute(port, "*")}})
	}
	g := start()
	roots := g.pebble.Root(t)
	if s := g.Stats().Certificates; len(s) != 0 {
		t.Errorf("before any handshake: %+v", s)
	}
	// The first handshake waits for it.
	if _, err := shake(port, "customer.example.com", roots); err != nil {
		t.Fatal(err)
	}
	if s := g.state("customer.example.com"); !s.OnDemand || s.Issuer == "" {
		t.Errorf("%+v", s)
	}
	if _, err := shake(port, "other.example.com", roots); err == nil || strings.Contains(err.Error(), "x509") {
		t.Errorf("a name that the host refuses: %v", err)
	}
	if _, err := shake(port, "customer.example.com", roots); err != nil {
		t.Error(err)
	}
	if n := strings.Count(g.pebble.Output(), "Added order"); n != 1 {
		t.Errorf("%d orders", n)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(g.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if strings.Contains(family.String(), "customer") {
			t.Errorf("a client's choice of a name is a label: %v", family)
		}
	}
}

// Keys are in the storage and nowhere else.
func TestKeysAreNotShown(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	folder := filepath.Join(testenv.Folder(t), "state")
	mac := "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	var told strings.Builder
	g := newGateway(t, setup{
		pebble:  testenv.PebbleOpts{MACKeys: map[string]string{"kid-1": mac}},
		acme:    proxy.ACME{Email: "ops@example.com", ExternalAccount: &proxy.ACMEExternalAccount{KeyID: "kid-1", MACKey: dcrouter.Secret(mac)}},
		routes:  []proxy.Route{autoRoute(port, "example.com", "none.example.org")},
		backend: storage.Dir(folder),
		opts:    []dcrouter.Option{dcrouter.WithCertificateObserver(func(e dcrouter.CertificateEvent) { fmt.Fprintf(&told, "%+v", e) })},
	})
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	g.waitForState(t, "none.example.org", func(s dcrouter.CertificateState) bool { return s.Failures > 0 })
	stats, err := json.Marshal(g.Stats())
	if err != nil {
		t.Fatal(err)
	}
	g.stop(t)
	secrets := []string{mac, "PRIVATE KEY"}
	err = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, after := range regexp.MustCompile("BEGIN [A-Z ]*PRIVATE KEY-----").Split(string(text), -1)[1:] {
			after = strings.TrimPrefix(strings.TrimPrefix(after, `\n`), "\n")
			secrets = append(secrets, after[40:60]) // of the key's own octets
		}
		return err
	})
	if err != nil || len(secrets) != 4 {
		t.Fatalf("%d secrets, %v", len(secrets), err)
	}
	for where, text := range map[string]string{"the log": g.log.String(), "Stats": string(stats), "events": told.String()} {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %s", where, secret)
			}
		}
	}
	if told.Len() == 0 || !strings.Contains(string(stats), "example.com") {
		t.Error("nothing was told")
	}
}

// What the host has a certificate for is not obtained, and of what it has not it
// is.
func TestHostsCertificatesComeFirst(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	certPath, keyPath, pool := testenv.SelfSigned(t, "own.example.com")
	own, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	host := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if h.ServerName == "own.example.com" {
			return &own, nil
		}
		return nil, errors.New("not ours")
	}
	g := newGateway(t, setup{opts: []dcrouter.Option{dcrouter.WithGetCertificate(host)}, routes: []proxy.Route{autoRoute(port, "own.example.com", "auto.example.com")}})
	waitForCertificate(t, port, "auto.example.com", g.pebble.Root(t))
	waitForCertificate(t, port, "own.example.com", pool)
	s := g.waitForState(t, "own.example.com", func(s dcrouter.CertificateState) bool { return s.LastError != "" })
	if !strings.Contains(s.LastError, "WithGetCertificate") || s.Failures > 0 || time.Until(s.NextTry) < time.Minute {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(g.pebble.Output(), "Added order"); n != 1 {
		t.Errorf("%d orders", n)
	}
}

// A response of the authority's OCSP responder, which openssl plays, goes with
// the certificate.
func TestOCSPStaple(t *testing.T) {
	testenv.Goroutines(t)
	openssl := testenv.Need(t, "openssl", "apt-get install openssl")
	port, responder := testenv.FreePort(t), testenv.FreePort(t)
	f := newFront(t)
	issued := make(chan struct{})
	f.hold = func(path string, ok bool) { // the certificate comes when the responder knows it
		if ok && strings.HasPrefix(path, "/"+download) {
			<-issued
		}
	}
	g := newGateway(t, setup{front: f, pebble: testenv.PebbleOpts{OCSP: fmt.Sprintf("http://127.0.0.1:%d", responder)}, routes: []proxy.Route{autoRoute(port, "example.com")}})
	serial := ""
	testenv.WaitFor(t, patience, func() error {
		_, after, ok := strings.Cut(g.pebble.Output(), "Issued certificate serial ")
		if !ok {
			return errors.New("not issued yet")
		}
		serial, _, _ = strings.Cut(after, " ")
		return nil
	})
	dir := testenv.Folder(t)
	for name, text := range map[string][]byte{
		"issuer.pem": g.pebble.Get(t, "/intermediates/0"), "key.pem": g.pebble.Get(t, "/intermediate-keys/0"),
		"index.txt": []byte("V\t" + time.Now().AddDate(0, 3, 0).UTC().Format("060102150405Z") + "\t\t" + strings.ToUpper(serial) + "\tunknown\t/CN=example.com\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// It serves one after the other, and one that says nothing would be the last.
	p := testenv.Start(t, testenv.Opts{Dir: dir}, openssl, "ocsp", "-port", fmt.Sprint(responder), "-index", "index.txt",
		"-CA", "issuer.pem", "-rsigner", "issuer.pem", "-rkey", "key.pem", "-ndays", "7")
	testenv.WaitFor(t, patience, func() error {
		if !strings.Contains(p.Output(), "waiting for OCSP client") {
			return errors.New("openssl does not listen")
		}
		return nil
	})
	close(issued)
	waitForCertificate(t, port, "example.com", g.pebble.Root(t))
	g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Stapled })
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "example.com", RootCAs: g.pebble.Root(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	issuer := c.ConnectionState().PeerCertificates[1]
	resp, err := ocsp.ParseResponseForCert(c.OCSPResponse(), c.ConnectionState().PeerCertificates[0], nil)
	if err != nil || resp.Status != ocsp.Good || resp.CheckSignatureFrom(issuer) != nil {
		t.Errorf("%+v, %v", resp, err)
	}
}
