package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// front stands in front of a certification authority: it counts what comes, and
// may do something else than pass it on.
type front struct {
	port     int
	certPath string

	keyPath string
	server  *http.Server
	mu      sync.Mutex
	counts  map[string]int // by the first segment of the path
	// meddle is asked before a request is passed on, and returns true if it has
	// answered it.
	meddle func(w http.ResponseWriter, r *http.Request) bool
	// hold is called with the path of a request that has been answered, and
	// whether that was a success, before the answer is passed on.
	hold func(path string, ok bool)
}

// Segments of Pebble's paths.
const (
	newOrder = "order-plz"
	finalize = "finalize-order"
	download = "certZ"
	accounts = "sign-me-up"
)

func newFront(t *testing.T) *front {
	t.Helper()
	f := &front{port: testenv.FreePort(t), counts: map[string]int{}}
	f.certPath, f.keyPath, _ = testenv.SelfSigned(t)
	return f
}

func (f *front) directory() string { return fmt.Sprintf("https://127.0.0.1:%d/dir", f.port) }

// start begins to pass requests on.
func (f *front) start(t *testing.T, pebble *testenv.Pebble) {
	t.Helper()
	target, err := url.Parse(strings.TrimSuffix(pebble.Directory, "/dir"))
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := os.ReadFile(pebble.CAPath)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	proxy := &httputil.ReverseProxy{
		// The Host field stays: the authority makes its URLs of it.
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host },
		Transport: transport,
		ModifyResponse: func(r *http.Response) error {
			if f.hold != nil {
				f.hold(r.Request.URL.Path, r.StatusCode < 300)
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	f.server = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		segment, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		f.mu.Lock()
		f.counts[segment]++
		meddle := f.meddle
		f.mu.Unlock()
		if meddle == nil || !meddle(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = f.server.ServeTLS(ln, f.certPath, f.keyPath) }()
	t.Cleanup(func() { f.server.Close(); <-done })
}

func (f *front) count(segment string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[segment]
}

// interfere sets meddle.
func (f *front) interfere(meddle func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.meddle = meddle
}
