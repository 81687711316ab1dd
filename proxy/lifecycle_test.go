package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func stopWithin(p *Proxy, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.Stop(ctx)
}

func mustStart(t testing.TB, p *Proxy) {
	t.Helper()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// sameGoroutines fails the test if at its end, other cleanups done, more
// goroutines of anyone are there than now, those of net/http included.
func sameGoroutines(t testing.TB) {
	t.Helper()
	testenv.Goroutines(t)
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		n := 0
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if n = runtime.NumGoroutine(); n <= before {
				return
			}
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, before %d:\n%s", n, before, buf[:runtime.Stack(buf, true)])
	})
}

func refused(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err != nil
}

func TestThreeProxiesInOneProcess(t *testing.T) {
	sameGoroutines(t)
	var proxies [3]*Proxy
	var addrs [3]string
	for i := range proxies {
		_, target := backend(t, says(fmt.Sprint(i)))
		proxies[i] = newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", target)}})
		mustStart(t, proxies[i])
		addrs[i] = addr(t, proxies[i], 0)
	}
	ask := func(i, times int) {
		c := client(t, addrs[i], nil)
		for range times {
			if _, body := get(t, c, "http://a.test/"); body != fmt.Sprint(i) {
				t.Errorf("proxy %d answered %q", i, body)
			}
		}
	}
	var wg sync.WaitGroup
	for i := range proxies {
		wg.Go(func() { ask(i, 10*(i+1)) })
	}
	waitAll(t, &wg)
	for i, p := range proxies {
		if n := p.Stats().Requests; n != uint64(10*(i+1)) {
			t.Errorf("proxy %d counted %d requests", i, n)
		}
	}
	if err := stopWithin(proxies[1], 5*time.Second); err != nil {
		t.Error(err)
	}
	if !refused(addrs[1]) {
		t.Error("the stopped one accepts")
	}
	ask(0, 1)
	ask(2, 1)
}

func TestRestartOnTheSamePort(t *testing.T) {
	const times = 50
	sameGoroutines(t)
	_, web := backend(t, says("web"))
	peer := tcpEcho(t)
	certPath, keyPath, pool := testenv.SelfSigned(t, "s.test")
	port, port2 := testenv.FreePort(t), testenv.FreePort(t)
	secure := httpRoute("secure", port, "s.test", web)
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: certPath, KeyPath: keyPath}}
	checked := streamRoute("raw", port2, peer.target())
	checked.Action.LoadBalancing.HealthCheck = &HealthCheck{Interval: time.Millisecond}
	cfg := Config{Routes: []Route{httpRoute("web", port, "a.test", web), secure, checked}}

	cycle := func(p *Proxy) {
		t.Helper()
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		get(t, client(t, addr(t, p, port), nil), "http://a.test/")
		get(t, client(t, addr(t, p, port), pool), "https://s.test/")
		c := dialTCP(t, addr(t, p, port2))
		mustBounce(t, c, "hello") // open at Stop: the proxy closes first
		if err := stopWithin(p, time.Millisecond); err == nil {
			t.Error("Stop cut a stream and says nothing")
		}
		if !isClosed(c, 5*time.Second) {
			t.Error("a stream outlived Stop")
		}
	}
	same := newProxy(t, cfg)
	for range times {
		cycle(same)
	}
	if n := routeStats(same, "web"); n.Requests != 0 {
		t.Logf("stopped, but routes are in Stats: %+v", n)
	}
	if n := same.Stats().Requests; n != 2*times {
		t.Errorf("%d requests counted over all runs, want %d", n, 2*times)
	}
	for range times {
		cycle(newProxy(t, cfg))
	}
}

// slowly answers when it is told to.
func slowly(t testing.TB) (target Target, begun chan bool, finish func()) {
	begun = make(chan bool, 100)
	done := make(chan struct{})
	finish = sync.OnceFunc(func() { close(done) })
	_, target = backend(t, func(w http.ResponseWriter, r *http.Request) {
		begun <- true
		select {
		case <-done:
		case <-r.Context().Done():
		}
		io.WriteString(w, "finished")
	})
	t.Cleanup(finish) // before the server's end, which waits for its requests
	return target, begun, finish
}

