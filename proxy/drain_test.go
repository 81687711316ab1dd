package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// drainTime has room for what these tests do meanwhile on a busy machine.
const drainTime = 2 * time.Second

func TestRemovedRouteDrains(t *testing.T) {
	t.Parallel()
	peer := tcpEcho(t)
	_, upgrades := backend(t, upgradeEcho)
	_, events := backend(t, sseServer)
	port := testenv.FreePort(t)
	kept := httpRoute("kept", 0, "kept.test", upgrades)
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{
		kept, streamRoute("raw", port, peer.target()), httpRoute("ws", 0, "ws.test", upgrades), httpRoute("sse", 0, "sse.test", events),
	}})
	web := addr(t, p, 0)
	stays := dialUpgrade(t, web, "kept.test")
	ws := dialUpgrade(t, web, "ws.test")
	raw := dialTCP(t, addr(t, p, port))
	mustBounce(t, raw, "one")
	sse, err := client(t, web, nil).Get("http://sse.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer sse.Body.Close()

	removed := time.Now()
	update(t, p, kept)
	var wg sync.WaitGroup
	ended := func(name string, ends func() error) {
		wg.Go(func() {
			ends()
			if d := time.Since(removed); d < drainTime*9/10 || d > drainTime+3*time.Second {
				t.Errorf("%s ended after %v, want %v", name, d, drainTime)
			}
		})
	}
	until := func(rw io.ReadWriter) func() error {
		return func() error {
			for {
				if err := bounce(rw, "still"); err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	ended("stream", until(raw))
	ended("upgraded connection", until(ws))
	ended("event stream", func() error { _, err := io.Copy(io.Discard, sse.Body); return err })
	waitAll(t, &wg)
	mustBounce(t, stays, "kept")
	eventually(t, "upstream connections end", func() bool { return peer.open.Load() == 0 })
}

func TestRouteThatComesBackKeepsItsStreams(t *testing.T) {
	t.Parallel()
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	raw := streamRoute("raw", port, peer.target())
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{raw}})
	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "one")
	update(t, p)
	time.Sleep(drainTime / 3)
	mustBounce(t, c, "two")
	update(t, p, raw)
	if !isOpen(c, drainTime*3/2) {
		t.Fatal("closed though its route is back")
	}
	mustBounce(t, c, "three")
	if n := peer.accepted.Load(); n != 1 {
		t.Errorf("%d connections to the target", n)
	}
	// When it goes again, it has its full time again.
	update(t, p)
	gone := time.Now()
	if !isClosed(c, 5*time.Second) {
		t.Fatal("still open")
	}
	if d := time.Since(gone); d < drainTime*9/10 {
		t.Errorf("closed after %v, want %v", d, drainTime)
	}
}

// Limits and counters hold for what still drains.
func TestReturningRouteKeepsCount(t *testing.T) {
	t.Parallel()
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	raw := streamRoute("raw", port, peer.target())
	raw.Action.Security.MaxConnections = 1
	p := startBare(t, Config{Timeouts: Timeouts{Drain: 10 * time.Second}, Routes: []Route{raw}})
	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "one")
	update(t, p)
	update(t, p, raw)
	if n := routeStats(p, "raw").Active; n != 1 {
		t.Errorf("%d active, want 1", n)
	}
	if second := dialTCP(t, addr(t, p, port)); !isClosed(second, 2*time.Second) {
		t.Error("a second stream got through the limit of 1")
	}
	mustBounce(t, c, "two")
	c.Close()
	eventually(t, "the place becomes free", func() bool { return routeStats(p, "raw").Active == 0 })
	mustBounce(t, dialTCP(t, addr(t, p, port)), "three")
}

