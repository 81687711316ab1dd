package testenv

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// PebbleOpts of [StartPebble]; the zero value is fine.
type PebbleOpts struct {
	// DNS is the address of the server for everything that it looks up.
	DNS string
	// HTTPPort and TLSPort are where it connects to for HTTP-01 and TLS-ALPN-01.
	HTTPPort, TLSPort int
	// Validity of its certificates. Default 90 days.
	Validity time.Duration
	// OCSP is the URL of the responder in its certificates. Then its keys are RSA
	// keys: it hands out no others to whoever is the responder.
	OCSP string
	// Blocked are domains that it refuses.
	Blocked []string
	// MACKeys, by name, are the external accounts that it wants.
	MACKeys map[string]string
	// Port and ManagementPort to listen on, for a second start in the same
	// place. By default free ones.
	Port, ManagementPort int
	// CertPath and KeyPath are what it shows to its clients, for a second start
	// among clients that trust the first. By default a new certificate.
	CertPath, KeyPath string
}

// Pebble is an ACME server for tests.
type Pebble struct {
	*Process
	// Directory is the URL to begin with, and CAPath a PEM file with what to
	// trust there.
	Directory, CAPath string
	Opts              PebbleOpts

	client     *http.Client
	management string
}

// StartPebble starts Let's Encrypt's ACME server for tests, as hostile as it can
// be: it refuses nonces at random, and no proof holds for another order.
func StartPebble(t testing.TB, o PebbleOpts) *Pebble {
	t.Helper()
	program := Need(t, "pebble", "go install github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	if o.Port == 0 {
		o.Port, o.ManagementPort = FreePort(t), FreePort(t)
	}
	if o.HTTPPort == 0 {
		o.HTTPPort = FreePort(t)
	}
	if o.TLSPort == 0 {
		o.TLSPort = FreePort(t)
	}
	if o.Validity == 0 {
		o.Validity = 90 * 24 * time.Hour
	}
	algorithm := "ecdsa"
	if o.OCSP != "" {
		algorithm = "rsa"
	}
	if o.CertPath == "" {
		o.CertPath, o.KeyPath, _ = SelfSigned(t)
	}
	shown, err := os.ReadFile(o.CertPath)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(shown)
	addr, management := fmt.Sprintf("127.0.0.1:%d", o.Port), fmt.Sprintf("127.0.0.1:%d", o.ManagementPort)
	config := map[string]any{
		"listenAddress": addr, "managementListenAddress": management, "certificate": o.CertPath, "privateKey": o.KeyPath,
		"httpPort": o.HTTPPort, "tlsPort": o.TLSPort, "ocspResponderURL": o.OCSP, "domainBlocklist": o.Blocked, "keyAlgorithm": algorithm,
		"externalAccountBindingRequired": len(o.MACKeys) > 0, "externalAccountMACKeys": o.MACKeys,
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "for tests", "validityPeriod": int(o.Validity / time.Second)}},
	}
	text, err := json.Marshal(map[string]any{"pebble": config})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(Folder(t), "pebble.json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-config", path}
	if o.DNS != "" {
		args = append(args, "-dnsserver", o.DNS)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	p := &Pebble{
		Directory: "https://" + addr + "/dir", CAPath: o.CertPath, Opts: o,
		client: &http.Client{Transport: transport, Timeout: 20 * time.Second}, management: "https://" + management,
	}
	env := []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=15", "PEBBLE_AUTHZREUSE=0"}
	p.Process = Start(t, Opts{Env: env, Ready: addr}, program, args...)
	WaitPort(t, management, 20*time.Second)
	return p
}

// Root returns what its certificates are verified against, since this start of
// it.
func (p *Pebble) Root(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.Get(t, "/roots/0")) {
		t.Fatal("pebble's root is no certificate")
	}
	return pool
}

// Get fetches something from its management interface, such as
// "/intermediate-keys/0".
func (p *Pebble) Get(t testing.TB, path string) []byte {
	t.Helper()
	resp, err := p.client.Get(p.management + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("pebble %s: %s, %v", path, resp.Status, err)
	}
	return body
}