func TestStopDrains(t *testing.T) {
	sameGoroutines(t)
	slow, begun, finish := slowly(t)
	_, upgrades := backend(t, upgradeEcho)
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	p := newProxy(t, Config{Routes: []Route{httpRoute("slow", 0, "slow.test", slow), httpRoute("ws", 0, "ws.test", upgrades), streamRoute("raw", port, peer.target())}})
	mustStart(t, p)
	web := addr(t, p, 0)
	c := client(t, web, nil)
	type answer struct {
		status int
		body   string
	}
	answers := make(chan answer, 1)
	go func() {
		status, body := get(t, c, "http://slow.test/")
		answers <- answer{status, body}
	}()
	receive(t, begun)
	ws := dialUpgrade(t, web, "ws.test")
	raw := dialTCP(t, addr(t, p, port))
	mustBounce(t, raw, "one")

	stopped := make(chan error, 1)
	go func() { stopped <- stopWithin(p, 10*time.Second) }()
	eventually(t, "new connections are refused", func() bool { return refused(web) })
	if err := p.Start(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("Start while stopping: %v", err)
	}
	if p.Addrs() != nil {
		t.Error("addresses while stopping")
	}
	mustBounce(t, ws, "two")
	mustBounce(t, raw, "two")
	finish()
	if a := receive(t, answers); a.status != 200 || a.body != "finished" {
		t.Errorf("the request in flight got %+v", a)
	}
	mustBounce(t, ws, "three")
	ws.Write(nil)
	select {
	case err := <-stopped:
		t.Fatalf("Stop returned %v before all had ended", err)
	case <-time.After(100 * time.Millisecond):
	}
	raw.CloseWrite()
	if got, err := io.ReadAll(raw); err != nil || len(got) > 0 {
		t.Errorf("stream ended with %q, %v", got, err)
	}
	raw.Close()
	closeUpgraded(ws)
	if err := receive(t, stopped); err != nil {
		t.Errorf("Stop: %v though all ended in time", err)
	}
}

// closeUpgraded closes what dialUpgrade returned.
func closeUpgraded(rw io.ReadWriter) {
	rw.(struct {
		io.Reader
		io.Writer
	}).Writer.(net.Conn).Close()
}

func TestStopAtItsDeadline(t *testing.T) {
	for _, test := range []struct {
		name string
		stop func(*Proxy) error
	}{
		{"of the context", func(p *Proxy) error { return stopWithin(p, 300*time.Millisecond) }},
		{"of Timeouts.Drain", func(p *Proxy) error { return p.Stop(context.Background()) }},
		{"of cancellation", func(p *Proxy) error {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(300*time.Millisecond, cancel)
			return p.Stop(ctx)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sameGoroutines(t)
			slow, begun, _ := slowly(t)
			_, upgrades := backend(t, upgradeEcho)
			_, events := backend(t, sseServer)
			peer := tcpEcho(t)
			port := testenv.FreePort(t)
			drain := 300 * time.Millisecond
			if test.name == "of the context" {
				drain = time.Millisecond // a deadline of the context has the say
			}
			p := newProxy(t, Config{Timeouts: Timeouts{Drain: drain}, Routes: []Route{
				httpRoute("slow", 0, "slow.test", slow), httpRoute("ws", 0, "ws.test", upgrades), httpRoute("sse", 0, "sse.test", events), streamRoute("raw", port, peer.target())}})
			mustStart(t, p)
			web := addr(t, p, 0)
			c := client(t, web, nil)
			failed := make(chan error, 1)
			go func() {
				resp, err := c.Get("http://slow.test/")
				if err == nil {
					resp.Body.Close()
				}
				failed <- err
			}()
			receive(t, begun)
			ws := dialUpgrade(t, web, "ws.test")
			raw := dialTCP(t, addr(t, p, port))
			mustBounce(t, raw, "one")
			sse, err := c.Get("http://sse.test/")
			if err != nil {
				t.Fatal(err)
			}
			defer sse.Body.Close()
			begin := time.Now()
			if err := test.stop(p); err == nil {
				t.Error("no error though connections had to be closed")
			}
			if d := time.Since(begin); d < 250*time.Millisecond || d > 2*time.Second {
				t.Errorf("took %v, want 300ms", d)
			}
			if err := receive(t, failed); err == nil {
				t.Error("the hanging request got an answer")
			}
			if err := bounce(ws, "two"); err == nil {
				t.Error("the upgraded connection lives")
			}
			if err := bounce(raw, "two"); err == nil {
				t.Error("the stream lives")
			}
			io.Copy(io.Discard, sse.Body)
			eventually(t, "targets are left alone", func() bool { return peer.open.Load() == 0 })
			begin = time.Now()
			if stopWithin(p, 5*time.Second); time.Since(begin) > time.Second {
				t.Error("Stop of what has stopped waits")
			}
		})
	}
}

