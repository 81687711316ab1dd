package proxy

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestAddressLists(t *testing.T) {
	other := testenv.Loopback(t, "127.0.0.2")
	peer := tcpEcho(t)
	_, web := backend(t, says("web"))
	type lists struct{ allow, block []string }
	for _, test := range []struct {
		name          string
		lists         lists
		first, second bool // 127.0.0.1, 127.0.0.2 may
	}{
		{"allowed", lists{allow: []string{"127.0.0.2"}}, false, true},
		{"allowed block", lists{allow: []string{"127.0.0.0/8"}}, true, true},
		{"blocked", lists{block: []string{"127.0.0.0/31"}}, false, true},
		{"blocked though allowed", lists{[]string{"127.0.0.0/8"}, []string{"127.0.0.2"}}, true, false},
		{"in IPv6 form", lists{allow: []string{"::ffff:127.0.0.2"}}, false, true},
		{"others allowed", lists{allow: []string{"10.0.0.0/8", "::1"}}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw, plain := streamRoute("raw", testenv.FreePort(t), peer.target()), httpRoute("web", 0, "a.test", web)
			for _, r := range []*Route{&raw, &plain} {
				r.Action.Security = Security{IPAllowList: test.lists.allow, IPBlockList: test.lists.block}
			}
			p := start(t, Config{Routes: []Route{raw, plain}})
			blocked := uint64(0)
			for from, may := range map[string]bool{"127.0.0.1": test.first, other: test.second} {
				c := dialFrom(t, from, addr(t, p, raw.Match.Ports[0].From))
				if err := bounce(c, "hello"); (err == nil) != may {
					t.Errorf("stream from %s: %v", from, err)
				}
				c = dialFrom(t, from, addr(t, p, 0))
				io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
				answer, _ := io.ReadAll(c)
				want := "HTTP/1.0 403 "
				if may {
					want = "HTTP/1.0 200 "
				} else {
					blocked++
				}
				if !strings.HasPrefix(string(answer), want) {
					t.Errorf("HTTP from %s: %.40q, want %q", from, answer, want)
				}
			}
			eventually(t, "all is counted", func() bool {
				return routeStats(p, "raw").Blocked == blocked && routeStats(p, "web").Blocked == blocked && p.Stats().Refused["blocked"] == 2*blocked
			})
		})
	}
}

func TestRouteConnectionLimit(t *testing.T) {
	testenv.Goroutines(t)
	peer := tcpEcho(t)
	hold := make(chan bool)
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			hold <- true
			<-hold
		}
		io.WriteString(w, "done")
	})
	port := testenv.FreePort(t)
	raw, plain := streamRoute("raw", port, peer.target()), httpRoute("web", 0, "a.test", web)
	raw.Action.Security.MaxConnections, plain.Action.Security.MaxConnections = 2, 1
	p := start(t, Config{Routes: []Route{raw, plain}})
	for range 3 {
		a, b := dialTCP(t, addr(t, p, port)), dialTCP(t, addr(t, p, port))
		mustBounce(t, a, "one")
		mustBounce(t, b, "two")
		if c := dialTCP(t, addr(t, p, port)); !isClosed(c, 5*time.Second) {
			t.Error("a third connection is open")
		}
		mustBounce(t, a, "still")
		a.Close()
		b.Close()
		eventually(t, "places are free", func() bool { return routeStats(p, "raw").Active == 0 })
	}
	if n := p.Stats().Refused["routeFull"]; n != 3 {
		t.Errorf("%d refused, want 3", n)
	}

	c := client(t, addr(t, p, 0), nil)
	for range 3 {
		var wg sync.WaitGroup
		wg.Go(func() { get(t, c, "http://a.test/hold") })
		receive(t, hold)
		resp, err := c.Get("http://a.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		send(t, hold, true)
		waitAll(t, &wg)
		eventually(t, "the place is free", func() bool { return routeStats(p, "web").Active == 0 })
	}
	// An idle connection takes no place, a request does.
	if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != 200 {
		t.Errorf("status %d", status)
	}
}

func TestConnectionLimits(t *testing.T) {
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	open := func(p *Proxy, from string) (*net.TCPConn, bool) {
		c := dialFrom(t, from, addr(t, p, port))
		return c, bounce(c, "hello") == nil
	}
	closed := func(p *Proxy, want int) {
		t.Helper()
		eventually(t, "closed connections are forgotten", func() bool { return p.Stats().ActiveConnections == want })
	}
	t.Run("all", func(t *testing.T) {
		p := start(t, Config{MaxConnections: 2, Routes: []Route{streamRoute("raw", port, peer.target()), httpRoute("web", 0, "a.test", peer.target())}})
		silent := dialTCP(t, addr(t, p, 0)) // one that says nothing counts too
		closed(p, 1)
		for range 3 {
			a, ok := open(p, "127.0.0.1")
			if !ok {
				t.Fatal("the second connection was refused")
			}
			if _, ok := open(p, "127.0.0.1"); ok {
				t.Error("a third connection is open")
			}
			a.Close()
			closed(p, 1)
		}
		silent.Close()
		closed(p, 0)
		if n := p.Stats().Refused["tooManyConnections"]; n != 3 {
			t.Errorf("%d refused, want 3", n)
		}
	})
	t.Run("of one address", func(t *testing.T) {
		other := testenv.Loopback(t, "127.0.0.2")
		p := start(t, Config{MaxConnectionsPerIP: 1, Routes: []Route{streamRoute("raw", port, peer.target())}})
		for range 3 {
			a, ok := open(p, "127.0.0.1")
			if !ok {
				t.Fatal("the first connection was refused")
			}
			if _, ok := open(p, "127.0.0.1"); ok {
				t.Error("a second connection is open")
			}
			b, ok := open(p, other)
			if !ok {
				t.Error("another address was refused")
			}
			a.Close()
			b.Close()
			closed(p, 0)
		}
		if n := p.Stats().Refused["tooManyPerIp"]; n != 3 {
			t.Errorf("%d refused, want 3", n)
		}
	})
}

// A connection that has ended before it was counted, as one of QUIC may, would
// count for ever.
func TestEndedConnectionIsNotBooked(t *testing.T) {
	p := start(t, Config{MaxConnectionsPerIP: 1, Routes: []Route{handlerRoute("r", Match{})}})
	r := p.current()
	c := &conn{run: r, client: netip.MustParseAddrPort("192.0.2.1:1")}
	c.closed.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	if reason := r.book(c); reason != nil || len(r.conns) != 0 || len(r.perIP) != 0 {
		t.Errorf("%v; booked: %d, by address %v", reason, len(r.conns), r.perIP)
	}
}
