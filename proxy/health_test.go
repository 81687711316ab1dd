package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// named is n streams servers that say who they are and then keep the stream.
func named(t testing.TB, n int) (peers []*tcpPeer, targets []Target) {
	for i := range n {
		p := tcpServer(t, func(c *net.TCPConn) {
			c.Write([]byte{byte('0' + i)})
			io.Copy(io.Discard, c)
		})
		peers, targets = append(peers, p), append(targets, p.target())
	}
	return peers, targets
}

// whom returns which of the named servers a new stream leads to.
func whom(t testing.TB, c net.Conn) int {
	t.Helper()
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return int(b[0] - '0')
}

func TestWeights(t *testing.T) {
	testenv.Goroutines(t)
	weights := []int{1, 2, 5, 0} // 0 is 1
	shares := []int{1, 2, 5, 1}
	const rounds = 60
	for _, algorithm := range []string{"", RoundRobin, PowerOfTwo, LeastConnections} {
		t.Run(algorithm, func(t *testing.T) {
			var counts [4]atomic.Int64
			var targets []Target
			for i, w := range weights {
				_, target := backend(t, func(http.ResponseWriter, *http.Request) { counts[i].Add(1) })
				target.Weight = w
				targets = append(targets, target)
			}
			r := httpRoute("web", 0, "a.test", targets...)
			r.Action.LoadBalancing.Algorithm = algorithm
			p := start(t, Config{Routes: []Route{r}})
			c := client(t, addr(t, p, 0), nil)
			for range rounds * 9 {
				get(t, c, "http://a.test/")
			}
			if algorithm == LeastConnections {
				// One at a time there is no load to compare: equals take turns.
				for i := range counts {
					if n := counts[i].Load(); n == 0 {
						t.Errorf("target %d got nothing", i)
					}
				}
				return
			}
			for i, share := range shares {
				n, want := int(counts[i].Load()), share*rounds
				// The random one has a deviation of less than 12 here.
				if tolerance := map[bool]int{true: 60, false: 1}[algorithm == PowerOfTwo]; n < want-tolerance || n > want+tolerance {
					t.Errorf("target %d with weight %d got %d, want %d", i, weights[i], n, want)
				}
			}
		})
	}
}

func TestLeastConnections(t *testing.T) {
	testenv.Goroutines(t)
	peers, targets := named(t, 3)
	targets[2].Weight = 2
	r := streamRoute("raw", 0, targets...)
	r.Action.LoadBalancing.Algorithm = LeastConnections
	p := start(t, Config{Routes: []Route{r}})
	open := map[int][]net.Conn{}
	dial := func(n int) {
		for range n {
			c := dialTCP(t, addr(t, p, 0))
			who := whom(t, c)
			open[who] = append(open[who], c)
		}
	}
	check := func(want ...int) {
		t.Helper()
		for i, n := range want {
			if len(open[i]) != n {
				t.Errorf("target %d has %d streams, want %d", i, len(open[i]), n)
			}
		}
	}
	dial(12)
	check(3, 3, 6)
	for _, c := range open[1] {
		c.Close()
	}
	open[1] = nil
	eventually(t, "the ends are seen", func() bool { return peers[1].open.Load() == 0 && targetStats(p, targets[1]).Active == 0 })
	dial(3)
	check(3, 3, 6)
}

func TestPowerOfTwoAvoidsTheLoaded(t *testing.T) {
	testenv.Goroutines(t)
	_, targets := named(t, 3)
	r := streamRoute("raw", 0, targets...)
	r.Action.LoadBalancing.Algorithm = PowerOfTwo
	p := start(t, Config{Routes: []Route{r}})
	counts := [3]int{}
	for range 90 {
		counts[whom(t, dialTCP(t, addr(t, p, 0)))]++
	}
	for i, n := range counts {
		if n < 22 || n > 38 { // at random one would be outside now and then
			t.Errorf("target %d has %d of 90 streams", i, n)
		}
	}
}

