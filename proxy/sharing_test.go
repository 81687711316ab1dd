package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// dialFrom connects from a given address.
func dialFrom(t testing.TB, from, to string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestPortRangeIsPreserved(t *testing.T) {
	other := testenv.Loopback(t, "127.0.0.2")
	var servers []net.Listener
	var first int
	for servers == nil { // four ports in a row, free on both addresses
		first = testenv.FreePort(t)
		for port := first; port < first+4; port++ {
			mine, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				mine.Close()
				var ln net.Listener
				if ln, err = net.Listen("tcp", fmt.Sprintf("%s:%d", other, port)); err == nil {
					servers = append(servers, ln)
				}
			}
			if err != nil {
				closeListeners(servers)
				servers = nil
				break
			}
		}
	}
	defer closeListeners(servers)
	for i, ln := range servers[:3] {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%d", i)
				c.Close()
			}
		}()
	}
	r := streamRoute("range", 0, Target{Host: other, Port: PreservePort})
	r.Match.Ports = []PortRange{{From: first, To: first + 3}}
	alert(&r.Action)
	p := start(t, Config{Routes: []Route{r}})
	if n := len(p.Addrs()); n != 4 {
		t.Fatalf("%d addresses", n)
	}
	// Nobody listens there any more, of which the other ports must not suffer.
	servers[3].Close()
	if c := dialTCP(t, addr(t, p, first+3)); !isClosed(c, 5*time.Second) {
		t.Error("a connection to a closed port is open")
	}
	for i := range 3 {
		got, err := io.ReadAll(dialTCP(t, addr(t, p, first+i)))
		if err != nil || string(got) != fmt.Sprint(i) {
			t.Errorf("port %d: %q, %v", first+i, got, err)
		}
	}
}

func closeListeners(list []net.Listener) {
	for _, ln := range list {
		ln.Close()
	}
}

func TestPortFunc(t *testing.T) {
	peer := tcpEcho(t)
	_, web := backend(t, says("web"))
	cert, key, pool := testenv.SelfSigned(t, "a.test")
	var answer int
	infos := make(chan ConnInfo, 1)
	fn := func(i ConnInfo) int {
		infos <- i
		return answer
	}
	target := Target{Host: "127.0.0.1", PortFunc: fn}
	secure := streamRoute("secure", 0, target)
	secure.Match.Domains = []string{"a.test"}
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	direct := testenv.FreePort(t)
	p := start(t, Config{Routes: []Route{streamRoute("plain", direct, target), secure, httpRoute("web", 0, "web.test", target)}})
	answer = peer.target().Port
	c := dialTCP(t, addr(t, p, direct))
	mustBounce(t, c, "hello")
	if i := receive(t, infos); i.Port != direct || i.Route != "plain" || i.Client.String() != c.LocalAddr().String() || i.Local.String() != c.RemoteAddr().String() || i.TLS != nil || i.ID == "" {
		t.Errorf("%+v", i)
	}
	s := dialTLS(t, addr(t, p, 0), "a.test", pool)
	mustBounce(t, s, "hello")
	if i := receive(t, infos); i.Port != 0 || i.Route != "secure" || i.ServerName != "a.test" || i.TLS == nil || i.TLS.Version != s.ConnectionState().Version {
		t.Errorf("%+v", i)
	}
	hc := client(t, addr(t, p, 0), nil)
	answer = web.Port
	if _, body := get(t, hc, "http://web.test/"); body != "web" {
		t.Errorf("got %q", body)
	}
	if i := receive(t, infos); i.Route != "web" {
		t.Errorf("%+v", i)
	}
	for _, answer = range []int{0, -1, 65536, 1 << 40} {
		c := dialTCP(t, addr(t, p, direct))
		receive(t, infos)
		if !isClosed(c, 5*time.Second) {
			t.Errorf("port %d: not closed", answer)
		}
		status, _ := get(t, hc, "http://web.test/")
		if receive(t, infos); status != 502 {
			t.Errorf("port %d: HTTP status %d", answer, status)
		}
	}
	answer = peer.target().Port
	mustBounce(t, dialTCP(t, addr(t, p, direct)), "still works")
	receive(t, infos)
}

