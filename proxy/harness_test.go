package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// netHTTP turns the fast lane off: what HTTP comes to must not depend on it.
// "make test" runs the tests of this package both ways.
var netHTTP = flag.Bool("nethttp", false, "run all proxies without the fast lane")

// newProxy makes a Proxy on loopback that is stopped when the test ends.
func newProxy(t testing.TB, cfg Config, opts ...Option) *Proxy {
	t.Helper()
	if cfg.ListenHost == "" {
		cfg.ListenHost = "127.0.0.1"
	}
	if *netHTTP && cfg.FastLane == nil {
		cfg.FastLane = new(bool)
	}
	p, err := New(cfg, append([]Option{WithLogger(testLogger(t))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		testenv.Await(t, "the end of a proxy", func() { p.Stop(ctx) })
	})
	return p
}

// startBare runs a Proxy until the test ends; for tests in parallel.
func startBare(t testing.TB, cfg Config, opts ...Option) *Proxy {
	t.Helper()
	p := newProxy(t, cfg, opts...)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// start is startBare that also checks that nothing is left behind.
func start(t testing.TB, cfg Config, opts ...Option) *Proxy {
	t.Helper()
	testenv.Goroutines(t)
	return startBare(t, cfg, opts...)
}

// testLogger writes to the test's log.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// addr returns where the proxy listens for a port of its routes.
func addr(t testing.TB, p *Proxy, port int) string {
	t.Helper()
	a := p.Addr(port)
	if a == nil {
		t.Fatalf("no listener for port %d", port)
	}
	return a.String()
}

// backend is an HTTP server for the test; Target leads to it.
func backend(t testing.TB, h http.HandlerFunc) (*httptest.Server, Target) {
	t.Helper()
	s := httptest.NewServer(h)
	closeAfter(t, s)
	return s, targetOf(s.Listener.Addr())
}

// closeAfter ends a server with the test. Its Close waits for all handlers, and a
// test that has failed may have left some waiting.
func closeAfter(t testing.TB, s *httptest.Server) {
	t.Cleanup(func() { testenv.Await(t, "the handlers of a back end", s.Close) })
}

// says is a handler that answers with a fixed text.
func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}

func targetOf(a net.Addr) Target {
	host, port, _ := net.SplitHostPort(a.String())
	n, _ := strconv.Atoi(port)
	return Target{Host: host, Port: n}
}

// forwardTo is an action with targets and nothing else.
func forwardTo(targets ...Target) Action {
	return Action{Type: Forward, Targets: targets}
}

// client returns an HTTP client whose connections all go to addr, whatever the
// URL says. It trusts pool.
func client(t testing.TB, addr string, pool *x509.CertPool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get fetches a URL and returns status and body.
func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}

// receive waits for what another goroutine has to say, but not for ever.
func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	return testenv.Receive(t, from)
}

// send waits for another goroutine to take a value, but not for ever.
func send[T any](t testing.TB, to chan<- T, value T) {
	t.Helper()
	testenv.Await(t, "somebody who takes a value", func() { to <- value })
}

// waitAll waits for all goroutines of a group, but not for ever.
func waitAll(t testing.TB, group *sync.WaitGroup) {
	t.Helper()
	testenv.Await(t, "the goroutines of a test", group.Wait)
}