func TestIPHash(t *testing.T) {
	testenv.Loopback(t, "127.0.0.2")
	testenv.Goroutines(t)
	_, targets := named(t, 4)
	targets[3].Weight = 3
	port := testenv.FreePort(t)
	route := func(targets ...Target) Route {
		r := streamRoute("raw", port, targets...)
		r.Action.LoadBalancing.Algorithm = IPHash
		return r
	}
	p := start(t, Config{Routes: []Route{route(targets...)}})
	const clients = 240 // enough for chance to stay within the bounds below
	look := func() (where [clients]int) {
		t.Helper()
		for i := range where {
			c := dialFrom(t, fmt.Sprintf("127.0.0.%d", 2+i), addr(t, p, port))
			where[i] = whom(t, c)
			c.Close()
		}
		return where
	}
	before := look()
	if again := look(); again != before {
		t.Error("clients moved without a reason")
	}
	counts := [4]int{}
	for _, w := range before {
		counts[w]++
	}
	for i, bounds := range [][2]int{{15, 70}, {15, 70}, {15, 70}, {90, 150}} {
		if n := counts[i]; n < bounds[0] || n > bounds[1] {
			t.Errorf("target %d has %d of %d clients, want %v", i, n, clients, bounds)
		}
	}
	update(t, p, route(targets[0], targets[2], targets[3]))
	for i, w := range look() {
		if w == 1 {
			t.Error("a removed target got a client")
		}
		if before[i] != 1 && w != before[i] {
			t.Errorf("client %d moved from %d to %d, which were not touched", i, before[i], w)
		}
	}
	// The order of targets does not matter, nor do updates in between.
	update(t, p, route(targets[3], targets[1], targets[0], targets[2]))
	if after := look(); after != before {
		t.Error("clients did not come back to where they had been")
	}
}

func checked(r Route, h HealthCheck) Route {
	r.Action.LoadBalancing.HealthCheck = &h
	return r
}

func TestHealthCheckThresholds(t *testing.T) {
	t.Parallel()
	const bad, good = 500, 200
	script := []struct {
		status  int
		healthy bool // afterwards; 3 failures take it out, 2 successes bring it back
	}{
		{good, true}, {bad, true}, {bad, true}, {good, true}, {bad, true}, {404, true}, {-1, false}, {good, false},
		{bad, false}, {302, false}, {204, true}, {bad, true}, {399, true}, {400, true}, {199 + 201, true}, {503, false}, {good, false}, {good, true},
	}
	var probes atomic.Int64
	var p *Proxy
	var target Target
	ready, done := make(chan struct{}), make(chan struct{})
	_, target = backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			return
		}
		<-ready
		i := int(probes.Add(1)) - 1
		if i > len(script) {
			return
		}
		if i > 0 {
			if healthy := targetStats(p, target).Healthy; healthy != script[i-1].healthy {
				t.Errorf("healthy is %v after probe %d", healthy, i-1)
			}
		}
		if i == len(script) {
			close(done)
			return
		}
		if r.Method != "GET" {
			t.Errorf("probe with %s", r.Method)
		}
		if script[i].status < 0 {
			<-r.Context().Done() // longer than the proxy waits
			return
		}
		w.WriteHeader(script[i].status)
	})
	p = startBare(t, Config{Routes: []Route{checked(httpRoute("web", 0, "a.test", target), HealthCheck{Path: "/health", Interval: 5 * time.Millisecond, Timeout: 500 * time.Millisecond})}})
	close(ready)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("only %d probes", probes.Load())
	}
}

func TestTCPHealthCheck(t *testing.T) {
	t.Parallel()
	healthy := tcpEcho(t)
	flaky := tcpEcho(t)
	target := flaky.target()
	port := testenv.FreePort(t)
	p := startBare(t, Config{Routes: []Route{checked(streamRoute("raw", port, target, healthy.target()), HealthCheck{Interval: 10 * time.Millisecond})}})
	eventually(t, "it is probed", func() bool { return flaky.accepted.Load() > 3 })
	if s := targetStats(p, target); !s.Healthy || s.Total != 0 {
		t.Errorf("%+v", s)
	}
	flaky.Close()
	eventually(t, "it is found dead", func() bool { return !targetStats(p, target).Healthy })
	for range 20 {
		mustBounce(t, dialTCP(t, addr(t, p, port)), "to the other")
	}
	if s := targetStats(p, target); s.Total != 0 || s.LastError == "" {
		t.Errorf("%+v", s)
	}
	ln, err := net.Listen("tcp", flaky.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var streams atomic.Int64
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if n, _ := io.Copy(c, c); n > 0 {
					streams.Add(1)
				}
			}()
		}
	}()
	eventually(t, "it is well again", func() bool { return targetStats(p, target).Healthy })
	eventually(t, "it gets streams again", func() bool {
		c := dialTCP(t, addr(t, p, port))
		mustBounce(t, c, "hello")
		c.Close()
		return streams.Load() > 0
	})
}