// Connections that carry nothing must not hold a stop.
func TestStopFastWithSilentClients(t *testing.T) {
	_, web := backend(t, says("web"))
	cert, key, pool := testenv.SelfSigned(t, "s.test")
	secure := httpRoute("secure", 0, "s.test", web)
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	for name, dial := range map[string]func(t *testing.T, at string){
		"nothing sent":  func(t *testing.T, at string) { dialTCP(t, at) },
		"half a word":   func(t *testing.T, at string) { io.WriteString(dialTCP(t, at), "GE") },
		"half a hello":  func(t *testing.T, at string) { io.WriteString(dialTCP(t, at), "\x16\x03\x01\x02\x00\x01") },
		"idle HTTP":     func(t *testing.T, at string) { get(t, client(t, at, nil), "http://a.test/") },
		"idle HTTPS h2": func(t *testing.T, at string) { get(t, client(t, at, pool), "https://s.test/") },
		"only a handshake": func(t *testing.T, at string) {
			dialTLS(t, at, "s.test", pool)
		},
		"only a handshake for HTTP/1": func(t *testing.T, at string) {
			dialTLS(t, at, "s.test", pool, "http/1.1")
		},
		"only a handshake for HTTP/2": func(t *testing.T, at string) {
			dialTLS(t, at, "s.test", pool, "h2")
		},
		"HTTP/2 without requests": func(t *testing.T, at string) {
			c := dialTLS(t, at, "s.test", pool, "h2")
			io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			io.ReadFull(c, make([]byte, 9))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", web), secure}})
			mustStart(t, p)
			dial(t, addr(t, p, 0))
			eventually(t, "accepted", func() bool { return p.Stats().ActiveConnections == 1 })
			time.Sleep(50 * time.Millisecond) // so that it waits where it waits
			begin := time.Now()
			if err := stopWithin(p, 20*time.Second); err != nil {
				t.Error(err)
			}
			if d := time.Since(begin); d > 1500*time.Millisecond {
				t.Errorf("Stop took %v", d)
			}
		})
	}
}

func TestStopWithExpiredContextAndNothingOpen(t *testing.T) {
	testenv.Goroutines(t)
	_, web := backend(t, says("web"))
	p := newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", web)}})
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for range 30 {
		mustStart(t, p)
		if err := p.Stop(over); err != nil {
			t.Fatalf("nothing was open, but: %v", err)
		}
	}
}

func TestStopConcurrently(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	for round := range 10 {
		p := newProxy(t, Config{Routes: []Route{streamRoute("raw", port, peer.target())}})
		mustStart(t, p)
		c := dialTCP(t, addr(t, p, port))
		mustBounce(t, c, "one")
		var wg sync.WaitGroup
		var cut atomic.Int64
		for i := range 10 {
			wg.Go(func() {
				// Some have much patience, some a little, some none.
				if err := stopWithin(p, time.Duration(i%5)*(50*time.Millisecond)+time.Duration(i/5)*10*time.Second); err != nil {
					cut.Add(1)
				}
			})
		}
		begin := time.Now()
		waitAll(t, &wg)
		if d := time.Since(begin); d > 5*time.Second {
			t.Fatalf("round %d took %v", round, d)
		}
		if !isClosed(c, time.Second) {
			t.Error("the stream lives")
		}
		if cut.Load() == 0 {
			t.Error("the stream was cut, and no caller of Stop was told")
		}
		if !refused(fmt.Sprintf("127.0.0.1:%d", port)) {
			t.Error("still listening")
		}
	}
}

