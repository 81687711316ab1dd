package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestUpdatesDropNothing(t *testing.T) {
	const updates = 1000
	testenv.Goroutines(t)
	var accepted atomic.Int64
	counting := httptest.NewUnstartedServer(says("stable"))
	counting.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			accepted.Add(1)
		}
	}
	counting.Start()
	closeAfter(t, counting)
	stable := targetOf(counting.Listener.Addr())
	_, one := backend(t, says("moving"))
	_, two := backend(t, says("moving"))
	_, upgrades := backend(t, upgradeEcho)
	_, events := backend(t, sseServer)
	raw := tcpEcho(t)

	tcpPort := testenv.FreePort(t)
	extra := []int{testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)}
	routes := func(i int) []Route {
		rs := []Route{
			httpRoute("stable", 0, "stable.test", stable),
			httpRoute("ws", 0, "ws.test", upgrades),
			httpRoute("sse", 0, "sse.test", events),
			streamRoute("raw", tcpPort, raw.target()),
		}
		moving := httpRoute("moving", 0, "moving.test", []Target{one, two}[i%2])
		moving.Priority = i % 3
		rs = append(rs, moving)
		for j := range 10 {
			rs = append(rs, httpRoute("", 0, fmt.Sprintf("other%d.test", i+j), one, two))
		}
		if i%2 == 0 {
			rs = append(rs, streamRoute("extra", extra[i/2%3], raw.target()))
		}
		if i%5 == 0 { // the order given says nothing about who is who
			rs[0], rs[3] = rs[3], rs[0]
		}
		return rs
	}
	// Short, so that what drains after one update does so during later ones.
	p := start(t, Config{Routes: routes(0), Timeouts: Timeouts{Drain: 300 * time.Millisecond}})
	web, tcp := addr(t, p, 0), addr(t, p, tcpPort)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	end := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(func() {
		end() // also if the test has failed
		waitAll(t, &wg)
	})

	var requests, stableRequests, wsMessages, tcpMessages, sseEvents atomic.Int64
	const workers = 3
	for range workers {
		c := client(t, web, nil)
		wg.Go(func() {
			for !stopped() {
				for _, name := range []string{"stable", "moving"} {
					resp, err := c.Get("http://" + name + ".test/")
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(body) != name {
						t.Errorf("%s: %s %q %v", name, resp.Status, body, err)
						return
					}
					requests.Add(1)
					if name == "stable" {
						stableRequests.Add(1)
					}
				}
			}
		})
	}
	ws := dialUpgrade(t, web, "ws.test")
	mustBounce(t, ws, "before") // they are open when the updates begin
	wg.Go(func() {
		for !stopped() {
			if err := bounce(ws, fmt.Sprintf("message %d", wsMessages.Add(1))); err != nil {
				t.Errorf("upgraded connection: %v", err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	stream := dialTCP(t, tcp)
	mustBounce(t, stream, "before")
	wg.Go(func() {
		for !stopped() {
			if err := bounce(stream, fmt.Sprintf("message %d", tcpMessages.Add(1))); err != nil {
				t.Errorf("stream: %v", err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	sse := client(t, web, nil)
	sse.Timeout = 2 * time.Minute // for the whole stream
	resp, err := sse.Get("http://sse.test/")
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for !stopped() {
			if !lines.Scan() {
				t.Errorf("event stream ended: %v", lines.Err())
				return
			}
			if strings.HasPrefix(lines.Text(), "data: ") {
				if want := fmt.Sprintf("data: %d", sseEvents.Add(1)-1); lines.Text() != want {
					t.Errorf("event %q, want %q", lines.Text(), want)
					return
				}
			}
		}
	})

	begin, done := time.Now(), 0
	for i := 1; i <= updates && !t.Failed(); i++ {
		if err := p.UpdateRoutes(t.Context(), routes(i)); err != nil {
			t.Fatalf("update %d: %v", i, err)
		}
		done = i
		// Each update meets traffic.
		for n := requests.Load(); requests.Load() == n && !t.Failed(); {
			time.Sleep(100 * time.Microsecond)
		}
	}
	took := time.Since(begin)
	// Everything must still work after the last update, not only up to it.
	for _, n := range []*atomic.Int64{&requests, &wsMessages, &tcpMessages, &sseEvents} {
		from := n.Load()
		eventually(t, "traffic after the updates", func() bool { return t.Failed() || n.Load() > from+2 })
	}
	s := p.Stats()
	end()
	waitAll(t, &wg)
	t.Logf("%d updates in %v; meanwhile %d requests, %d upgraded messages, %d stream messages, %d events; %d connections to the stable target",
		done, took, requests.Load(), wsMessages.Load(), tcpMessages.Load(), sseEvents.Load(), accepted.Load())

	if n := accepted.Load(); n > 2*workers {
		t.Errorf("the stable target got %d connections for %d clients: pooled ones were lost", n, workers)
	}
	if n := raw.accepted.Load(); n != 1 {
		t.Errorf("the stream's target got %d connections", n)
	}
	if got, sent := routeStats(p, "stable").Requests, uint64(stableRequests.Load()); got != sent {
		t.Errorf("route counted %d requests, %d were made", got, sent)
	}
	if got := targetStats(p, stable).Total; got < uint64(stableRequests.Load()) {
		t.Errorf("target counted %d requests of %d", got, stableRequests.Load())
	}
	for _, name := range []string{"ws", "sse", "raw"} {
		for _, r := range s.Routes {
			if r.Name == name && r.Active != 1 {
				t.Errorf("route %s has %d active, want 1", name, r.Active)
			}
		}
	}
	for reason, n := range s.Refused {
		if n > 0 {
			t.Errorf("%d refused: %s", n, reason)
		}
	}
}

func TestUpdateIsTransactional(t *testing.T) {
	testenv.Goroutines(t)
	_, old := backend(t, says("old"))
	_, other := backend(t, says("new"))
	p := start(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", old)}})
	c := client(t, addr(t, p, 0), nil)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	busyPort := busy.Addr().(*net.TCPAddr).Port
	dir := testenv.Folder(t)
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	terminate := func(cert, key string) Route {
		r := httpRoute("secure", 0, "b.test", other)
		r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
		return r
	}
	certPath, _, _ := testenv.SelfSigned(t)
	_, foreignKey, _ := testenv.SelfSigned(t)
	badRegex := httpRoute("", 0, "c.test", other)
	badRegex.Match.Path = "~("
	badCA := terminate(certPath, certPath)
	badCA.Action.TLS.ClientAuth = &ClientAuth{CAPath: garbage}

	before := p.Routes()
	for name, test := range map[string]struct {
		bad  Route
		want []string
	}{
		"invalid":           {badRegex, []string{"routes[2].match.path"}},
		"no target":         {httpRoute("", 0, "c.test"), []string{"routes[2].action.targets"}},
		"port taken":        {streamRoute("s", busyPort, other), []string{fmt.Sprintf("127.0.0.1:%d", busyPort)}},
		"no certificate":    {terminate(filepath.Join(dir, "none.pem"), filepath.Join(dir, "none.pem")), []string{"routes[2].action.tls.certificate", "none.pem"}},
		"bad certificate":   {terminate(garbage, garbage), []string{"routes[2].action.tls.certificate", "garbage.pem"}},
		"key of another":    {terminate(certPath, foreignKey), []string{"routes[2].action.tls.certificate"}},
		"bad authorities":   {badCA, []string{"routes[2].action.tls.clientAuth.caPath"}},
		"duplicate name":    {httpRoute("web", 0, "c.test", other), []string{"routes[2].name", "routes[0]"}},
		"auto without hook": {terminateAuto(other), []string{"routes[2].action.tls.certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			opened := testenv.FreePort(t)
			err := p.UpdateRoutes(t.Context(), []Route{
				httpRoute("web", 0, "a.test", other),
				streamRoute("fine", opened, other),
				test.bad,
			})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not name %q", err, want)
				}
			}
			if status, body := get(t, c, "http://a.test/"); status != 200 || body != "old" {
				t.Errorf("got %d %q from the old routes", status, body)
			}
			if a := p.Addrs(); len(a) != 1 {
				t.Errorf("listens on %v", a)
			}
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", opened))
			if err != nil {
				t.Errorf("a port opened by the failed update is still taken: %v", err)
			} else {
				ln.Close()
			}
			if after := p.Routes(); !reflect.DeepEqual(before, after) {
				t.Errorf("Routes() changed to %+v", after)
			}
			if n := len(p.Stats().Targets); n != 1 {
				t.Errorf("%d targets, want 1", n)
			}
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.UpdateRoutes(cancelled, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if _, body := get(t, c, "http://a.test/"); body != "old" {
		t.Errorf("cancelled update took effect: %q", body)
	}
}

func terminateAuto(targets ...Target) Route {
	r := httpRoute("auto", 0, "auto.test", targets...)
	r.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{Auto: true}}
	return r
}

// A listener that the host gave is part of the transaction too.
func TestFailedUpdateKeepsGivenListener(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	given, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	const port = 7 // only a name for the given listener
	p := start(t, Config{}, WithListener("127.0.0.1:7", given))
	fine, bad := streamRoute("fine", port, peer.target()), streamRoute("bad", targetOf(busy.Addr()).Port, peer.target())
	if err := p.UpdateRoutes(t.Context(), []Route{fine, bad}); err == nil {
		t.Fatal("no error")
	}
	update(t, p, fine)
	if got := addr(t, p, port); got != given.Addr().String() {
		t.Fatalf("listens on %s, not on what the host gave", got)
	}
	mustBounce(t, dialTCP(t, given.Addr().String()), "hello")
}

func TestConcurrentUpdates(t *testing.T) {
	const callers, each = 8, 40
	testenv.Goroutines(t)
	_, steady := backend(t, says("steady"))
	var targets [callers]Target
	var ports [callers]int
	for i := range callers {
		_, targets[i] = backend(t, says(fmt.Sprint(i)))
		ports[i] = testenv.FreePort(t)
	}
	routes := func(i int) []Route {
		return []Route{
			httpRoute("steady", 0, "steady.test", steady),
			httpRoute("own", 0, "own.test", targets[i]),
			httpRoute("port", ports[i], "own.test", targets[i]),
		}
	}
	p := start(t, Config{Routes: routes(0)})
	web := addr(t, p, 0)
	c := client(t, web, nil)
	var wg, load sync.WaitGroup
	var done atomic.Bool
	load.Go(func() {
		for !done.Load() {
			resp, err := c.Get("http://steady.test/")
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		}
	})
	for i := range callers {
		wg.Go(func() {
			for range each {
				if err := p.UpdateRoutes(t.Context(), routes(i)); err != nil {
					t.Error(err)
				}
				p.Stats()
				p.Addrs()
				p.Routes()
			}
		})
	}
	waitAll(t, &wg)
	done.Store(true)
	waitAll(t, &load)
	// One of them was the last, in everything.
	_, body := get(t, c, "http://own.test/")
	for i := range callers {
		if fmt.Sprint(i) != body {
			if p.Addr(ports[i]) != nil {
				t.Errorf("port of caller %d is open, but routes are those of %s", i, body)
			}
			continue
		}
		if _, second := get(t, client(t, addr(t, p, ports[i]), nil), "http://own.test/"); second != body {
			t.Errorf("%q on the own port, %q on the shared one", second, body)
		}
		if got := p.Routes(); got[1].Action.Targets[0].Port != targets[i].Port {
			t.Errorf("Routes() says target %v", got[1].Action.Targets)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestChurnLeavesNothing(t *testing.T) {
	const updates = 500
	testenv.Goroutines(t)
	var servers [4]Target
	for i := range servers {
		_, servers[i] = backend(t, says("ok"))
	}
	raw := tcpEcho(t)
	var ports [5]int
	for i := range ports {
		ports[i] = testenv.FreePort(t)
	}
	certPath, keyPath, _ := testenv.SelfSigned(t, "secure.test")
	routes := func(i int) []Route {
		web := httpRoute("web", 0, "a.test", servers[i%4], servers[(i+1)%4])
		web.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/", Interval: time.Duration(5+i%3) * time.Millisecond}
		secure := httpRoute("secure", ports[i%2], "secure.test", servers[(i+2)%4])
		secure.Action.TLS = &TLS{Mode: TerminateAndReencrypt, Upstream: UpstreamTLS{ServerName: fmt.Sprintf("n%d.test", i)},
			Certificate: Certificate{CertPath: certPath, KeyPath: keyPath}}
		tcp := streamRoute("tcp", ports[2+i%3], raw.target(), Target{Host: "127.0.0.1", Port: 1})
		tcp.Action.LoadBalancing = LoadBalancing{Algorithm: []string{RoundRobin, IPHash, PowerOfTwo}[i%3],
			HealthCheck: &HealthCheck{Interval: time.Duration(5+i%2) * time.Millisecond, UnhealthyAfter: 1}}
		return []Route{web, secure, tcp, httpRoute("", 0, fmt.Sprintf("r%d.test", i), servers[i%4])}
	}
	p := start(t, Config{Routes: routes(0), Timeouts: Timeouts{Drain: 20 * time.Millisecond}})
	c := client(t, addr(t, p, 0), nil)
	churn := func(from, n int) {
		for i := from; i < from+n; i++ {
			update(t, p, routes(i)...)
			if i%5 == 0 {
				get(t, c, "http://a.test/")
				conn := dialTCP(t, addr(t, p, ports[2+i%3]))
				mustBounce(t, conn, "hello")
				if i%10 == 0 {
					update(t, p, routes(i+1)...) // it drains
				}
				conn.Close()
			}
		}
	}
	measure := func() (goroutines, files int, heap uint64) {
		c.CloseIdleConnections()
		time.Sleep(100 * time.Millisecond) // what drains or is being closed
		for range 3 {
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), openFiles(t), m.HeapAlloc
	}
	churn(0, 60) // pools and caches fill
	update(t, p, routes(0)...)
	g0, f0, h0 := measure()
	begin := time.Now()
	churn(60, updates)
	took := time.Since(begin)
	update(t, p, routes(0)...)
	var g1, f1 int
	var h1 uint64
	for range 20 { // what the kernel and idle connections hold on to goes away
		if g1, f1, h1 = measure(); g1 <= g0+3 && f1 <= f0+3 && h1 < h0+1<<20 {
			break
		}
	}
	t.Logf("%d updates in %v: goroutines %d -> %d, files %d -> %d, heap %d -> %d KiB", updates, took, g0, g1, f0, f1, h0>>10, h1>>10)
	if g1 > g0+3 {
		t.Errorf("goroutines grew from %d to %d", g0, g1)
	}
	if f1 > f0+3 {
		t.Errorf("open files grew from %d to %d", f0, f1)
	}
	if h1 > h0+1<<20 {
		t.Errorf("heap grew from %d to %d", h0, h1)
	}
}

func TestUpdateBeforeStartAndAfterStop(t *testing.T) {
	testenv.Goroutines(t)
	_, one := backend(t, says("one"))
	_, two := backend(t, says("two"))
	p, err := New(Config{ListenHost: "127.0.0.1", Routes: []Route{httpRoute("web", 0, "a.test", one)}}, WithLogger(testLogger(t)))
	if err != nil {
		t.Fatal(err)
	}
	bad := httpRoute("web", 70000, "a.test", two)
	if err := p.UpdateRoutes(t.Context(), []Route{bad}); err == nil {
		t.Error("accepted a bad route before Start")
	}
	update(t, p, httpRoute("web", 0, "a.test", two))
	if p.Addrs() != nil || p.Addr(0) != nil {
		t.Error("listens before Start")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); body != "two" {
		t.Errorf("got %q, want what was set before Start", body)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	update(t, p, httpRoute("web", 0, "a.test", one))
	if p.Addrs() != nil {
		t.Error("an update after Stop listens")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); body != "one" {
		t.Errorf("got %q, want what was set after Stop", body)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// everything is a route in which all that can be shared is set.
func everything() Route {
	yes := true
	return Route{Name: "all", Enabled: &yes,
		Match: Match{Ports: Ports(0), Domains: []string{"a.test"}, Methods: []string{"GET"}, Headers: map[string]string{"X-A": "*"},
			Query: map[string]string{"q": "*"}, ClientIP: []string{"127.0.0.1"}},
		Action: Action{Type: Forward, Targets: []Target{{Host: "127.0.0.1", Port: 9}},
			LoadBalancing: LoadBalancing{Sticky: &Sticky{Cookie: "c", Secure: &yes, HTTPOnly: &yes}, HealthCheck: &HealthCheck{Path: "/"}, CircuitBreaker: &CircuitBreaker{Statuses: []int{503}}},
			TLS:           &TLS{Mode: Terminate, Certificate: Certificate{CertPath: "c", KeyPath: "k"}, ClientAuth: &ClientAuth{CAPath: "ca"}},
			Headers: HeaderEdits{Request: HeaderEdit{Set: map[string]string{"X-B": "b"}, Add: map[string]string{"X-C": "c"}, Remove: []string{"X-D"}},
				Response: HeaderEdit{Set: map[string]string{"X-B": "b"}, Add: map[string]string{"X-C": "c"}, Remove: []string{"X-D"}}},
			Security:      Security{IPAllowList: []string{"127.0.0.0/8"}, IPBlockList: []string{"10.0.0.0/8"}, RateLimit: &RateLimit{RequestsPerSecond: 1}},
			Compression:   &Compression{Algorithms: []string{Gzip}, Types: []string{"text/*"}},
			ProxyProtocol: &ProxyProtocol{Accept: []string{"127.0.0.1"}, Send: 1}}}
}

// spoil changes every element of slices and maps and everything behind
// pointers that v leads to, so that it finds fields of tomorrow too.
func spoil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			spoil(v.Elem())
			v.Elem().SetZero()
		}
	case reflect.Struct:
		for i := range v.NumField() {
			spoil(v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			spoil(v.Index(i))
			v.Index(i).SetZero()
		}
	case reflect.Map:
		v.Clear()
	}
}

func TestRoutesAreCopies(t *testing.T) {
	want := []Route{everything()}
	given := []Route{everything()}
	p, err := New(Config{Routes: given})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		if got := p.Routes(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s changed the routes to %+v", what, got)
		}
	}
	check("New")
	spoil(reflect.ValueOf(given))
	if reflect.DeepEqual(given, want) {
		t.Fatal("spoil does nothing")
	}
	check("changing what New was given")
	spoil(reflect.ValueOf(p.Routes()))
	check("changing what Routes returned")
	given = []Route{everything()}
	update(t, p, given...)
	spoil(reflect.ValueOf(given))
	check("changing what UpdateRoutes was given")
}

// The caller may change what he passed in while it serves.
func TestRoutesPassedInMayChange(t *testing.T) {
	_, one := backend(t, says("one"))
	make := func() []Route {
		r := httpRoute("web", 0, "a.test", one)
		r.Match.Headers = map[string]string{"X-A": "yes"}
		r.Action.Headers.Response.Set = map[string]string{"X-B": "b"}
		r.Action.Security.IPAllowList = []string{"127.0.0.1"}
		return []Route{r}
	}
	given := make()
	trusted := []string{"10.0.0.1"}
	ticket := true
	cfg := Config{Routes: given, TrustedProxies: trusted, AllowSessionTicket: &ticket}
	p := start(t, cfg)
	ask := func() (int, string) {
		t.Helper()
		req, _ := http.NewRequest("GET", "http://a.test/", nil)
		req.Header.Set("X-A", "yes")
		resp, err := client(t, addr(t, p, 0), nil).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("X-B")
	}
	for range 2 {
		done := false
		var wg sync.WaitGroup
		wg.Go(func() { // the race detector sees whoever reads it still
			spoil(reflect.ValueOf(given))
			ticket = !ticket
			done = true
		})
		status, edited := ask()
		waitAll(t, &wg)
		if status != 200 || edited != "b" || !done {
			t.Errorf("got %d %q", status, edited)
		}
		given = make()
		update(t, p, given...)
	}
}