// Each update gives its own orphans the full time.
func TestDrainOfEarlierUpdateSparesLaterOnes(t *testing.T) {
	t.Parallel()
	peer := tcpEcho(t)
	a, b := testenv.FreePort(t), testenv.FreePort(t)
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{
		streamRoute("a", a, peer.target()), streamRoute("b", b, peer.target()),
	}})
	first, second := dialTCP(t, addr(t, p, a)), dialTCP(t, addr(t, p, b))
	mustBounce(t, first, "one")
	mustBounce(t, second, "one")
	update(t, p, streamRoute("b", b, peer.target()))
	time.Sleep(drainTime / 2)
	update(t, p)
	gone := time.Now()
	if !isClosed(first, 5*time.Second) {
		t.Error("the first was not closed")
	}
	if !isClosed(second, 5*time.Second) {
		t.Error("the second was not closed")
	}
	if d := time.Since(gone); d < drainTime*9/10 {
		t.Errorf("the second was closed %v after its removal, want %v", d, drainTime)
	}
}

// Updates while something drains must not cost a goroutine each.
func TestUpdatesWithOrphanDoNotPileUp(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	a, b := testenv.FreePort(t), testenv.FreePort(t)
	p := start(t, Config{Timeouts: Timeouts{Drain: -1}, Routes: []Route{streamRoute("a", a, peer.target())}})
	c := dialTCP(t, addr(t, p, a))
	mustBounce(t, c, "one")
	before := runtime.NumGoroutine()
	for range 200 {
		update(t, p, streamRoute("b", b, peer.target()))
	}
	if n := runtime.NumGoroutine() - before; n > 20 {
		t.Errorf("%d goroutines more after 200 updates", n)
	}
	mustBounce(t, c, "without a limit it may go on")
}

func TestRemovedTargetDrains(t *testing.T) {
	t.Parallel()
	one, two := tcpEcho(t), tcpEcho(t)
	var slow sync.WaitGroup
	slow.Add(1)
	t.Cleanup(sync.OnceFunc(slow.Done))
	_, web1 := backend(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun ")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	_, web2 := backend(t, says("two"))
	port := testenv.FreePort(t)
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{
		streamRoute("raw", port, one.target(), two.target()), httpRoute("web", 0, "a.test", web1),
	}})
	var conns []*net.TCPConn
	for range 2 {
		c := dialTCP(t, addr(t, p, port))
		mustBounce(t, c, "one")
		conns = append(conns, c)
	}
	if one.accepted.Load() != 1 || two.accepted.Load() != 1 {
		t.Fatalf("%d and %d connections", one.accepted.Load(), two.accepted.Load())
	}
	resp, err := client(t, addr(t, p, 0), nil).Get("http://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	update(t, p, streamRoute("raw", port, two.target()), httpRoute("web", 0, "a.test", web2))
	removed := time.Now()
	mustBounce(t, conns[0], "two")
	mustBounce(t, conns[1], "two")
	if status, body := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); body != "two" {
		t.Errorf("new request got %d %q", status, body)
	}
	io.Copy(io.Discard, resp.Body)
	if d := time.Since(removed); d < drainTime*9/10 || d > drainTime+3*time.Second {
		t.Errorf("the removed target's request ended after %v, want %v", d, drainTime)
	}
	eventually(t, "the removed target's stream ends", func() bool { return one.open.Load() == 0 })
	if two.open.Load() != 1 {
		t.Error("the other target's stream ended too")
	}
}

// A connection may be on its way to a target while that is removed.
func TestTargetRemovedWhileDialling(t *testing.T) {
	t.Parallel()
	one, two := tcpEcho(t), tcpEcho(t)
	port := testenv.FreePort(t)
	asked, answer := make(chan bool), make(chan bool)
	slow := Target{Host: "localhost", PortFunc: func(ConnInfo) int {
		asked <- true
		<-answer
		return one.target().Port
	}}
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{streamRoute("raw", port, slow)}})
	c := dialTCP(t, addr(t, p, port))
	receive(t, asked)
	update(t, p, streamRoute("raw", port, two.target()))
	close(answer)
	mustBounce(t, c, "late")
	if one.accepted.Load() == 0 {
		return // went to the new target: as good
	}
	if !isClosed(c, drainTime+3*time.Second) {
		t.Error("the stream to the removed target never ends")
	}
}

