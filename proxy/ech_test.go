package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/dcrouter/dcrouter/internal/certs/ech"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// echKeys makes keys behind public.test.
func echKeys(t *testing.T) *ech.Keys {
	t.Helper()
	s, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	k, err := ech.Open(t.Context(), s, "public.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// echRoutes are for a public name and two that hide behind it, one of which
// asks clients for a certificate.
func echRoutes(t *testing.T) (routes []Route, pool *x509.CertPool, client tls.Certificate) {
	t.Helper()
	public, _ := tlsFiles(t, "public.test")
	secret, _ := tlsFiles(t, "secret.test")
	mutual, _ := tlsFiles(t, "mutual.test")
	pool = x509.NewCertPool()
	for _, files := range []*TLS{public, secret, mutual} {
		text, err := os.ReadFile(files.Certificate.CertPath)
		if err != nil {
			t.Fatal(err)
		}
		pool.AppendCertsFromPEM(text)
	}
	caPath, keyPath, _ := testenv.SelfSigned(t, "client.test")
	client, err := tls.LoadX509KeyPair(caPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	mutual.ClientAuth = &ClientAuth{CAPath: caPath}
	_, target := backend(t, says("secret"))
	return []Route{
		tlsRoute("public", public, Action{Handler: says("public")}, "public.test"),
		tlsRoute("secret", secret, forwardTo(target), "secret.test"),
		tlsRoute("mutual", mutual, Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info, _ := ConnInfoFrom(r.Context())
			io.WriteString(w, info.ServerName)
		})}, "mutual.test"),
		tlsRoute("passes", &TLS{Mode: Passthrough}, forwardTo(tlsEcho(t)), "passes.test"),
	}, pool, client
}

func TestEncryptedNameChoosesRouteAndPolicy(t *testing.T) {
	keys := echKeys(t)
	routes, pool, client := echRoutes(t)
	p := start(t, Config{Routes: routes}, WithECHKeys(keys.Get))
	config := func(name string) *tls.Config {
		return &tls.Config{ServerName: name, RootCAs: pool, NextProtos: []string{"h2", "http/1.1"}, EncryptedClientHelloConfigList: keys.ConfigList(),
			Certificates: []tls.Certificate{client}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	}
	for name, body := range map[string]string{"secret.test": "secret", "mutual.test": "mutual.test", "public.test": "public"} {
		cfg := config(name)
		cfg.NextProtos = []string{"http/1.1"}
		for i := range 2 {
			c, err := tlsDial(t, addr(t, p, 0), cfg)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			state := c.ConnectionState()
			if status, got, err := tlsGet(t, c, name); status != 200 || got != body {
				t.Errorf("%s: %d %q %v", name, status, got, err)
			}
			if !state.ECHAccepted || state.DidResume != (i > 0) {
				t.Errorf("%s: encrypted %v, resumed %v", name, state.ECHAccepted, state.DidResume)
			}
			c.Close()
		}
	}
	// Without a certificate the encrypted name's policy does not let one in.
	cfg := config("mutual.test")
	cfg.Certificates = nil
	if c, err := tlsDial(t, addr(t, p, 0), cfg); err == nil {
		if _, _, err := tlsGet(t, c, "mutual.test"); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("without a certificate: %v", err)
		}
	}
	// Nor does the name in the open let into the other.
	cfg = config("public.test")
	cfg.NextProtos = nil
	if c, err := tlsDial(t, addr(t, p, 0), cfg); err != nil {
		t.Error(err)
	} else if status, _, err := tlsGet(t, c, "mutual.test"); status != 421 {
		t.Errorf("another policy's name: %d %v, want 421", status, err)
	}
	// HTTP/2.
	tr := &http.Transport{TLSClientConfig: config("secret.test"), ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr(t, p, 0))
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("https://secret.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || !resp.TLS.ECHAccepted {
		t.Errorf("%s, encrypted %v", resp.Proto, resp.TLS.ECHAccepted)
	}
	// Names that are not served, or not terminated, under a name that is.
	for _, name := range []string{"unknown.test", "passes.test"} {
		before := p.Stats().Refused["unknownName"]
		if _, err := tlsDial(t, addr(t, p, 0), config(name)); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, "counted", func() bool { return p.Stats().Refused["unknownName"] == before+1 })
	}
}

