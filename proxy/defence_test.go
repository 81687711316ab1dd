package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// blockable is a list of blocked clients that tests change.
type blockable struct {
	mu    sync.Mutex
	addrs map[netip.Addr]bool
}

func (b *blockable) set(text string, blocked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addrs == nil {
		b.addrs = map[netip.Addr]bool{}
	}
	b.addrs[netip.MustParseAddr(text)] = blocked
}

func (b *blockable) blocked(client netip.Addr, _ int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addrs[client]
}

// A blocked client is not served on any way in: not a new connection, whatever it
// carries, nor one behind a PROXY header, nor a request on a connection that is
// open, nor a datagram. Others are.
func TestBlockedClient(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	raw, proxied, port3 := testenv.FreePort(t), testenv.FreePort(t), testenv.FreePort(t)
	settings, pool := tlsFiles(t, "s.test")
	_, web := backend(t, says("web"))
	secure := tlsRoute("secure", settings, forwardTo(web), "s.test")
	secure.Match.Ports = Ports(port3)
	var list blockable
	cfg := with3(
		httpRoute("web", 0, "a.test", web), streamRoute("raw", raw, tcpEcho(t).target()), udpRoute("udp", 0, udpEcho(t).target()),
		believing(httpRoute("proxied", proxied, "a.test", web), "127.0.0.1"), secure)
	p := start(t, cfg, WithBlocked(list.blocked))

	open := dialFrom(t, other, addr(t, p, 0))
	answers := bufio.NewReader(open)
	ask := func() (string, error) {
		io.WriteString(open, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", resp.Close), err
	}
	if got, err := ask(); got != "200 false" {
		t.Fatal(got, err)
	}
	list.set(other, true)
	list.set("192.0.2.1", true)
	if got, err := ask(); got != "403 true" {
		t.Errorf("on an open connection: %s %v", got, err)
	}
	for _, port := range []int{0, raw, port3} {
		if c := dialFrom(t, other, addr(t, p, port)); !isClosed(c, 10*time.Second) {
			t.Errorf("port %d serves a blocked client", port)
		}
	}
	for from, want := range map[string]string{"192.0.2.1": "", "192.0.2.2": "HTTP/1.0 200"} {
		c := dialTCP(t, addr(t, p, proxied))
		io.WriteString(c, line1(from)+"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		if answer, _ := io.ReadAll(c); !strings.HasPrefix(string(answer), want) || (want == "") != (len(answer) == 0) {
			t.Errorf("behind a PROXY header, from %s: %q", from, answer)
		}
	}
	noAnswerUDP(t, dialUDPFrom(t, other, udpAddr(t, p, 0)), "hello")
	mustExchangeUDP(t, dialUDP(t, udpAddr(t, p, 0)), "hello")
	h3 := func() error {
		resp, err := client3(t, addr(t, p, port3), pool).Get("https://s.test/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := h3(); err != nil {
		t.Error(err)
	}
	list.set("127.0.0.1", true)
	if err := h3(); err == nil {
		t.Error("HTTP/3 serves a blocked client")
	}
	list.set("127.0.0.1", false)
	if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != http.StatusOK {
		t.Errorf("another client: %d", status)
	}
	if n := p.Stats().Refused["blockedAddress"]; n < 7 {
		t.Errorf("%d counted", n)
	}
}

// Behind a proxy that we trust, a request is its client's, and the proxy is never
// to blame.
func TestBlockedBehindTrustedProxy(t *testing.T) {
	_, web := backend(t, says("web"))
	limited := httpRoute("web", 0, "a.test", web)
	limited.Action.Security.IPBlockList = []string{"127.0.0.0/8"}
	var list blockable
	list.set("192.0.2.1", true)
	list.set("127.0.0.1", true) // who trusts a proxy does not shut it out
	for _, fast := range []bool{true, false} {
		events := make(chan Event, 10)
		p := start(t, Config{TrustedProxies: []string{"127.0.0.1", "192.0.2.99"}, FastLane: &fast, Routes: []Route{limited}},
			WithBlocked(list.blocked), WithObserver(func(e Event) { events <- e }))
		for _, test := range []struct {
			forwarded []string
			status    string // 403 comes from the route's list, too
			client    string
		}{
			{[]string{"192.0.2.1"}, "this address is blocked", ""},
			{[]string{"10.0.0.1, 192.0.2.1, 192.0.2.99"}, "this address is blocked", ""},
			{[]string{"192.0.2.1", "192.0.2.99"}, "this address is blocked", ""},
			{[]string{"192.0.2.1, 192.0.2.2"}, "not permitted", "192.0.2.2"},
			{[]string{"192.0.2.1, nonsense"}, "not permitted", "invalid IP"},
			{nil, "not permitted", "invalid IP"},
		} {
			req, _ := http.NewRequest(http.MethodGet, "http://a.test/", nil)
			req.Header["X-Forwarded-For"] = test.forwarded
			resp, err := client(t, addr(t, p, 0), nil).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !strings.Contains(string(body), test.status) {
				t.Errorf("%q: %s", test.forwarded, body)
			}
			if test.client == "" {
				continue
			}
			e := receive(t, events)
			if e.Client.String() != test.client || e.Reason != "blocked" || e.Route != "web" || e.ConnID == "" || !e.Proven {
				t.Errorf("%q: %+v", test.forwarded, e)
			}
		}
		if len(events) > 0 {
			t.Errorf("more than was abuse: %+v", <-events)
		}
	}
}

// The observer is told of what hints at abuse, by lane, and of nothing else.
func TestObserver(t *testing.T) {
	for name, fast := range map[string]bool{"fast lane": true, "net/http": false} {
		t.Run(name, func(t *testing.T) { testObserver(t, fast) })
	}
}

func testObserver(t *testing.T, fast bool) {
	other := testenv.Loopback(t, "127.0.0.2")
	_, web := backend(t, says("web"))
	limited := httpRoute("limited", 0, "l.test", web)
	limited.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 0.001, Burst: 1}
	raw := streamRoute("raw", testenv.FreePort(t), tcpEcho(t).target())
	raw.Action.Security.IPBlockList = []string{other}
	udp := udpRoute("udp", 0, udpEcho(t).target())
	udp.Action.Security.IPBlockList = []string{other}
	events := make(chan Event, 100)
	p := start(t, Config{FastLane: &fast, Routes: []Route{httpRoute("web", 0, "a.test", web), limited, raw, udp}}, WithObserver(func(e Event) { events <- e }))
	send := func(port int, text string) {
		c := dialFrom(t, other, addr(t, p, port))
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}
	want := func(reason, route string, proven bool) {
		t.Helper()
		if e := receive(t, events); e.Reason != reason || e.Route != route || e.Client.String() != other || e.Proven != proven || e.Time.IsZero() {
			t.Errorf("%+v, want %s by %q", e, reason, route)
		}
	}
	send(0, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
	send(0, "GET / HTTP/1.0\r\nHost: nobody.test\r\n\r\n") // a mistake, not an attack
	send(0, "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: "+strings.Repeat("x", 20<<10)+"\r\n\r\n")
	broken := dialFrom(t, other, addr(t, p, 0))
	io.WriteString(broken, "GET / HTTP/1.1\r\nHost: a.t")
	broken.Close()
	eventually(t, "both are counted", func() bool { return p.Stats().Refused["badRequest"] == 2 })
	send(0, "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n")
	want("badRequest", "", true)
	send(0, "GET / HTTP/1.0\r\nHost: a test\r\n\r\n") // which net/http refuses
	want("badRequest", "", true)
	for range 2 {
		send(0, "GET / HTTP/1.0\r\nHost: l.test\r\n\r\n")
	}
	want("rateLimited", "limited", true)
	send(raw.Match.Ports[0].From, "hello")
	want("blocked", "", true)
	noAnswerUDP(t, dialUDPFrom(t, other, udpAddr(t, p, 0)), "hello")
	want("blocked", "", false)
	if len(events) > 0 {
		t.Errorf("more than was abuse: %+v", <-events)
	}
}

// Whatever X-Forwarded-For says, what comes out is no proxy that we trust, and one
// of the addresses in it.
func FuzzClientOf(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.1, 10.0.0.1", ",,", "::ffff:10.0.0.1,fe80::1%eth0", "10.0.0.1"} {
		f.Add(s)
	}
	trusted, err := newIPSet([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	r := &run{p: &Proxy{trusted: trusted}}
	f.Fuzz(func(t *testing.T, list string) {
		header := http.Header{"X-Forwarded-For": {list}}
		client := r.clientOf(netip.MustParseAddr("10.0.0.1"), header)
		if client.IsValid() && (trusted.contains(client) || client.Zone() != "" || client.Is4In6() || !strings.ContainsAny(list, ".:")) {
			t.Errorf("%q: %s", list, client)
		}
		if got := r.clientOf(netip.MustParseAddr("192.0.2.9"), header); got.String() != "192.0.2.9" {
			t.Errorf("a peer that is not trusted is taken for %s", got)
		}
	})
}
