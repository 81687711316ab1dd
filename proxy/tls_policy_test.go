package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A request under a name with other TLS settings than its connection's is
// misdirected, or clients could get around client authentication.
func TestTLSMisdirected(t *testing.T) {
	open, _ := tlsFiles(t, "open.test", "same.test", "closed.test")
	other, _ := tlsFiles(t, "other.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	pass := Route{Name: "pass", Match: Match{Ports: Ports(0), Domains: []string{"pass.test"}},
		Action: Action{Type: Forward, Targets: []Target{{Host: "127.0.0.1", Port: 1}}, TLS: &TLS{Mode: Passthrough}}}
	plain := handlerRoute("plain", Match{Domains: []string{"plain.test"}})
	routes := []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test", "*.open.test"),
		tlsRoute("same", open, Action{Handler: says("same")}, "same.test"),
		tlsRoute("closed", &closed, Action{Handler: says("closed")}, "closed.test", "*.closed.test"),
		tlsRoute("other", other, Action{Handler: says("other")}, "other.test"),
		pass, plain,
	}
	p := start(t, Config{Routes: routes})
	fallback := start(t, Config{Routes: append(slices.Clone(routes), tlsRoute("any", open, Action{Handler: says("any")}))})
	connect := func(p *Proxy, sni string) *http.Client {
		tr := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 20 * time.Second}
	}
	for _, test := range []struct {
		p         *Proxy
		sni, host string
		status    int
		body      string
	}{
		{p, "open.test", "open.test", 200, "open"},
		{p, "open.test", "OPEN.test.:443", 200, "open"},
		{p, "open.test", "x.open.test", 200, "open"},
		{p, "open.test", "same.test", 200, "same"},
		{p, "open.test", "closed.test", 421, ""},
		{p, "open.test", "CLOSED.TEST", 421, ""},
		{p, "open.test", "closed.test.", 421, ""},
		{p, "open.test", "closed.test:8443", 421, ""},
		{p, "open.test", "x.closed.test", 421, ""},
		{p, "open.test", "other.test", 421, ""},
		{p, "open.test", "pass.test", 421, ""},
		{p, "open.test", "plain.test", 404, ""},
		{p, "open.test", "unknown.test", 404, ""},
		{p, "other.test", "open.test", 421, ""},
		{fallback, "", "closed.test", 421, ""},
		{fallback, "", "any.test", 200, "any"},
		{fallback, "unknown.test", "closed.test", 421, ""},
		{fallback, "unknown.test", "open.test", 200, "open"},
		{fallback, "open.test", "unknown.test", 200, "any"},
		{fallback, "open.test", "pass.test", 421, ""},
	} {
		// HTTP/2, where the name is :authority.
		req, _ := http.NewRequest("GET", "https://h/", nil)
		req.Host = test.host
		resp, err := connect(test.p, test.sni).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != test.status || test.body != "" && string(body) != test.body {
			t.Errorf("%s, server name %q, host %q: %d %q, want %d %q", resp.Proto, test.sni, test.host, resp.StatusCode, body, test.status, test.body)
		}
		// HTTP/1.1: a Host header, and absolute form.
		c, err := tlsDial(t, addr(t, test.p, 0), &tls.Config{ServerName: test.sni, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		status, got, err := tlsGet(t, c, test.host)
		if status != test.status || test.body != "" && got != test.body {
			t.Errorf("HTTP/1.1, server name %q, host %q: %d %q %v, want %d %q", test.sni, test.host, status, got, err, test.status, test.body)
		}
		fmt.Fprintf(c, "GET https://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n", test.host, test.sni)
		resp, err = http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != test.status {
			t.Errorf("absolute form, server name %q, host %q: %d, want %d", test.sni, test.host, resp.StatusCode, test.status)
		}
		c.Close()
	}
	if n := p.Stats().Refused["misdirected"]; n != 3*8 {
		t.Errorf("misdirected: %d, want 24", n)
	}
}

// oneSession is a session cache that offers its one session to every name.
type oneSession struct {
	mu sync.Mutex
	s  *tls.ClientSessionState
}

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s, c.s != nil
}

func (c *oneSession) Put(_ string, s *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != nil {
		c.s = s
	}
}

