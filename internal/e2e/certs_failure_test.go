package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// A certificate is replaced while handshakes go on, and none fails.
func TestRenewalUnderTraffic(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	f := newFront(t)
	// Without a suggestion it is renewed after half of its life.
	f.interfere(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "renewalInfo") {
			return false
		}
		http.NotFound(w, r)
		return true
	})
	g := newGateway(t, setup{routes: []proxy.Route{autoRoute(port, "example.com")}, pebble: testenv.PebbleOpts{Validity: 24 * time.Second}, front: f})
	roots := g.pebble.Root(t)
	first := waitForCertificate(t, port, "example.com", roots).SerialNumber
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var done atomic.Int64
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for ctx.Err() == nil {
				cert, err := shake(port, "example.com", roots)
				if err != nil {
					t.Errorf("after %d handshakes: %v", done.Load(), err)
					return
				}
				done.Add(1)
				if cert.SerialNumber.Cmp(first) != 0 {
					return // each has seen both
				}
			}
			t.Error("the certificate has not been renewed")
		})
	}
	clients.Wait()
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	if s.Failures != 0 || s.TotalFailures != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d handshakes", done.Load())
}

// Without an authority the Router starts and serves what it can, and when the
// authority is there it has certificates.
func TestAuthorityDownAtStart(t *testing.T) {
	testenv.Goroutines(t)
	port, plain := testenv.FreePort(t), testenv.FreePort(t)
	f := newFront(t)
	begin := time.Now()
	g := newGateway(t, setup{down: true, front: f, routes: []proxy.Route{
		autoRoute(port, "example.com"),
		{Name: "plain", Match: proxy.Match{Ports: proxy.Ports(plain)}, Action: proxy.Action{Handler: hello("plain")}},
	}})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("Start took %v", took)
	}
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Failures > 0 && !s.InProgress })
	if !strings.Contains(s.LastError, "connection refused") || s.NextTry.IsZero() || !s.NotAfter.IsZero() {
		t.Errorf("%+v", s)
	}
	if body := get(t, fmt.Sprintf("http://127.0.0.1:%d/", plain)); body != "plain" {
		t.Errorf("the other route says %q", body)
	}
	// The stand-in is for no name and nobody trusts it.
	if _, err := shake(port, "example.com", x509.NewCertPool()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a handshake without certificate: %v", err)
	}
	if !strings.Contains(g.log.String(), `"no certificate" component=certificates name=example.com`) {
		t.Error("the log does not say so")
	}
	pebble := testenv.StartPebble(t, testenv.PebbleOpts{DNS: g.dns})
	f.start(t, pebble)
	waitForCertificate(t, port, "example.com", pebble.Root(t))
	s = g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return !s.InProgress })
	if s.Failures != 0 || s.LastError != "" || s.TotalFailures == 0 {
		t.Errorf("%+v", s)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// An authority that refuses a name is asked ever less, and others get theirs.
func TestAuthorityRefuses(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	f := newFront(t)
	g := newGateway(t, setup{front: f, acme: proxy.ACME{OnFailure: "close"}, pebble: testenv.PebbleOpts{Blocked: []string{"bad.example.com"}},
		routes: []proxy.Route{autoRoute(port, "bad.example.com", "good.example.com")}})
	waitForCertificate(t, port, "good.example.com", g.pebble.Root(t))
	s := g.waitForState(t, "bad.example.com", func(s dcrouter.CertificateState) bool { return s.Failures == 2 && !s.InProgress })
	if !strings.Contains(s.LastError, "rejectedIdentifier") {
		t.Errorf("%+v", s)
	}
	if wait := time.Until(s.NextTry); wait > 3*time.Second || wait < -time.Second {
		t.Errorf("the next try is in %v", wait)
	}
	// A nonce may have been refused, and then the order is sent again.
	if n := f.count(newOrder); n > 20 {
		t.Errorf("%d orders", n)
	}
	if _, err := shake(port, "bad.example.com", x509.NewCertPool()); err == nil || strings.Contains(err.Error(), "x509") {
		t.Errorf("shown a certificate instead of being closed: %v", err)
	}
}

// An authority that is asked too much is left in peace as long as it says.
func TestAuthorityLimitsRate(t *testing.T) {
	testenv.Goroutines(t)
	f := newFront(t)
	f.interfere(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/"+newOrder) {
			return false
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates already issued\u001b[31m"}`)
		return true
	})
	g := newGateway(t, setup{front: f, routes: []proxy.Route{autoRoute(testenv.FreePort(t), "example.com")}})
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Failures == 1 && !s.InProgress })
	if wait := time.Until(s.NextTry); wait < 59*time.Minute || wait > 70*time.Minute {
		t.Errorf("the next try is in %v", wait)
	}
	if !strings.Contains(s.LastError, "too many certificates already issued") || strings.Contains(s.LastError, "\x1b") {
		t.Errorf("%q", s.LastError)
	}
	if n := f.count(newOrder); n != 1 {
		t.Errorf("%d orders", n)
	}
}

