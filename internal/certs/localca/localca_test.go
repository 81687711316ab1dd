package localca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func openStore(t *testing.T, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openCA(t *testing.T, s *storage.Store) *CA {
	t.Helper()
	ca, err := Open(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func certificate(t *testing.T, ca *CA, name string) *tls.Certificate {
	t.Helper()
	cert, err := ca.Certificate(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// writePEM writes certificates into a file that goes with the test.
func writePEM(t *testing.T, name string, ders ...[]byte) string {
	t.Helper()
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	path := filepath.Join(testenv.Folder(t), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRootIsMadeOnce(t *testing.T) {
	folder := testenv.Folder(t)
	var roots [][]byte
	var log bytes.Buffer
	for range 2 {
		s := openStore(t, storage.Dir(folder))
		ca, err := Open(t.Context(), s, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, ca.RootPEM())
		s.Close()
	}
	if !bytes.Equal(roots[0], roots[1]) {
		t.Error("another root after a restart")
	}
	if n := strings.Count(log.String(), "made a local certification authority"); n != 1 || strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("log:\n%s", log.String())
	}
	if bytes.Contains(roots[0], []byte("PRIVATE")) {
		t.Error("RootPEM has the key")
	}
}

// Several Routers start at once, on one Store or each with its own.
func TestSeveralRoutersShareOneRoot(t *testing.T) {
	shared := storage.Memory()
	one := openStore(t, shared)
	stores := []*storage.Store{one, one, one, openStore(t, shared), openStore(t, shared), openStore(t, shared)}
	cas := make([]*CA, len(stores))
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			var err error
			if cas[i], err = Open(context.Background(), s, nil); err != nil {
				t.Error(err)
			}
		})
	}
	if wg.Wait(); t.Failed() {
		return
	}
	pool := x509.NewCertPool()
	pool.AddCert(cas[0].Root())
	for i, ca := range cas {
		if _, err := certificate(t, ca, "a.test").Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "a.test"}); err != nil {
			t.Errorf("of CA %d: %v", i, err)
		}
	}
}

func TestWhatIsNoAuthorityIsRefused(t *testing.T) {
	s := openStore(t, storage.Memory())
	ca := openCA(t, s)
	leaf := certificate(t, ca, "a.test")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	leafPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for name, value := range map[string][]byte{"empty": nil, "text": []byte("hello"), "without key": ca.RootPEM(),
		"key of another": append(ca.RootPEM(), keyPEM...), "a leaf": append(leafPEM, keyPEM...)} {
		if err := s.Put(t.Context(), rootKey, value); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), rootKey) || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamesAndAddresses(t *testing.T) {
	ca := openCA(t, openStore(t, storage.Memory()))
	pool := x509.NewCertPool()
	pool.AddCert(ca.Root())
	for name, host := range map[string]string{"a.test": "a.test", "xn--bcher-kva.test": "xn--bcher-kva.test", "*.w.test": "x.w.test",
		"localhost": "localhost", "192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "_x.a.test": "_x.a.test"} {
		leaf := certificate(t, ca, name).Leaf
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := leaf.VerifyHostname(host); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if leaf.NotAfter.Sub(leaf.NotBefore) > 8*24*time.Hour {
			t.Errorf("%s: valid from %s to %s", name, leaf.NotBefore, leaf.NotAfter)
		}
	}
	for _, name := range []string{"", ".", "a..test", "-a.test", "a b", "*", "a.*.test", "*.", "fe80::1%eth0", "a.test\n", "A.test",
		strings.Repeat("a", 64), strings.Repeat("a.", 130) + "test"} {
		if _, err := ca.Certificate(name); err == nil {
			t.Errorf("a certificate for %q", name)
		}
	}
}

func TestCertificatesAreReissuedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := storage.Open(t.Context(), storage.Memory())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ca := openCA(t, s)
		first := certificate(t, ca, "a.test")
		issued := 1
		for range 40 { // days
			time.Sleep(24 * time.Hour)
			if cert := certificate(t, ca, "a.test"); cert != first {
				first, issued = cert, issued+1
			}
			if left := time.Until(first.Leaf.NotAfter); left < 2*24*time.Hour || time.Now().Before(first.Leaf.NotBefore) {
				t.Errorf("a certificate with %s left", left)
			}
		}
		if issued < 8 || issued > 10 {
			t.Errorf("%d certificates in forty days", issued)
		}
		// The root lasts ten years, and then the next start makes another.
		time.Sleep(time.Until(ca.Root().NotAfter) - 15*24*time.Hour)
		if next := openCA(t, s); !next.Root().Equal(ca.Root()) {
			t.Error("another root, with 15 days left")
		}
		time.Sleep(2 * 24 * time.Hour)
		next := openCA(t, s)
		if next.Root().Equal(ca.Root()) || !openCA(t, s).Root().Equal(next.Root()) {
			t.Error("no other root, with 13 days left")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	ca := openCA(t, openStore(t, storage.Memory()))
	for i := range maxLeaves + 10 {
		certificate(t, ca, fmt.Sprintf("n%d.test", i))
	}
	if len(ca.leaves) != maxLeaves {
		t.Errorf("%d certificates kept", len(ca.leaves))
	}
}

// serve is an HTTPS server with certificates of the authority for what ends in
// .test and for 127.0.0.1.
func serve(t *testing.T, ca *CA) (port string) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.TLS = &tls.Config{GetCertificate: ca.GetCertificate(func(name string) bool { return strings.HasSuffix(name, ".test") || name == "127.0.0.1" })}
	// httptest would serve a certificate of its own to clients that name none.
	ln := tls.NewListener(s.Listener, s.TLS)
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return port
}

func TestCurlTrustsTheRoot(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	ca := openCA(t, openStore(t, storage.Memory()))
	port := serve(t, ca)
	root := writePEM(t, "root.pem", ca.Root().Raw)
	other := writePEM(t, "other.pem", openCA(t, openStore(t, storage.Memory())).Root().Raw)
	for _, test := range []struct {
		host, root string
		ok         bool
	}{
		{"a.test", root, true}, {"B.test.", root, true}, {"127.0.0.1", root, true},
		{"a.test", other, false}, {"a.example", root, false},
	} {
		out, err := exec.Command(curl, "-sS", "-m", "20", "--cacert", test.root, "--connect-to", "::127.0.0.1:"+port, "https://"+test.host+":"+port+"/").CombinedOutput()
		if ok := err == nil && string(out) == "hello"; ok != test.ok {
			t.Errorf("%s with %s: %s", test.host, filepath.Base(test.root), out)
		}
	}
}

func TestOpenSSLVerifies(t *testing.T) {
	openssl := testenv.Need(t, "openssl", "apt-get install openssl")
	ca := openCA(t, openStore(t, storage.Memory()))
	root := writePEM(t, "root.pem", ca.Root().Raw)
	for name, args := range map[string][]string{"a.test": {"-verify_hostname", "a.test"}, "::1": {"-verify_ip", "::1"}, "*.w.test": {"-verify_hostname", "x.w.test"}} {
		leaf := writePEM(t, "leaf.pem", certificate(t, ca, name).Certificate[0])
		args = append([]string{"verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", root}, append(args, leaf)...)
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	out, err := exec.Command(openssl, "verify", "-x509_strict", "-CAfile", root, root).CombinedOutput()
	if err != nil {
		t.Errorf("the root: %v\n%s", err, out)
	}
}