func TestSocketHandler(t *testing.T) {
	testenv.Goroutines(t)
	type call struct {
		conn net.Conn
		info ConnInfo
	}
	calls := make(chan call, 1)
	ended := make(chan error, 10)
	handler := SocketHandlerFunc(func(ctx context.Context, c net.Conn, i ConnInfo) {
		calls <- call{c, i}
		buf := make([]byte, 100)
		for {
			n, err := c.Read(buf)
			switch {
			case err != nil:
				ended <- ctx.Err()
				return
			case string(buf[:n]) == "panic":
				panic("on purpose")
			case string(buf[:n]) == "return":
				return
			}
			c.Write(buf[:n])
		}
	})
	cert, key, pool := testenv.SelfSigned(t, "a.test", "b.test")
	route := func(name string, port int) Route {
		return Route{Name: name, Match: Match{Ports: Ports(port)}, Action: Action{SocketHandler: handler}}
	}
	direct := testenv.FreePort(t)
	secure := route("secure", 0)
	secure.Match.Domains = []string{"a.test"}
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	pass := route("pass", 0)
	pass.Match.Domains = []string{"b.test"}
	pass.Action.TLS = &TLS{Mode: Passthrough}
	p := start(t, Config{Routes: []Route{route("direct", direct), secure, pass, route("rest", 0)}})

	c := dialTCP(t, addr(t, p, direct))
	got := receive(t, calls) // without a byte from the client
	mustBounce(t, c, "hello")
	if _, ok := got.conn.(*net.TCPConn); !ok {
		t.Errorf("got a %T on a direct port", got.conn)
	}
	first := got.info
	want := ConnInfo{ID: first.ID, Client: netip.MustParseAddrPort(c.LocalAddr().String()), Local: netip.MustParseAddrPort(c.RemoteAddr().String()), Port: direct, Route: "direct"}
	if first != want || first.ID == "" {
		t.Errorf("got %+v, want %+v", first, want)
	}

	s := dialTLS(t, addr(t, p, 0), "A.test", pool)
	got = receive(t, calls)
	mustBounce(t, s, "decrypted")
	i := got.info
	if i.ServerName != "a.test" || i.TLS == nil || !i.TLS.HandshakeComplete || i.Route != "secure" || i.Port != 0 || i.ID == first.ID {
		t.Errorf("got %+v", i)
	}

	rest := dialTCP(t, addr(t, p, 0))
	mustBounce(t, rest, "\x00what was looked at is there")
	if got = receive(t, calls); got.info.Route != "rest" {
		t.Errorf("got %+v", got.info)
	}

	// Passed through, TLS is the handler's: it sees a ClientHello, and echoes it.
	hello := dialTCP(t, addr(t, p, 0))
	go tls.Client(hello, &tls.Config{ServerName: "b.test", RootCAs: pool}).Handshake()
	if got = receive(t, calls); got.info.Route != "pass" || got.info.ServerName != "b.test" || got.info.TLS != nil {
		t.Errorf("got %+v", got.info)
	}

	for _, how := range []string{"panic", "return"} {
		for _, c := range []net.Conn{dialTCP(t, addr(t, p, direct)), dialTLS(t, addr(t, p, 0), "a.test", pool)} {
			receive(t, calls)
			io.WriteString(c, how)
			if !isClosed(c, 5*time.Second) {
				t.Errorf("not closed after %s", how)
			}
		}
	}
	mustBounce(t, c, "others go on")
	eventually(t, "only the others count as active", func() bool { return routeStats(p, "direct").Active == 1 })

	hello.Close()
	rest.Close()
	if err := receive(t, ended); err != nil {
		t.Errorf("context of a connection that its client closed: %v", err)
	}
	receive(t, ended)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); err == nil {
		t.Error("Stop says that all was finished")
	}
	for range 2 {
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("context after Stop: %v", err)
		}
	}
}