// An authority that hangs holds nothing up but the attempt, and that not for
// ever.
func TestAuthorityHangs(t *testing.T) {
	testenv.Goroutines(t)
	f := newFront(t)
	hang := make(chan struct{})
	defer close(hang)
	f.interfere(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/"+newOrder) {
			return false
		}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
		return true
	})
	port := testenv.FreePort(t)
	g := newGateway(t, setup{front: f, acme: proxy.ACME{Timeout: 3 * time.Second}, routes: []proxy.Route{autoRoute(port, "example.com")}})
	s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Failures > 0 && !s.InProgress })
	if !strings.Contains(s.LastError, "not done in 3s") {
		t.Errorf("%+v", s)
	}
	// Routes change, and Stop comes back, while an attempt hangs.
	g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.InProgress })
	if err := g.UpdateRoutes(t.Context(), []proxy.Route{autoRoute(port, "example.com", "www.example.com")}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	g.stop(t)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

// An authority can have nothing proven but the name that was ordered.
func TestAuthorityAsksForSomethingElse(t *testing.T) {
	for what, authorization := range map[string]string{
		"wants a proof for": `{"status":"pending","identifier":{"type":"dns","value":"other.example.com"},"challenges":[{"type":"dns-01","url":"https://127.0.0.1:1/x","token":"0123456789012345678901"}]}`,
		"a token for":       `{"status":"pending","identifier":{"type":"dns","value":"example.com"},"challenges":[{"type":"dns-01","url":"https://127.0.0.1:1/x","token":"../../x\n"}]}`,
	} {
		t.Run(what, func(t *testing.T) {
			testenv.Goroutines(t)
			f := newFront(t)
			f.interfere(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/authZ/") {
					return false
				}
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, authorization)
				return true
			})
			g := newGateway(t, setup{front: f, routes: []proxy.Route{autoRoute(testenv.FreePort(t), "example.com")}})
			s := g.waitForState(t, "example.com", func(s dcrouter.CertificateState) bool { return s.Failures > 0 && !s.InProgress })
			if !strings.HasPrefix(s.LastError, "the authority") || !strings.Contains(s.LastError, what) || strings.Contains(s.LastError, "\n") {
				t.Errorf("%q", s.LastError)
			}
		})
	}
}

// Who stops does not wait for an authority to take back what it has begun.
func TestStopWhileAuthorityHangs(t *testing.T) {
	testenv.Goroutines(t)
	f := newFront(t)
	f.interfere(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/authZ/") || f.count("chalZ") == 0 {
			return false
		}
		<-r.Context().Done()
		return true
	})
	g := newGateway(t, setup{front: f, routes: []proxy.Route{autoRoute(testenv.FreePort(t), "example.com")}})
	testenv.WaitFor(t, patience, func() error {
		if f.count("chalZ") == 0 {
			return errors.New("no challenge yet")
		}
		return nil
	})
	start := time.Now()
	g.stop(t)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