func TestOutdatedKeyIsReplaced(t *testing.T) {
	keys, old := echKeys(t), echKeys(t)
	routes, pool, _ := echRoutes(t)
	p := start(t, Config{Routes: routes}, WithECHKeys(keys.Get))
	cfg := &tls.Config{ServerName: "secret.test", RootCAs: pool, EncryptedClientHelloConfigList: old.ConfigList()}
	_, err := tlsDial(t, addr(t, p, 0), cfg)
	var rejected *tls.ECHRejectionError
	if !errors.As(err, &rejected) || !bytes.Equal(rejected.RetryConfigList, keys.ConfigList()) {
		t.Fatalf("%v, want a rejection with the key that is good", err)
	}
	cfg.EncryptedClientHelloConfigList = rejected.RetryConfigList
	if c, err := tlsDial(t, addr(t, p, 0), cfg); err != nil || !c.ConnectionState().ECHAccepted {
		t.Errorf("with it: %v", err)
	}
	// Without a route for the public name nobody could tell the client.
	if err := p.UpdateRoutes(t.Context(), routes[1:]); err != nil {
		t.Fatal(err)
	}
	if c, err := tlsDial(t, addr(t, p, 0), cfg); err != nil || !c.ConnectionState().ECHAccepted {
		t.Errorf("without a route for the public name: %v", err)
	}
	cfg.EncryptedClientHelloConfigList = old.ConfigList()
	if _, err := tlsDial(t, addr(t, p, 0), cfg); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("without a route for the public name, and an outdated key: %v", err)
	}
}

// Clients without it are served as ever, whatever becomes of the keys.
func TestECHFailingHurtsNobodyElse(t *testing.T) {
	keys := echKeys(t)
	routes, pool, _ := echRoutes(t)
	var mode atomic.Int32
	p := start(t, Config{Routes: routes}, WithECHKeys(func(hello *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
		switch mode.Load() {
		case 1:
			return nil, errors.New("storage is down")
		case 2:
			panic("a bug")
		case 3:
			return []tls.EncryptedClientHelloKey{{}}, nil
		}
		return keys.Get(hello)
	}))
	for m := range int32(3) {
		mode.Store(m)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "secret.test", RootCAs: pool, MaxVersion: version})
			if err != nil {
				t.Errorf("%d, %s: %v", m, tls.VersionName(version), err)
				continue
			}
			if status, body, err := tlsGet(t, c, "secret.test"); status != 200 || body != "secret" {
				t.Errorf("%d, %s: %d %q %v", m, tls.VersionName(version), status, body, err)
			}
		}
	}
	mode.Store(3)
	if _, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "secret.test", RootCAs: pool, EncryptedClientHelloConfigList: keys.ConfigList()}); err == nil {
		t.Error("accepted with a key that is none")
	}
}

// Under a public name that is passed through, the target has the keys.
func TestEncryptedHelloIsPassedThrough(t *testing.T) {
	keys, theirs := echKeys(t), echKeys(t)
	files, pool := tlsFiles(t, "public.test", "secret.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	target := wireServer(t, func(c net.Conn) {
		tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, GetEncryptedClientHelloKeys: theirs.Get})
		tc.Handshake()
		tc.Close()
	})
	p := start(t, Config{Routes: []Route{tlsRoute("passes", &TLS{Mode: Passthrough}, forwardTo(target), "public.test")}}, WithECHKeys(keys.Get))
	c, err := tlsDial(t, addr(t, p, 0), &tls.Config{ServerName: "secret.test", RootCAs: pool, EncryptedClientHelloConfigList: theirs.ConfigList()})
	if err != nil || !c.ConnectionState().ECHAccepted {
		t.Errorf("%v", err)
	}
}

func TestEncryptedHelloInHTTP3(t *testing.T) {
	keys, old := echKeys(t), echKeys(t)
	routes, pool, _ := echRoutes(t)
	p := start(t, with3(routes[:3]...), WithECHKeys(keys.Get))
	fetch := func(list []byte) (*http.Response, error) {
		tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, EncryptedClientHelloConfigList: list}, Dial: quicDial(t, addr(t, p, 0))}
		t.Cleanup(func() { tr.Close() })
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("https://secret.test/")
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	if resp, err := fetch(keys.ConfigList()); err != nil || !resp.TLS.ECHAccepted || resp.StatusCode != 200 {
		t.Errorf("%v %v", resp, err)
	}
	_, err := fetch(old.ConfigList())
	var rejected *tls.ECHRejectionError
	if !errors.As(err, &rejected) || !bytes.Equal(rejected.RetryConfigList, keys.ConfigList()) {
		t.Errorf("with an outdated key: %v", err)
	}
	if resp, err := fetch(nil); err != nil || resp.TLS.ECHAccepted {
		t.Errorf("without: %v", err)
	}
}
