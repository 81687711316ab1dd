package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A target that is removed gets nothing more. What is under way there ends by
// itself, idle connections at once, and those that become idle then.
func TestRemovedTargetIsLeftInPeace(t *testing.T) {
	testenv.Goroutines(t)
	var mu sync.Mutex
	states := map[net.Conn]http.ConnState{}
	conns := func() (idle, open int) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range states {
			switch s {
			case http.StateIdle:
				idle++
				open++
			case http.StateActive, http.StateNew:
				open++
			}
		}
		return idle, open
	}
	begun, release := make(chan bool, 10), make(chan bool)
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "old ")
		http.NewResponseController(w).Flush()
		begun <- true
		<-release
		io.WriteString(w, "to its end")
	}))
	old.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		states[c] = s
	}
	old.Start()
	closeAfter(t, old)
	_, other := backend(t, says("new"))
	route := func(targets ...Target) Route { return httpRoute("web", 0, "a.test", targets...) }
	p := start(t, Config{Timeouts: Timeouts{Drain: 20 * time.Second}, Routes: []Route{route(targetOf(old.Listener.Addr()))}})
	c := client(t, addr(t, p, 0), nil)

	// Four requests, of which two end and leave idle connections.
	var wg sync.WaitGroup
	results := make(chan string, 4)
	for range 4 {
		wg.Go(func() {
			resp, err := c.Get("http://a.test/")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			results <- string(body)
		})
	}
	for range 4 {
		receive(t, begun)
	}
	send(t, release, true)
	send(t, release, true)
	eventually(t, "two connections are idle", func() bool { idle, open := conns(); return idle == 2 && open == 4 })

	update(t, p, route(other))
	eventually(t, "the idle connections close", func() bool { idle, open := conns(); return idle == 0 && open == 2 })
	for range 20 {
		if _, body := get(t, c, "http://a.test/"); body != "new" {
			t.Fatalf("a new request got %q", body)
		}
	}
	close(release)
	waitAll(t, &wg)
	for range 4 {
		if got := receive(t, results); got != "old to its end" {
			t.Errorf("a request under way got %q", got)
		}
	}
	eventually(t, "no connection to the removed target is left", func() bool { _, open := conns(); return open == 0 })
}

// A target that another route still has keeps its connections.
func TestTargetOfAnotherRouteKeepsConnections(t *testing.T) {
	testenv.Goroutines(t)
	var mu sync.Mutex
	opened := 0
	s := httptest.NewUnstartedServer(says("ok"))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateNew {
			opened++
		}
	}
	s.Start()
	closeAfter(t, s)
	_, other := backend(t, says("other"))
	shared := targetOf(s.Listener.Addr())
	p := start(t, Config{Routes: []Route{httpRoute("a", 0, "a.test", shared), httpRoute("b", 0, "b.test", shared)}})
	c := client(t, addr(t, p, 0), nil)
	get(t, c, "http://a.test/")
	update(t, p, httpRoute("a", 0, "a.test", other), httpRoute("b", 0, "b.test", shared))
	if _, body := get(t, c, "http://a.test/"); body != "other" {
		t.Errorf("got %q", body)
	}
	get(t, c, "http://b.test/")
	if opened != 1 {
		t.Errorf("%d connections to a target that stayed", opened)
	}
}

// A removed target that comes back while it is in use finds its count: the
// limit holds for old and new together.
func TestReturningTargetKeepsItsPlaces(t *testing.T) {
	t.Parallel()
	peer, other := tcpEcho(t), tcpEcho(t)
	port := testenv.FreePort(t)
	route := func(target Target) Route {
		r := streamRoute("raw", port, target)
		r.Action.LoadBalancing = LoadBalancing{MaxConnectionsPerTarget: 1, Queue: Queue{Size: -1}}
		return r
	}
	p := startBare(t, Config{Timeouts: Timeouts{Drain: 20 * time.Second}, Routes: []Route{route(peer.target())}})
	first := dialTCP(t, addr(t, p, port))
	mustBounce(t, first, "one")
	update(t, p, route(other.target()))
	update(t, p, route(peer.target()))
	if !isClosed(dialTCP(t, addr(t, p, port)), 5*time.Second) {
		t.Error("a second stream got a place")
	}
	first.Close()
	eventually(t, "the place is free", func() bool { return targetStats(p, peer.target()).Active == 0 })
	mustBounce(t, dialTCP(t, addr(t, p, port)), "two")
}
