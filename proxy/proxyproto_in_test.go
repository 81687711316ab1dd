package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// line1 is a header of version 1 from an address.
func line1(from string) string { return fmt.Sprintf("PROXY TCP4 %s 203.0.113.9 4711 443\r\n", from) }

func believing(r Route, peers ...string) Route {
	r.Action.ProxyProtocol = &ProxyProtocol{Accept: peers}
	return r
}

// infoSocket says what it knows about its connection, then echoes.
func infoSocket(_ context.Context, c net.Conn, i ConnInfo) {
	_, raw := c.(*net.TCPConn)
	fmt.Fprintf(c, "%s %s raw=%v\n", i.Client, i.Local, raw)
	io.Copy(c, c)
}

func readLine(t testing.TB, c net.Conn) string {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// In all lanes the client is the one in the header, and what came with the
// header is not lost.
func TestProxyHeaderInAllLanes(t *testing.T) {
	testenv.Goroutines(t)
	direct := testenv.FreePort(t)
	settings, pool := tlsFiles(t, "a.test", "s.test", "p.test")
	upCert, upKey, upPool := testenv.SelfSigned(t, "p.test")
	passed := tlsServer(t, upCert, upKey, func(c *tls.Conn) { io.Copy(c, c) })
	infos := Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, _ := ConnInfoFrom(r.Context())
		fmt.Fprint(w, r.RemoteAddr, " ", i.Client, " ", i.Local, " ", r.Context().Value(http.LocalAddrContextKey))
	})}
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Real-Ip"), " ", r.Header.Get("X-Forwarded-Port"))
	})
	socket := Action{SocketHandler: SocketHandlerFunc(infoSocket)}
	p := start(t, Config{Routes: []Route{
		believing(Route{Name: "direct", Match: Match{Ports: Ports(direct)}, Action: socket}, "127.0.0.0/8"),
		believing(httpRoute("web", 0, "a.test", web), "127.0.0.1"),
		{Name: "info", Match: Match{Ports: Ports(0), Domains: []string{"i.test"}}, Action: infos},
		tlsRoute("secure", settings, infos, "a.test"),
		tlsRoute("secure socket", settings, socket, "s.test"),
		tlsRoute("passed", &TLS{Mode: Passthrough}, forwardTo(passed.target()), "p.test"),
	}})
	const said, v2said = from4 + " " + to4, "[2001:db8::1]:12345 [2001:db8::2]:443"
	headers := map[string]string{
		header2(0x21, 0x11, address4):                        said,
		header2(0x21, 0x21, address6, "\x04\x00\x01x"):       v2said,
		"PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\r\n":     said,
		"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n":   v2said,
		header2(0x20, 0x00):                                  "", // the connection's own
		header2(0x20, 0x11, address4):                        "",
		header2(0x21, 0x00):                                  "",
		header2(0x21, 0x31, unixAddresses()):                 "",
		"PROXY UNKNOWN\r\n":                                  "",
		"PROXY UNKNOWN 192.0.2.66 203.0.113.9 12345 443\r\n": "",
	}
	for header, want := range headers {
		own := func(c net.Conn) string {
			if want == "" {
				return c.LocalAddr().String() + " " + c.RemoteAddr().String()
			}
			return want
		}
		send := func(port int) *net.TCPConn {
			c := dialTCP(t, addr(t, p, port))
			io.WriteString(c, header)
			return c
		}
		// The server speaks first, on the connection itself.
		c := send(direct)
		if got := readLine(t, c); got != own(c)+" raw=true" {
			t.Errorf("%q: %s, want %s", header, got, own(c))
		}
		mustBounce(t, c, "hello")
		c.Close()
		// In one segment with what follows.
		c = dialTCP(t, addr(t, p, direct))
		io.WriteString(c, header+"HELO\r\n")
		br := bufio.NewReader(c)
		if got, _ := br.ReadString('\n'); !strings.HasPrefix(got, own(c)+" raw=") {
			t.Errorf("%q: %s, want %s", header, got, own(c))
		}
		if got, _ := br.ReadString('\n'); got != "HELO\r\n" {
			t.Errorf("%q: %q", header, got)
		}
		c.Close()
		// Byte by byte.
		c = dialTCP(t, addr(t, p, 0))
		c.SetNoDelay(true)
		for _, b := range []byte(header + "GET / HTTP/1.0\r\nHost: i.test\r\n\r\n") {
			c.Write([]byte{b})
		}
		answer, err := io.ReadAll(c)
		client, local, _ := strings.Cut(own(c), " ")
		if want := client + " " + own(c) + " " + local; err != nil || !strings.HasSuffix(string(answer), "\r\n\r\n"+want) {
			t.Errorf("%q: %q, %v; want %q", header, answer, err, want)
		}
		c.Close()
		// To a target.
		c = send(0)
		io.WriteString(c, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
		answer, err = io.ReadAll(c)
		ip, _, _ := net.SplitHostPort(client)
		_, port, _ := net.SplitHostPort(local)
		if want := ip + " " + ip + " " + port; err != nil || !strings.HasSuffix(string(answer), "\r\n\r\n"+want) {
			t.Errorf("%q: %q, %v; want %q", header, answer, err, want)
		}
		c.Close()
		// Below TLS.
		c = send(0)
		client, local, _ = strings.Cut(own(c), " ")
		if _, body, err := tlsGet(t, tls.Client(c, &tls.Config{ServerName: "a.test", RootCAs: pool}), "a.test"); err != nil || body != client+" "+own(c)+" "+local {
			t.Errorf("%q: %q, %v", header, body, err)
		}
		c.Close()
		c = send(0)
		tc := tls.Client(c, &tls.Config{ServerName: "s.test", RootCAs: pool})
		if got := readLine(t, tc); got != own(c)+" raw=false" {
			t.Errorf("%q: %s, want %s", header, got, own(c))
		}
		c.Close()
		c = send(0)
		mustBounce(t, tls.Client(c, &tls.Config{ServerName: "p.test", RootCAs: upPool}), "passed through")
		c.Close()
	}
}