// The one whose patience ends cuts what is open, and is told.
func TestStopImpatientCaller(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	p := newProxy(t, Config{Routes: []Route{streamRoute("raw", port, peer.target())}})
	mustStart(t, p)
	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "one")
	patient := make(chan error, 1)
	go func() { patient <- stopWithin(p, 20*time.Second) }()
	eventually(t, "it stops", func() bool { return p.Addrs() == nil })
	err := stopWithin(p, 50*time.Millisecond)
	if other := receive(t, patient); err == nil && other == nil {
		t.Error("an open stream was cut, and neither caller was told")
	}
}

func TestStopBeforeStart(t *testing.T) {
	p := newProxy(t, Config{})
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestStopDuringStartAndUpdate(t *testing.T) {
	sameGoroutines(t)
	_, web := backend(t, says("web"))
	var ports [6]int
	for i := range ports {
		ports[i] = testenv.FreePort(t)
	}
	routes := func(n int) (list []Route) {
		for i := range n {
			r := httpRoute("", ports[i], "a.test", web)
			r.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/", Interval: time.Millisecond}
			list = append(list, r)
		}
		return list
	}
	p := newProxy(t, Config{Routes: routes(3)})
	for round := range 60 {
		var wg sync.WaitGroup
		pause := time.Duration(round%10) * 100 * time.Microsecond
		wg.Go(func() {
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
			}
			for n := range ports {
				if err := p.UpdateRoutes(t.Context(), routes(n+1)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			time.Sleep(pause)
			stopWithin(p, 5*time.Second)
		})
		waitAll(t, &wg)
		if err := stopWithin(p, 5*time.Second); err != nil {
			t.Error(err)
		}
		for _, port := range ports {
			if !refused(fmt.Sprintf("127.0.0.1:%d", port)) {
				t.Fatalf("round %d: port %d is open after Stop", round, port)
			}
		}
	}
}

func TestStopUnderLoad(t *testing.T) {
	sameGoroutines(t)
	_, web := backend(t, says("web"))
	cert, key, pool := testenv.SelfSigned(t, "s.test")
	secure := httpRoute("secure", 0, "s.test", web)
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	for range 5 {
		p := newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", web), secure}})
		mustStart(t, p)
		at := addr(t, p, 0)
		var stopping atomic.Bool
		var done atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			c, url := client(t, at, pool), []string{"http://a.test/", "https://s.test/"}[i%2]
			wg.Go(func() {
				for {
					resp, err := c.Get(url)
					if err == nil {
						var body []byte
						body, err = io.ReadAll(resp.Body)
						resp.Body.Close()
						if err == nil && (resp.StatusCode != 200 || string(body) != "web") {
							t.Errorf("%s %q", resp.Status, body)
						}
					}
					if err != nil {
						if !stopping.Load() {
							t.Error(err)
						}
						return
					}
					done.Add(1)
				}
			})
		}
		eventually(t, "load", func() bool { return done.Load() > 50 })
		stopping.Store(true)
		begin := time.Now()
		if err := stopWithin(p, 20*time.Second); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("Stop took %v", d)
		}
		waitAll(t, &wg)
	}
}