// TestBackEndProcess is not a test but the server of those that need one in a
// process of its own.
func TestBackEndProcess(t *testing.T) {
	at := os.Getenv("PROXY_TEST_BACKEND")
	if at == "" {
		return
	}
	err := http.ListenAndServe(at, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(time.Millisecond) // so that a kill meets requests
		fmt.Fprint(w, os.Getpid())
	}))
	t.Fatal(err)
}

func TestBackEndKilledUnderLoad(t *testing.T) {
	testenv.Goroutines(t)
	var ports [2]int
	var targets []Target
	launch := func(i int) *testenv.Process {
		at := fmt.Sprintf("127.0.0.1:%d", ports[i])
		return testenv.Start(t, testenv.Opts{Ready: at, Env: []string{"PROXY_TEST_BACKEND=" + at}}, os.Args[0], "-test.run=^TestBackEndProcess$")
	}
	var procs [2]*testenv.Process
	for i := range ports {
		ports[i] = testenv.FreePort(t)
		targets = append(targets, Target{Host: "127.0.0.1", Port: ports[i]})
		procs[i] = launch(i)
	}
	p := start(t, Config{Routes: []Route{checked(httpRoute("web", 0, "a.test", targets...), HealthCheck{Path: "/", Interval: 50 * time.Millisecond, Timeout: time.Second, UnhealthyAfter: 2})}})

	var made, errorsBefore, errorsAfter atomic.Int64
	var ejected, over atomic.Bool
	var mu sync.Mutex
	answered := map[string]int{}
	var wg sync.WaitGroup
	for i := range 6 {
		c := client(t, addr(t, p, 0), nil)
		wg.Go(func() {
			for !over.Load() {
				out := ejected.Load() // before it is sent
				var resp *http.Response
				var err error
				if i%2 == 0 {
					resp, err = c.Get("http://a.test/")
				} else {
					resp, err = c.Post("http://a.test/", "", strings.NewReader("a body"))
				}
				var body []byte
				if err == nil {
					body, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && resp.StatusCode != 200 {
						err = fmt.Errorf("%s", resp.Status)
					}
				}
				made.Add(1)
				switch {
				case err == nil:
					mu.Lock()
					answered[string(body)]++
					mu.Unlock()
				case out:
					t.Errorf("after the ejection: %v", err)
					errorsAfter.Add(1)
				case i%2 == 0:
					t.Errorf("a GET that could be repeated: %v", err)
				default:
					errorsBefore.Add(1) // it may have been done: to repeat it would be wrong
				}
			}
		})
	}
	defer waitAll(t, &wg)
	defer over.Store(true)
	answers := func(proc *testenv.Process) int {
		mu.Lock()
		defer mu.Unlock()
		return answered[fmt.Sprint(proc.Pid)]
	}
	eventually(t, "both work", func() bool { return answers(procs[0]) > 50 && answers(procs[1]) > 50 })
	killed := time.Now()
	procs[0].Kill()
	eventually(t, "it is ejected", func() bool { return !targetStats(p, targets[0]).Healthy })
	ejected.Store(true)
	toEjection := time.Since(killed)
	from := made.Load()
	eventually(t, "load goes on", func() bool { return made.Load() > from+500 })
	again := launch(0)
	back := time.Now()
	eventually(t, "it gets requests again", func() bool { return answers(again) > 50 })
	t.Logf("%d requests; ejected after %v, %d of those before failed, of those after %d; back %v after its start",
		made.Load(), toEjection, errorsBefore.Load(), errorsAfter.Load(), time.Since(back))
}

// deadTarget is one that nobody listens on.
func deadTarget(t testing.TB) Target {
	return Target{Host: "127.0.0.1", Port: testenv.FreePort(t)}
}