// Who must send a header is refused without one; nobody else is asked for one.
func TestProxyHeaderByPeer(t *testing.T) {
	testenv.Goroutines(t)
	other := testenv.Loopback(t, "127.0.0.2")
	peer := tcpEcho(t)
	port := testenv.FreePort(t)
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("X-Forwarded-For")) })
	p := start(t, Config{Timeouts: Timeouts{Route: 300 * time.Millisecond}, Routes: []Route{
		believing(streamRoute("raw", port, peer.target()), "127.0.0.1"),
		// The port asks for it, whichever route is taken.
		believing(httpRoute("web", 0, "a.test", web), "127.0.0.1"), httpRoute("b", 0, "b.test", web),
	}})
	const request = "GET / HTTP/1.0\r\nHost: b.test\r\n\r\n"
	bad := uint64(0)
	for name, text := range badProxyHeaders() {
		for _, at := range []int{port, 0} {
			c := dialTCP(t, addr(t, p, at))
			io.WriteString(c, text)
			if got, _ := io.ReadAll(c); len(got) > 0 {
				t.Errorf("%s: %q", name, got)
			}
			c.Close()
			bad++
		}
	}
	if n := peer.accepted.Load(); n != 0 {
		t.Errorf("%d of them have reached the target", n)
	}
	eventually(t, "all are counted", func() bool { return p.Stats().Refused["badProxyHeader"] == bad })

	// From elsewhere the header is the client's own.
	c := dialFrom(t, other, addr(t, p, port))
	mustBounce(t, c, line1("192.0.2.1"))
	c = dialFrom(t, other, addr(t, p, 0))
	io.WriteString(c, request)
	if got, _ := io.ReadAll(c); !strings.HasSuffix(string(got), "\r\n\r\n"+other) {
		t.Errorf("%q", got)
	}
	c = dialFrom(t, other, addr(t, p, 0))
	io.WriteString(c, line1("192.0.2.1")+request)
	if got, _ := io.ReadAll(c); wireStatus(string(got)) != 400 {
		t.Errorf("%q", got)
	}
	c = dialTCP(t, addr(t, p, 0))
	io.WriteString(c, line1("192.0.2.1")+request)
	if got, _ := io.ReadAll(c); !strings.HasSuffix(string(got), "\r\n\r\n192.0.2.1") {
		t.Errorf("%q", got)
	}
	// A second header is the client's too.
	c = dialTCP(t, addr(t, p, port))
	io.WriteString(c, line1("192.0.2.1"))
	mustBounce(t, c, line1("192.0.2.2"))

	// Looking whether we are there is no mistake.
	silent := p.Stats().Refused["silent"]
	dialTCP(t, addr(t, p, port)).Close()
	eventually(t, "it is counted", func() bool { return p.Stats().Refused["silent"] == silent+1 })
	if n := p.Stats().Refused["badProxyHeader"]; n != bad {
		t.Errorf("%d bad headers counted, want %d", n, bad)
	}

	// An update may change who is asked.
	update(t, p, believing(streamRoute("raw", port, peer.target()), other))
	mustBounce(t, dialTCP(t, addr(t, p, port)), "no header")
	c = dialFrom(t, other, addr(t, p, port))
	io.WriteString(c, "no header")
	if !isClosed(c, 5*time.Second) {
		t.Error("open without a header")
	}
}