func TestWait(t *testing.T) {
	testenv.Goroutines(t)
	_, web := backend(t, says("web"))
	p := newProxy(t, Config{Routes: []Route{httpRoute("web", 0, "a.test", web)}})
	for range 2 {
		mustStart(t, p)
		waits := make(chan error, 3)
		for range cap(waits) {
			go func() { waits <- p.Wait() }()
		}
		select {
		case err := <-waits:
			t.Fatalf("Wait returned %v while it runs", err)
		case <-time.After(50 * time.Millisecond):
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range cap(waits) {
			select {
			case err := <-waits:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Wait does not return after Stop")
			}
		}
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// A listener of the host's that dies is not the proxy's secret.
func TestWaitReportsDeadListener(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, Config{Routes: []Route{streamRoute("raw", 7, peer.target())}}, WithListener("127.0.0.1:7", ln))
	mustStart(t, p)
	wait := make(chan error, 2)
	for range cap(wait) {
		go func() { wait <- p.Wait() }()
	}
	ln.Close()
	for range cap(wait) {
		select {
		case err := <-wait:
			if err == nil || !strings.Contains(err.Error(), "127.0.0.1:7") && !strings.Contains(err.Error(), ln.Addr().String()) && !strings.Contains(err.Error(), "port 7") {
				t.Errorf("Wait says %v, want an error that names the listener", err)
			}
		case <-time.After(2 * time.Second):
			t.Error("Wait says nothing")
		}
	}
}

func TestStopClosesUnusedListener(t *testing.T) {
	peer := tcpEcho(t)
	used, unused := newMemory(), newMemory()
	p := newProxy(t, Config{Routes: []Route{streamRoute("raw", 7, peer.target())}}, WithListener("127.0.0.1:7", used), WithListener("127.0.0.1:8", unused))
	mustStart(t, p)
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, ln := range []*memory{used, unused} {
		select {
		case <-ln.done:
		default:
			t.Error("a listener that was given is open after Stop")
		}
	}
}

func TestStartErrors(t *testing.T) {
	sameGoroutines(t)
	peer := tcpEcho(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	busyAddr := busy.Addr().String()
	var routes []Route
	var free []string
	for i := range 5 {
		port := testenv.FreePort(t)
		free = append(free, fmt.Sprintf("127.0.0.1:%d", port))
		r := streamRoute(fmt.Sprint(i), port, peer.target())
		r.Action.LoadBalancing.HealthCheck = &HealthCheck{Interval: time.Millisecond}
		routes = append(routes, r)
	}
	routes = append(routes, streamRoute("busy", targetOf(busy.Addr()).Port, peer.target()))
	p := newProxy(t, Config{Routes: routes})
	for range 5 {
		if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), busyAddr) {
			t.Fatalf("error %v does not name %s", err, busyAddr)
		}
		if p.Addrs() != nil {
			t.Errorf("addresses %v", p.Addrs())
		}
		for _, a := range free {
			if !refused(a) {
				t.Errorf("%s is bound", a)
			}
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	busy.Close()
	if err := p.Start(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
	for _, a := range append(free, busyAddr) {
		if !refused(a) {
			t.Errorf("%s is bound", a)
		}
	}
	if peer.accepted.Load() != 0 {
		t.Error("health checks ran without a start")
	}
	mustStart(t, p)
	if err := p.Start(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("Start twice: %v", err)
	}
	for _, a := range append(free, busyAddr) {
		mustBounce(t, dialTCP(t, a), "hello")
	}
}

// A start that failed has not used up what the host gave.
func TestFailedStartKeepsGivenListener(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	given := newMemory()
	p := newProxy(t, Config{Routes: []Route{streamRoute("given", 7, peer.target()), streamRoute("busy", targetOf(busy.Addr()).Port, peer.target())}},
		WithListener("127.0.0.1:7", given))
	if err := p.Start(t.Context()); err == nil {
		t.Fatal("no error")
	}
	busy.Close()
	mustStart(t, p)
	select {
	case <-given.done:
		t.Fatal("the given listener was closed by the start that failed")
	default:
	}
	mustBounce(t, given.dial(t), "hello")
}

func TestFreePortAndAddrs(t *testing.T) {
	peer := tcpEcho(t)
	fixed := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{streamRoute("fixed", fixed, peer.target()), streamRoute("free", 0, peer.target())}})
	addrs := p.Addrs()
	if len(addrs) != 2 || addrs[0].(*net.TCPAddr).Port == 0 || addrs[1].(*net.TCPAddr).Port != fixed {
		t.Fatalf("addresses %v", addrs)
	}
	for _, a := range addrs {
		mustBounce(t, dialTCP(t, a.String()), "hello")
	}
	if p.Addr(0).String() != addrs[0].String() || p.Addr(fixed).String() != addrs[1].String() || p.Addr(1) != nil {
		t.Errorf("Addr: %v %v %v", p.Addr(0), p.Addr(fixed), p.Addr(1))
	}
}
