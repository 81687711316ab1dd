package dcrouter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
	"github.com/dcrouter/dcrouter/storage"
)

// start runs a Router until the test ends.
func start(t testing.TB, opts ...dcrouter.Option) *dcrouter.Router {
	t.Helper()
	r, err := dcrouter.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, r) })
	return r
}

func stop(t testing.TB, r *dcrouter.Router) {
	t.Helper()
	// Mail waits for an RSA key that is being made, which takes a busy machine
	// with the race detector on seconds.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Error("stop:", err)
	}
}

// backend is an HTTP server that answers with a fixed text.
func backend(t testing.TB, text string) proxy.Target {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }))
	t.Cleanup(s.Close)
	return target(t, s.Listener.Addr().String())
}

func target(t testing.TB, addr string) proxy.Target {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	return proxy.Target{Host: host, Port: n}
}

func forward(name string, port int, to proxy.Target) proxy.Route {
	return proxy.Route{
		Name:   name,
		Match:  proxy.Match{Ports: proxy.Ports(port), Protocol: "http"},
		Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{to}},
	}
}

func onLoopback(routes ...proxy.Route) dcrouter.Option {
	return dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: routes})
}

// fetch gets a page over a connection of its own.
func fetch(addr string) (string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := c.Get("http://" + addr + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestRoutersShareNothing(t *testing.T) {
	testenv.Goroutines(t)
	var routers []*dcrouter.Router
	for i := range 3 {
		to := backend(t, fmt.Sprint("router ", i))
		routers = append(routers, start(t, onLoopback(forward("web", 0, to))))
	}
	stop(t, routers[1])
	for i, r := range routers {
		if i == 1 {
			if r.Addrs()["proxy"] != nil {
				t.Error("a stopped router has addresses")
			}
			continue
		}
		body, err := fetch(r.Addrs()["proxy"][0])
		if want := fmt.Sprint("router ", i); body != want || err != nil {
			t.Errorf("got %q, %v, want %q", body, err, want)
		}
		if n := r.Stats().Proxy.Requests; n != 1 {
			t.Errorf("router %d counts %d requests, want 1", i, n)
		}
	}
}

func TestUpdateRoutesWhileRunning(t *testing.T) {
	testenv.Goroutines(t)
	r := start(t, onLoopback(forward("web", 0, backend(t, "old"))))
	addr := r.Addrs()["proxy"][0]
	if err := r.UpdateRoutes(t.Context(), []proxy.Route{forward("web", 0, backend(t, "new"))}); err != nil {
		t.Fatal(err)
	}
	if body, err := fetch(addr); body != "new" || err != nil {
		t.Errorf("after the update: %q, %v", body, err)
	}

	err := r.UpdateRoutes(t.Context(), []proxy.Route{{Match: proxy.Match{Ports: proxy.Ports(70000)}, Action: proxy.Action{Type: "forward"}}})
	fields := dcrouter.FieldErrors(err)
	if len(fields) != 2 || fields[0].Path != "smartProxyConfig.routes[0].match.ports[0]" {
		t.Errorf("a bad update gave %v", err)
	}
	if body, err := fetch(addr); body != "new" || err != nil {
		t.Errorf("after a bad update: %q, %v", body, err)
	}
	if routes := r.Routes(); len(routes) != 1 || routes[0].Name != "web" {
		t.Errorf("routes are %v", routes)
	}
}

func TestManyUpdatesLeaveNothingBehind(t *testing.T) {
	testenv.Goroutines(t)
	to := backend(t, "x")
	r := start(t, onLoopback())
	update := func(i int) {
		routes := []proxy.Route{forward("fixed", 0, to), forward(fmt.Sprint("route ", i), 0, to)}
		routes[1].Match.Path = fmt.Sprintf("/%d/*", i)
		routes[1].Action.LoadBalancing.HealthCheck = &proxy.HealthCheck{Interval: time.Duration(i+1) * time.Hour}
		if err := r.UpdateRoutes(t.Context(), routes); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for i := range 50 {
		update(i)
	}
	before := heap()
	for i := range 500 {
		update(50 + i)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes over 500 updates", before, after)
	}
}

func TestRestartOnSamePort(t *testing.T) {
	testenv.Goroutines(t)
	to := backend(t, "up")
	r := start(t, onLoopback(forward("web", 0, to)))
	addr := r.Addrs()["proxy"][0]
	port := target(t, addr).Port
	stop(t, r)
	for i := range 50 {
		r, err := dcrouter.New(onLoopback(forward("web", port, to)))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the same Router may start again, too
			if err := r.Start(t.Context()); err != nil {
				t.Fatalf("start %d: %v", i, err)
			}
			if body, err := fetch(addr); body != "up" || err != nil {
				t.Fatalf("after start %d: %q, %v", i, body, err)
			}
			stop(t, r)
		}
	}
}

// streamTo is a listener, and a route that takes streams there.
func streamTo(t testing.TB) (net.Listener, proxy.Route) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	route := forward("stream", 0, target(t, ln.Addr().String()))
	route.Match.Protocol = "tcp"
	return ln, route
}

// A stream that does not end uses up the time of all, which is no failure of those
// that have nothing under way.
func TestStopBlamesTheProxyAlone(t *testing.T) {
	testenv.Goroutines(t)
	ln, route := streamTo(t)
	r, err := dcrouter.New(onLoopback(route), dcrouter.WithDNS(dnsserver.Config{ListenHost: "127.0.0.1", Port: new(0)}),
		dcrouter.WithRADIUS(radius.Config{ListenHost: "127.0.0.1", Port: new(0), AccountingPort: new(0), Secret: "a secret of the tests"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", r.Addrs()["proxy"][0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := ln.Accept() // so the stream is there
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = r.Stop(ctx)
	if err == nil || !strings.Contains(err.Error(), "proxy") || strings.Contains(err.Error(), "dns") || strings.Contains(err.Error(), "radius") {
		t.Errorf("Stop: %v", err)
	}
}

func TestStopFromManySides(t *testing.T) {
	testenv.Goroutines(t)
	r := start(t, onLoopback(forward("web", 0, backend(t, "x"))))
	if err := r.Start(t.Context()); !errors.Is(err, dcrouter.ErrRunning) {
		t.Errorf("a second Start gave %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- r.Wait() }()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { stop(t, r) })
	}
	wg.Wait()
	if err := <-waited; err != nil {
		t.Errorf("Wait gave %v", err)
	}
	stop(t, r)
}

func TestStartTakesEverythingBack(t *testing.T) {
	testenv.Goroutines(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := target(t, ln.Addr().String()).Port
	free := testenv.FreePort(t)
	folder := t.TempDir()
	to := backend(t, "x")
	opts := []dcrouter.Option{onLoopback(forward("a", free, to), forward("b", taken, to)), dcrouter.WithStorage(storage.Dir(folder))}
	r, err := dcrouter.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Start(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), strconv.Itoa(taken)) {
		t.Fatalf("start on a port in use gave %v", err)
	}
	if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", free)); err != nil {
		t.Error("the other port is still bound:", err)
	} else {
		ln.Close()
	}
	ln.Close()
	if err := r.Start(t.Context()); err != nil { // the folder is free again, too
		t.Fatal(err)
	}
	stop(t, r)
}

func TestListenerOfTheHost(t *testing.T) {
	testenv.Goroutines(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, onLoopback(forward("web", 80, backend(t, "x"))), dcrouter.WithListener("127.0.0.1:80", ln))
	if got := r.Addrs()["proxy"]; len(got) != 1 || got[0] != ln.Addr().String() {
		t.Errorf("addresses are %v", got)
	}
	if body, err := fetch(ln.Addr().String()); body != "x" || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestStorage(t *testing.T) {
	testenv.Goroutines(t)
	values := map[string]string{}
	var mu sync.Mutex
	read := func(_ context.Context, key string) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		v, ok := values[key]
		if !ok {
			return nil, storage.ErrNotFound
		}
		return []byte(v), nil
	}
	write := func(_ context.Context, key string, value []byte) error {
		mu.Lock()
		defer mu.Unlock()
		values[key] = string(value)
		return nil
	}
	r := start(t, dcrouter.WithStorageFuncs(read, write))
	if err := r.Store().Put(t.Context(), "/a/b", []byte("v")); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	got := values["a/b"]
	mu.Unlock()
	if got != "v" {
		t.Errorf("the host's function was given %q", got)
	}
	stop(t, r)
	if r.Store() != nil {
		t.Error("a stopped router still hands out its store")
	}

	cfg := dcrouter.Config{Storage: &dcrouter.StorageConfig{FSPath: t.TempDir()}}
	r = start(t, dcrouter.WithConfig(cfg))
	second, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("two routers on one folder: %v", err)
	}
	stop(t, r)
}

func TestWarnsOfMemoryStorage(t *testing.T) {
	var log strings.Builder
	start(t, dcrouter.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if !strings.Contains(log.String(), "memory") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestCollector(t *testing.T) {
	registry := prometheus.NewRegistry()
	to := backend(t, "x")
	for i := range 2 {
		unnamed := forward("", 0, to)
		unnamed.Match.Path = "/x"
		checked := forward("checked", 0, to) // the same target on other terms
		checked.Match.Path = "/y"
		checked.Action.LoadBalancing.HealthCheck = &proxy.HealthCheck{}
		r := start(t, onLoopback(forward("web", 0, to), unnamed, checked))
		if _, err := fetch(r.Addrs()["proxy"][0]); err != nil {
			t.Fatal(err)
		}
		prometheus.WrapRegistererWith(prometheus.Labels{"router": strconv.Itoa(i)}, registry).MustRegister(r.Collector())
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	requests := 0.0
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
		if f.GetName() != "dcrouter_route_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			requests += m.GetCounter().GetValue()
		}
	}
	if requests != 2 {
		t.Errorf("two routers with a request each count %v", requests)
	}
	for _, name := range []string{"route_queued", "route_retries_total", "route_retries_refused_total", "target_ejected", "target_ejections_total"} {
		if !names["dcrouter_"+name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// The access log goes where the host says.
func TestAccessLogOption(t *testing.T) {
	var log safeBuffer
	route := proxy.Route{Name: "web", Match: proxy.Match{Ports: proxy.Ports(0), Protocol: "http"},
		Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://example.org/"}}}
	r := startRouter(t, dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route}}),
		dcrouter.WithProxyOptions(proxy.WithAccessLog(slog.New(slog.NewJSONHandler(&log, nil)))))
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get("http://" + r.Addrs()["proxy"][0] + "/page")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	testenv.WaitFor(t, 10*time.Second, func() error {
		if text := log.String(); !strings.Contains(text, `"/page"`) || !strings.Contains(text, `"web"`) {
			return fmt.Errorf("the log says %q", text)
		}
		return nil
	})
}

// safeBuffer is for a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
