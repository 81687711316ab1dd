package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// The authority is told whom to write to: the contact of the proxy's section, or
// where that has none, the one of the section about TLS.
func TestContactOfTheAccount(t *testing.T) {
	for name, test := range map[string]struct {
		acme proxy.ACME
		tls  *dcrouter.TLSConfig
		want []string
	}{
		"acme":    {proxy.ACME{Email: "admin@example.com"}, &dcrouter.TLSConfig{ContactEmail: "other@example.com"}, []string{"mailto:admin@example.com"}},
		"tls":     {proxy.ACME{}, &dcrouter.TLSConfig{ContactEmail: "ssl@example.com"}, []string{"mailto:ssl@example.com"}},
		"neither": {proxy.ACME{}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Goroutines(t)
			port, f := testenv.FreePort(t), newFront(t)
			var mu sync.Mutex
			var contacts [][]string
			f.interfere(func(_ http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/"+accounts) {
					return false
				}
				contact, err := contactOf(r)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				contacts = append(contacts, contact)
				return false
			})
			g := newGateway(t, setup{acme: test.acme, front: f, routes: []proxy.Route{autoRoute(port, "example.com")},
				config: func(c *dcrouter.Config) { c.TLS = test.tls }})
			waitForCertificate(t, port, "example.com", g.pebble.Root(t))
			mu.Lock()
			defer mu.Unlock()
			if len(contacts) == 0 || !slices.Equal(contacts[0], test.want) {
				t.Errorf("the authority was told %q, want %q", contacts, test.want)
			}
		})
	}
}

// contactOf reads what a request for an account says (RFC 8555 section 7.3). The
// request can be read again.
func contactOf(r *http.Request) ([]string, error) {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var signed struct{ Payload string }
	var account struct{ Contact []string }
	err = errors.Join(err, json.Unmarshal(body, &signed))
	payload, failed := base64.RawURLEncoding.DecodeString(signed.Payload)
	err = errors.Join(err, failed, json.Unmarshal(payload, &account))
	return account.Contact, err
}

// Without autoRenew a certificate is left to expire; with it, which is the default,
// one of the same life is renewed (TestRenewalUnderTraffic).
func TestAutoRenewTurnedOff(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	off := false
	g := newGateway(t, setup{acme: proxy.ACME{AutoRenew: &off}, pebble: testenv.PebbleOpts{Validity: 10 * time.Second}, routes: []proxy.Route{autoRoute(port, "example.com")}})
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.NotAfter.IsZero() })
	testenv.WaitFor(t, patience, func() error {
		if left := time.Until(s.NotAfter); left > -2*time.Second {
			return fmt.Errorf("it is good for %v", left)
		}
		return nil
	})
	// A nonce may have been refused, and then an order is sent again.
	if n, now := strings.Count(g.pebble.Output(), "Added order"), g.state("example.com"); n != 1 || !now.NotAfter.Equal(s.NotAfter) {
		t.Errorf("%d orders; it was %+v and is %+v", n, s, now)
	}
	if cert, err := shake(port, "example.com", g.pebble.Root(t)); err == nil {
		t.Errorf("there is a certificate until %v", cert.NotAfter)
	}
}

// useProduction is what decides whether certificates come from Let's Encrypt's
// production service or from the one for tests. Neither is reached: all that the
// gateway asks goes to a proxy that refuses.
func TestUseProduction(t *testing.T) {
	for production, want := range map[bool]string{true: "acme-v02.api.letsencrypt.org:443", false: "acme-staging-v02.api.letsencrypt.org:443"} {
		asked := make(chan string, 100)
		refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case asked <- r.Host:
			default:
			}
			w.WriteHeader(http.StatusForbidden)
		}))
		t.Cleanup(refuses.Close)
		cfg, err := dcrouter.LoadConfig(strings.NewReader(fmt.Sprintf(`{"smartProxyConfig": {"listenHost": "127.0.0.1", "acme": {"email": "admin@example.com", "enabled": true, "useProduction": %v},
			"routes": [{"match": {"ports": %d, "domains": "example.com"}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": 1}, "tls": {"mode": "terminate", "certificate": "auto"}}}]},
			"dnsServerConfig": {"listenHost": "127.0.0.1", "port": %d, "zones": [{"name": "example.com"}]}}`, production, testenv.FreePort(t), testenv.FreePort(t))))
		if err != nil {
			t.Fatal(err)
		}
		runGateway(t, testenv.Folder(t), cfg, "HTTPS_PROXY="+refuses.URL, "NO_PROXY=")
		if got := testenv.Receive(t, asked); got != want {
			t.Errorf("useProduction %v asks %s, want %s", production, got, want)
		}
	}
}