func TestTLSResumption(t *testing.T) {
	open, _ := tlsFiles(t, "open.test", "same.test", "closed.test")
	other, _ := tlsFiles(t, "other.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	routes := []Route{
		tlsRoute("open", open, Action{Handler: says("open")}, "open.test"),
		tlsRoute("same", open, Action{Handler: says("same")}, "same.test"),
		tlsRoute("closed", &closed, Action{Handler: says("closed")}, "closed.test"),
		tlsRoute("other", other, Action{Handler: says("other")}, "other.test"),
	}
	p := start(t, Config{Routes: routes})
	// visit reports whether the session was resumed and which body came.
	visit := func(p *Proxy, cache tls.ClientSessionCache, name string, version uint16) (bool, string, error) {
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: cache, NextProtos: []string{"http/1.1"}})
		if err != nil {
			return false, "", err
		}
		defer c.Close()
		_, body, err := tlsGet(t, c, name) // a ticket of TLS 1.3 comes with it
		return c.ConnectionState().DidResume, body, err
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		fresh := func() *oneSession {
			cache := new(oneSession)
			if resumed, body, err := visit(p, cache, "open.test", version); resumed || body != "open" {
				t.Fatalf("%x: first visit: resumed %v, %q, %v", version, resumed, body, err)
			}
			if cache.s == nil {
				t.Fatalf("%x: no session ticket", version)
			}
			return cache
		}
		if resumed, body, err := visit(p, fresh(), "open.test", version); !resumed || body != "open" {
			t.Errorf("%x: second visit: resumed %v, %q, %v", version, resumed, body, err)
		}
		if resumed, body, err := visit(p, fresh(), "same.test", version); !resumed || body != "same" {
			t.Errorf("%x: same policy: resumed %v, %q, %v", version, resumed, body, err)
		}
		if resumed, body, err := visit(p, fresh(), "other.test", version); resumed || body != "other" {
			t.Errorf("%x: other certificate: resumed %v, %q, %v", version, resumed, body, err)
		}
		// The session of an open name must not open a closed one.
		if resumed, body, err := visit(p, fresh(), "closed.test", version); err == nil || resumed {
			t.Errorf("%x: client authentication: resumed %v, %q, %v", version, resumed, body, err)
		}

		// An update that does not touch the policy keeps sessions.
		cache := fresh()
		updated := append(slices.Clone(routes), handlerRoute(fmt.Sprint("new", version), Match{Path: fmt.Sprint("/", version)}))
		if err := p.UpdateRoutes(t.Context(), updated); err != nil {
			t.Fatal(err)
		}
		if resumed, body, err := visit(p, cache, "open.test", version); !resumed || body != "open" {
			t.Errorf("%x: after an update: resumed %v, %q, %v", version, resumed, body, err)
		}
		// One that adds client authentication ends them.
		cache = fresh()
		stricter := slices.Clone(routes)
		stricter[0].Action.TLS, stricter[1].Action.TLS = &closed, &closed
		if err := p.UpdateRoutes(t.Context(), stricter); err != nil {
			t.Fatal(err)
		}
		if resumed, body, err := visit(p, cache, "open.test", version); err == nil || resumed {
			t.Errorf("%x: after client authentication was added: resumed %v, %q, %v", version, resumed, body, err)
		}
		if err := p.UpdateRoutes(t.Context(), routes); err != nil {
			t.Fatal(err)
		}
	}

	cfg := Config{Routes: routes, AllowSessionTicket: new(bool)}
	without := start(t, cfg)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := new(oneSession)
		for range 2 {
			if resumed, body, err := visit(without, cache, "open.test", version); resumed || body != "open" {
				t.Errorf("%x, no tickets: resumed %v, %q, %v", version, resumed, body, err)
			}
		}
		if cache.s != nil {
			t.Errorf("%x: a ticket was sent although tickets are off", version)
		}
	}
}

// A connection that an update has made too weak for its name is told to come
// back.
func TestTLSPolicyChangesUnderConnection(t *testing.T) {
	open, _ := tlsFiles(t, "a.test")
	clientCert, _, _ := testenv.SelfSigned(t, "client")
	closed := *open
	closed.ClientAuth = &ClientAuth{CAPath: clientCert}
	p := start(t, Config{Routes: []Route{tlsRoute("r", open, Action{Handler: says("ok")}, "a.test")}})
	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := tlsGet(t, c, "a.test"); status != 200 {
		t.Fatal(status, err)
	}
	if err := p.UpdateRoutes(t.Context(), []Route{tlsRoute("r", &closed, Action{Handler: says("ok")}, "a.test")}); err != nil {
		t.Fatal(err)
	}
	if status, body, err := tlsGet(t, c, "a.test"); status != 421 {
		t.Errorf("after the update: %d %q %v, want 421", status, body, err)
	}
}