// TLS passed through and terminated, HTTP and anything else on one port.
func TestProtocolsShareAPort(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, pool := testenv.SelfSigned(t, "a.test", "b.test")
	files := Certificate{CertPath: cert, KeyPath: key}
	passed := tlsServer(t, cert, key, func(c *tls.Conn) { io.WriteString(c, "passed"); io.Copy(c, c) })
	_, b := backend(t, says("terminated"))
	_, c := backend(t, says("plain"))
	raw := tcpServer(t, func(c *net.TCPConn) { io.WriteString(c, "raw"); io.Copy(c, c) })
	pass := streamRoute("pass", 0, passed.target())
	pass.Match.Domains, pass.Action.TLS = []string{"a.test"}, &TLS{Mode: Passthrough}
	term := httpRoute("term", 0, "b.test", b)
	term.Action.TLS = &TLS{Mode: Terminate, Certificate: files}
	p := start(t, Config{Timeouts: Timeouts{Route: 300 * time.Millisecond}, Routes: []Route{pass, term, httpRoute("plain", 0, "c.test", c), streamRoute("raw", 0, raw.target())}})
	at := addr(t, p, 0)
	if n := len(p.Addrs()); n != 1 {
		t.Fatalf("%d listeners", n)
	}
	check := func(c net.Conn, send, want string) {
		t.Helper()
		io.WriteString(c, send)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			check(dialTLS(t, at, "a.test", pool), "", "passed")
			if status, body := get(t, client(t, at, pool), "https://b.test/"); status != 200 || body != "terminated" {
				t.Errorf("b: %d %q", status, body)
			}
			if status, body := get(t, client(t, at, nil), "http://c.test/"); status != 200 || body != "plain" {
				t.Errorf("c: %d %q", status, body)
			}
			check(dialTCP(t, at), "\x00\x01\x02", "raw\x00\x01\x02")
			check(dialTCP(t, at), "", "raw") // the server speaks first
			check(dialTCP(t, at), "EHLO me\r\n", "rawEHLO me\r\n")
		})
	}
	waitAll(t, &wg)
}

// What may still become HTTP or TLS, but does not in time, is neither.
func TestAmbiguousStartIsAStream(t *testing.T) {
	t.Parallel()
	raw := tcpEcho(t)
	cert, key, pool := testenv.SelfSigned(t, "any.test")
	any, web := streamRoute("any", 0, raw.target()), httpRoute("webs", 0, "any.test", raw.target())
	any.Match.Domains, web.Priority = web.Match.Domains, 1
	any.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	web.Action.TLS = any.Action.TLS
	p := startBare(t, Config{Timeouts: Timeouts{Route: 500 * time.Millisecond}, Routes: []Route{
		httpRoute("web", 0, "a.test", raw.target()), any, web, streamRoute("raw", 0, raw.target()),
	}})
	for _, text := range []string{"G", "PING", "GET ", "\x16"} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			t.Parallel()
			if err := bounce(dialTCP(t, addr(t, p, 0)), text); err != nil {
				t.Error(err)
			}
			if err := bounce(dialTLS(t, addr(t, p, 0), "any.test", pool), text); err != nil {
				t.Errorf("over TLS: %v", err)
			}
		})
	}
}

func TestRouteByClientAddress(t *testing.T) {
	other := testenv.Loopback(t, "127.0.0.2")
	say := func(text string) Target {
		return tcpServer(t, func(c *net.TCPConn) { io.WriteString(c, text) }).target()
	}
	_, web1 := backend(t, says("one"))
	_, web2 := backend(t, says("two"))
	port := testenv.FreePort(t)
	one, two, rest := streamRoute("one", port, say("one")), streamRoute("two", port, say("two")), streamRoute("rest", port, say("rest"))
	one.Match.ClientIP, two.Match.ClientIP = []string{"127.0.0.1"}, []string{"127.0.0.2/32"}
	hOne, hTwo := httpRoute("h1", 0, "a.test", web1), httpRoute("h2", 0, "a.test", web2)
	hTwo.Match.ClientIP = []string{"127.0.0.2"}
	p := start(t, Config{Routes: []Route{rest, one, two, hOne, hTwo}})
	for from, want := range map[string]string{"127.0.0.1": "one", other: "two", "127.0.0.3": "rest"} {
		if got, err := io.ReadAll(dialFrom(t, from, addr(t, p, port))); err != nil || string(got) != want {
			t.Errorf("from %s: %q, %v", from, got, err)
		}
	}
	for from, want := range map[string]string{"127.0.0.1": "one", other: "two"} {
		c := dialFrom(t, from, addr(t, p, 0))
		io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		if got, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("HTTP from %s: %q, %v", from, got, err)
		}
	}
}