// There is one deadline for the header and all that is read after it.
func TestProxyHeaderDeadline(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	port := testenv.FreePort(t)
	_, web := backend(t, says("web"))
	p := startBare(t, Config{Timeouts: Timeouts{Route: limit}, Routes: []Route{
		believing(httpRoute("web", 0, "a.test", web), "127.0.0.1"),
		believing(streamRoute("raw", port, tcpEcho(t).target()), "127.0.0.1"),
	}})
	for _, test := range []struct {
		name   string
		port   int
		before string // at once
		drip   string // a byte at a time
	}{
		{"nothing", port, "", ""},
		{"half a header", port, "PROXY TCP4", ""},
		{"half a binary header", 0, header2(0x21, 0x11, address4)[:20], ""},
		{"dripping header", port, "PROXY UNKNOWN", strings.Repeat("x", 90)},
		{"dripping header, then nothing", 0, "PROXY UNKNOWN", strings.Repeat(" ", 30) + "\r\n"},
		{"dripping request", 0, "PROXY UNKNOWN\r\n", strings.Repeat("x", 90)},
		{"nothing after the header", 0, line1("192.0.2.1"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			c := dialTCP(t, addr(t, p, test.port))
			io.WriteString(c, test.before)
			go func() {
				for _, b := range []byte(test.drip) {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(limit / 40)
				}
			}()
			if !isClosed(c, 10*time.Second) {
				t.Fatal("not closed")
			}
			if d := time.Since(begin); d < limit*9/10 || d > limit*3/2 {
				t.Errorf("closed after %v, want %v", d, limit)
			}
		})
	}
}

// Limits, lists, matching and balancing are by the client in the header.
func TestProxyHeaderDecides(t *testing.T) {
	testenv.Goroutines(t)
	port := testenv.FreePort(t)
	peers, targets := named(t, 2)
	hashed := believing(streamRoute("hashed", port, targets...), "127.0.0.1")
	hashed.Action.LoadBalancing.Algorithm = IPHash
	hashed.Action.Security = Security{IPBlockList: []string{"192.0.2.66"}}
	special := streamRoute("special", port, peers[0].target())
	special.Match.ClientIP = []string{"198.51.100.0/24"}
	special.Action = Action{SocketHandler: SocketHandlerFunc(infoSocket)}
	p := start(t, Config{MaxConnectionsPerIP: 2, Routes: []Route{hashed, special}})
	open := func(header string) *net.TCPConn {
		c := dialTCP(t, addr(t, p, port))
		io.WriteString(c, header)
		return c
	}
	gone := func() {
		t.Helper()
		eventually(t, "all are forgotten", func() bool { return p.Stats().ActiveConnections == 0 })
	}

	// Many clients through one proxy, each with its own limit.
	var all []net.Conn
	seen := make(map[int]int)
	for i := range 40 {
		from := line1(fmt.Sprintf("192.0.2.%d", 100+i))
		a, b := open(from), open(from)
		first := whom(t, a)
		if whom(t, b) != first {
			t.Errorf("%q is not with one target", from)
		}
		seen[first]++
		if c := open(from); !isClosed(c, 5*time.Second) {
			t.Errorf("a third connection of %q is open", from)
		}
		all = append(all, a, b)
	}
	if len(seen) != 2 {
		t.Errorf("clients by target: %v", seen)
	}
	if n := p.Stats().Refused["tooManyPerIp"]; n != 40 {
		t.Errorf("%d refused, want 40", n)
	}
	for _, c := range all {
		c.Close()
	}
	gone()
	// The proxy's own connections count for it.
	a, b := open(header2(0x20, 0x00)), open("PROXY UNKNOWN\r\n")
	whom(t, a)
	whom(t, b)
	if c := open(header2(0x20, 0x00)); !isClosed(c, 5*time.Second) {
		t.Error("a third connection of the proxy's own is open")
	}
	a.Close()
	b.Close()
	gone()
	// A client of IPv6 has a whole network to choose addresses from.
	v6 := func(host string) string { return "PROXY TCP6 2001:db8::" + host + " 2001:db8:1::1 4711 443\r\n" }
	a, b = open(v6("1")), open(v6("2"))
	whom(t, a)
	whom(t, b)
	if c := open(v6("3")); !isClosed(c, 5*time.Second) {
		t.Error("a third connection of one /64 is open")
	}
	a.Close()
	b.Close()
	gone()
	r := p.latest()
	r.mu.Lock()
	left := len(r.perIP)
	r.mu.Unlock()
	if left != 0 {
		t.Errorf("%d addresses are still counted for", left)
	}

	if c := open(line1("192.0.2.66")); !isClosed(c, 5*time.Second) {
		t.Error("a blocked client is let in")
	}
	eventually(t, "it is counted", func() bool { return routeStats(p, "hashed").Blocked == 1 })
	c := open(line1("198.51.100.7"))
	if got := readLine(t, c); got != "198.51.100.7:4711 203.0.113.9:443 raw=true" {
		t.Errorf("%q", got)
	}
}