func TestFailover(t *testing.T) {
	testenv.Goroutines(t)
	const routes = 8
	var mu sync.Mutex
	var bodies []string
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		bodies = append(bodies, string(body))
		mu.Unlock()
		io.WriteString(w, "ok")
	})
	raw := tcpEcho(t)
	// Each route has its own dead target, which is not known for dead yet.
	var list []Route
	port := testenv.FreePort(t)
	for i := range routes {
		list = append(list, httpRoute("", 0, fmt.Sprintf("get%d.test", i), deadTarget(t), web), httpRoute("", 0, fmt.Sprintf("post%d.test", i), deadTarget(t), deadTarget(t), web))
	}
	dead := []Target{deadTarget(t), deadTarget(t), deadTarget(t)}
	list = append(list, streamRoute("raw", port, append(dead, raw.target())...))
	p := start(t, Config{Routes: list})
	c := client(t, addr(t, p, 0), nil)
	long := strings.Repeat("0123456789", 100_000)
	for i := range routes {
		for range 3 {
			if status, _ := get(t, c, fmt.Sprintf("http://get%d.test/", i)); status != 200 {
				t.Errorf("GET: %d", status)
			}
			for _, body := range []io.Reader{strings.NewReader("short"), strings.NewReader(long), io.MultiReader(strings.NewReader(long))} {
				resp, err := c.Post(fmt.Sprintf("http://post%d.test/", i), "", body)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("POST: %s", resp.Status)
				}
			}
		}
	}
	counts := map[string]int{}
	for _, b := range bodies {
		counts[b]++
	}
	if len(counts) != 3 || counts[""] != routes*3 || counts["short"] != routes*3 || counts[long] != routes*6 {
		t.Errorf("the target got %d different bodies, %d empty, %d short, %d long", len(counts), counts[""], counts["short"], counts[long])
	}
	for range 20 {
		mustBounce(t, dialTCP(t, addr(t, p, port)), "hello")
	}
	if n := raw.accepted.Load(); n != 20 {
		t.Errorf("%d streams", n)
	}
	for _, d := range dead {
		if s := targetStats(p, d); s.Healthy || s.Failures == 0 || s.Failures > 2 {
			t.Errorf("a dead target of streams: %+v", s)
		}
	}
	for _, s := range p.Stats().Targets {
		if s.Failures > 0 && (s.Healthy || s.Failures > 2 || s.LastError == "") {
			t.Errorf("a dead target is tried again and again, or not said to be dead: %+v", s)
		}
	}
}

// Nothing of a request has been sent while TLS is not up.
func TestFailoverOnBrokenTLS(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, pool := testenv.SelfSigned(t, "a.test", "s.test")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	broken := tcpServer(t, func(c *net.TCPConn) { io.WriteString(c, "this is not TLS\r\n") })
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: says("ok")}
	go srv.Serve(ln)
	defer srv.Close()
	echo := tlsServer(t, cert, key, func(c *tls.Conn) { io.Copy(c, c) })
	reencrypt := &TLS{Mode: TerminateAndReencrypt, Certificate: Certificate{CertPath: cert, KeyPath: key}, Upstream: UpstreamTLS{CAPath: cert, ServerName: "a.test"}}
	web := httpRoute("web", 0, "a.test", broken.target(), targetOf(ln.Addr()))
	web.Action.TLS = reencrypt
	raw := streamRoute("raw", 0, broken.target(), echo.target())
	raw.Match.Domains, raw.Action.TLS = []string{"s.test"}, reencrypt
	p := start(t, Config{Routes: []Route{web, raw}})
	c := client(t, addr(t, p, 0), pool)
	for range 6 {
		if status, body := get(t, c, "https://a.test/"); status != 200 || body != "ok" {
			t.Errorf("GET: %d %q", status, body)
		}
		resp, err := c.Post("https://a.test/", "", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("POST: %s", resp.Status)
		}
		mustBounce(t, dialTLS(t, addr(t, p, 0), "s.test", pool), "hello")
	}
}