func TestTLSCertificateReplaced(t *testing.T) {
	files, _ := tlsFiles(t, "old.test")
	newer, _ := tlsFiles(t, "new.test")
	_, web := backend(t, says("ok"))
	routes := []Route{tlsRoute("r", files, forwardTo(web), "a.test")}
	p := start(t, Config{Routes: routes})
	shown := func() string {
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	replace := func(dst, src string) {
		b, err := os.ReadFile(src)
		if err == nil {
			err = os.WriteFile(dst, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := shown(); got != "old.test" {
		t.Fatal(got)
	}
	// Half replaced: the update fails and the old pair stays.
	replace(files.Certificate.CertPath, newer.Certificate.CertPath)
	if err := p.UpdateRoutes(t.Context(), routes); err == nil {
		t.Error("an update took a certificate with another one's key")
	}
	if got := shown(); got != "old.test" {
		t.Errorf("after a failed update: %s", got)
	}
	replace(files.Certificate.KeyPath, newer.Certificate.KeyPath)
	if err := p.UpdateRoutes(t.Context(), routes); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "new.test" {
		t.Errorf("after the update: %s", got)
	}
}

// Whatever renews certificates need not tell anybody.
func TestTLSCertificateReplacedWithoutUpdate(t *testing.T) {
	t.Parallel()
	files, _ := tlsFiles(t, "old.test")
	newer, pool := tlsFiles(t, "a.test")
	p := startBare(t, with3(tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")))
	for dst, src := range map[string]string{files.Certificate.CertPath: newer.Certificate.CertPath, files.Certificate.KeyPath: newer.Certificate.KeyPath} {
		if err := os.Rename(src, dst); err != nil {
			t.Fatal(err)
		}
	}
	testenv.WaitFor(t, time.Minute, func() error {
		_, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
		return err
	})
	// The same over QUIC.
	c := client3(t, addr(t, p, 0), pool)
	if status, body := get(t, c, "https://a.test/"); status != 200 || body != "ok" {
		t.Errorf("%d %q", status, body)
	}
}

func TestTLSVersions(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")}})
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool, MinVersion: version, MaxVersion: version})
		if ok != (err == nil) {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err != nil && !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: %v, want the alert protocol_version", tls.VersionName(version), err)
		}
		if c != nil {
			c.Close()
		}
	}
}

// The key exchange is post-quantum where the client can do that, and nothing
// weak is agreed on with one that offers it first, or only that.
func TestTLSDefaultPolicy(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")}})
	connect := func(cfg *tls.Config) (tls.ConnectionState, error) {
		cfg.ServerName, cfg.RootCAs = "a.test", pool
		c, err := tlsDial(t, addr(t, p, 0), cfg)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer c.Close()
		return c.ConnectionState(), nil
	}
	if state, err := connect(new(tls.Config)); err != nil || state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("%s with %s, %v, want TLS 1.3 with X25519MLKEM768", tls.VersionName(state.Version), state.CurveID, err)
	}
	for _, curve := range []tls.CurveID{tls.X25519, tls.CurveP256} {
		if state, err := connect(&tls.Config{CurvePreferences: []tls.CurveID{curve}}); err != nil || state.CurveID != curve {
			t.Errorf("a client that has %s only: %s, %v", curve, state.CurveID, err)
		}
	}
	var all []uint16
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		all = append(all, suite.ID)
		good := slices.Contains(cipherSuites(), suite.ID) && strings.Contains(suite.Name, "ECDSA") // the certificate's kind
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		state, err := connect(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
		if good != (err == nil) || err == nil && state.CipherSuite != suite.ID {
			t.Errorf("%s: %v", suite.Name, err)
		}
		if good && (!strings.Contains(suite.Name, "ECDHE") || !strings.Contains(suite.Name, "GCM") && !strings.Contains(suite.Name, "POLY1305")) {
			t.Errorf("%s is on the list", suite.Name)
		}
	}
	if state, err := connect(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: all}); err != nil || !slices.Contains(cipherSuites(), state.CipherSuite) {
		t.Errorf("a client that offers everything: %s, %v", tls.CipherSuiteName(state.CipherSuite), err)
	}
}

func TestTLSPlainHTTPOnTLSPort(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	p := start(t, Config{Routes: []Route{tlsRoute("r", files, Action{Handler: says("ok")}, "a.test")}})
	for _, size := range []int{0, 5000, 100000} {
		got := wireTalk(t, addr(t, p, 0), "GET / HTTP/1.1\r\nHost: a.test\r\nX-A: "+strings.Repeat("x", size)+"\r\n\r\n")
		if wireStatus(got) != 400 || !strings.Contains(got, "HTTPS") {
			t.Errorf("head of %d: %q, want 400 and a word about HTTPS", size, got)
		}
	}
}