// Who connects and waits is routed by the routes of the time when he speaks.
func TestSilentConnectionUsesNewRoutes(t *testing.T) {
	t.Parallel()
	_, old := backend(t, says("old"))
	one, two := tcpEcho(t), tcpEcho(t)
	web := httpRoute("web", 0, "a.test", old) // makes the proxy look at the first bytes
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{web, streamRoute("rest", 0, one.target())}})
	c := dialTCP(t, addr(t, p, 0))
	time.Sleep(50 * time.Millisecond) // accepted by now
	update(t, p, web, streamRoute("rest", 0, two.target()))
	mustBounce(t, c, "\x00\x01neither TLS nor HTTP")
	if one.accepted.Load() != 0 {
		t.Error("went to a target that had been removed before the first byte")
		if !isClosed(c, drainTime+3*time.Second) {
			t.Error("and stays there for good")
		}
	}
}

// Health checks are about a target; to change them does not remove it.
func TestChangedHealthCheckKeepsStreams(t *testing.T) {
	t.Parallel()
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	raw := func(interval time.Duration) Route {
		r := streamRoute("raw", port, peer.target())
		if interval > 0 {
			r.Action.LoadBalancing.HealthCheck = &HealthCheck{Interval: interval}
		}
		return r
	}
	p := startBare(t, Config{Timeouts: Timeouts{Drain: drainTime}, Routes: []Route{raw(time.Minute)}})
	c := dialTCP(t, addr(t, p, port))
	mustBounce(t, c, "one")
	for _, interval := range []time.Duration{time.Hour, 0, 2 * time.Minute} {
		update(t, p, raw(interval))
	}
	if !isOpen(c, drainTime*2) {
		t.Fatal("the stream was closed")
	}
	mustBounce(t, c, "two")
	if s := targetStats(p, peer.target()); s.Active != 1 || s.Total != 1 {
		t.Errorf("the target forgot its counters: %+v", s)
	}
}

func TestHealthSurvivesUpdates(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	sick.Store(true)
	_, one := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && sick.Load() {
			w.WriteHeader(500)
			return
		}
		io.WriteString(w, "one")
	})
	_, two := backend(t, says("two"))
	web := httpRoute("web", 0, "a.test", one, two)
	web.Action.LoadBalancing.HealthCheck = &HealthCheck{Path: "/health", Interval: 10 * time.Millisecond, UnhealthyAfter: 2}
	other := func(i int) Route { return httpRoute("", 0, fmt.Sprintf("other%d.test", i), two) }
	p := startBare(t, Config{Routes: []Route{web, other(0)}})
	c := client(t, addr(t, p, 0), nil)
	eventually(t, "the sick target is found", func() bool { return !targetStats(p, one).Healthy })
	for i := range 50 {
		update(t, p, other(i), web)
		if targetStats(p, one).Healthy {
			t.Fatalf("update %d made the sick target healthy", i)
		}
		if _, body := get(t, c, "http://a.test/"); body != "two" {
			t.Fatalf("after update %d a request got %q", i, body)
		}
	}
	sick.Store(false)
	eventually(t, "it recovers", func() bool { return targetStats(p, one).Healthy })
}

func TestKeepAliveClientMoves(t *testing.T) {
	t.Parallel()
	_, one := backend(t, says("one"))
	_, two := backend(t, says("two"))
	second := testenv.FreePort(t)
	p := startBare(t, Config{Routes: []Route{httpRoute("web", second, "a.test", one)}})
	c := dialTCP(t, addr(t, p, second))
	br := bufio.NewReader(c)
	ask := func() (*http.Response, string) {
		t.Helper()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	if _, body := ask(); body != "one" {
		t.Fatalf("got %q", body)
	}
	update(t, p, httpRoute("web", second, "a.test", two))
	if _, body := ask(); body != "two" {
		t.Errorf("the next request got %q", body)
	}
	update(t, p, httpRoute("web", second, "b.test", two))
	if resp, _ := ask(); resp.StatusCode != 404 || resp.Close {
		t.Errorf("without a route: %s, close %v", resp.Status, resp.Close)
	}
	// With its port gone the connection ends at its next request.
	update(t, p)
	if resp, _ := ask(); resp.StatusCode != 404 || !resp.Close {
		t.Errorf("without the port: %s, close %v", resp.Status, resp.Close)
	}
	if !isClosed(c, 3*time.Second) {
		t.Error("not closed")
	}
}