func TestAllTargetsDown(t *testing.T) {
	t.Parallel()
	a, b := deadTarget(t), deadTarget(t)
	port, port2 := testenv.FreePort(t), testenv.FreePort(t)
	quick := HealthCheck{Interval: 5 * time.Millisecond, UnhealthyAfter: 1}
	p := startBare(t, Config{Routes: []Route{
		checked(httpRoute("web", 0, "a.test", a, b), quick), checked(streamRoute("raw", port, a, b), quick), httpRoute("unchecked", 0, "b.test", deadTarget(t), deadTarget(t)), streamRoute("unchecked raw", port2, deadTarget(t), deadTarget(t))}})
	eventually(t, "all are found dead", func() bool {
		dead := 0
		for _, s := range p.Stats().Targets {
			if !s.Healthy {
				dead++
			}
		}
		return dead >= 2
	})
	c := client(t, addr(t, p, 0), nil)
	for range 3 {
		resp, err := c.Get("http://a.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		begin := time.Now()
		for _, port := range []int{port, port2} {
			if !isClosed(dialTCP(t, addr(t, p, port)), 5*time.Second) || time.Since(begin) > time.Second {
				t.Error("a stream is not closed at once")
			}
		}
		if status, _ := get(t, c, "http://b.test/"); status != 502 && status != 503 {
			t.Errorf("unchecked: %d", status)
		}
	}
}

// newRequestReader returns a function that reads a request and returns the
// mark in it: X-Id and the begin of the body.
func newRequestReader(c net.Conn) func() (string, error) {
	br := bufio.NewReader(c)
	return func() (string, error) {
		req, err := http.ReadRequest(br)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(req.Body)
		return req.Header.Get("X-Id") + string(b[:min(len(b), 8)]), err
	}
}

// breaker reads whole requests, notes their bodies and breaks off without an
// answer; on a connection's first request it answers if it is told to.
func breaker(t testing.TB, note func(string), answerFirst bool) Target {
	return tcpServer(t, func(c *net.TCPConn) {
		next := newRequestReader(c)
		for i := 0; ; i++ {
			body, err := next()
			if err != nil {
				return
			}
			if i == 0 && answerFirst {
				note("answered " + body)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				continue
			}
			note(body)
			return
		}
	}).target()
}

func TestRequestsAreNotSentTwice(t *testing.T) {
	testenv.Goroutines(t)
	var mu sync.Mutex
	seen := map[string]int{}
	note := func(id string) {
		mu.Lock()
		seen[strings.TrimPrefix(id, "answered ")]++
		mu.Unlock()
	}
	_, good := backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		note(r.Header.Get("X-Id") + string(b[:min(len(b), 8)]))
	})
	p := start(t, Config{Routes: []Route{httpRoute("once", 0, "once.test", breaker(t, note, false), good), httpRoute("pooled", 0, "pooled.test", breaker(t, note, true), good)}})
	c := client(t, addr(t, p, 0), nil)
	failed := 0
	for _, host := range []string{"once.test", "pooled.test"} {
		for i := range 24 {
			method := []string{"POST", "PUT", "DELETE", "PATCH", "GET", "POST"}[i%6]
			id := fmt.Sprintf("%08d", rand.IntN(100_000_000))
			var body io.Reader
			switch i % 3 {
			case 0:
				body = strings.NewReader(id)
			case 1:
				body = bytes.NewReader(append([]byte(id), make([]byte, 1<<20)...))
			case 2:
				body = io.MultiReader(strings.NewReader(id)) // of unknown length
			}
			req, err := http.NewRequest(method, "http://"+host+"/", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			mu.Lock()
			if n := seen[id]; n > 1 {
				t.Errorf("%s to %s was sent %d times", method, host, n)
			}
			if resp.StatusCode == 502 {
				failed++
			} else if resp.StatusCode != 200 || seen[id] != 1 {
				t.Errorf("%s to %s: %s, seen %d times", method, host, resp.Status, seen[id])
			}
			mu.Unlock()
		}
		// Without a body too what is not idempotent goes out once.
		for range 12 {
			id := fmt.Sprintf("%08d", rand.IntN(100_000_000))
			req, _ := http.NewRequest("POST", "http://"+host+"/", nil)
			req.Header.Set("X-Id", id)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			mu.Lock()
			if n := seen[id]; n > 1 {
				t.Errorf("POST without body to %s was sent %d times", host, n)
			}
			mu.Unlock()
		}
	}
	if failed == 0 {
		t.Error("the target that breaks off was never met")
	}
}
