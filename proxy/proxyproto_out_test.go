package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// told is what a target has been told about a connection.
type told struct {
	version    byte
	local      bool // no client's: LOCAL or UNKNOWN
	client, to string
}

// toldTarget reads a PROXY header, which must be there, from each connection
// and then serves it; note gets what the header says. The reader is that of
// the library.
func toldTarget(t testing.TB, note func(told), serve func(net.Conn, *bufio.Reader)) Target {
	return tcpServer(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		if _, err := br.Peek(1); err != nil {
			return // a dial that was given up when the proxy stopped
		}
		h, err := proxyproto.Read(br)
		if err != nil {
			t.Errorf("target: %v", err)
			return
		}
		got := told{version: h.Version, local: h.Command.IsLocal()}
		if !got.local {
			got.client, got.to = h.SourceAddr.String(), h.DestinationAddr.String()
		}
		note(got)
		serve(c, br)
	}).target()
}

// bufferedConn reads through a buffer.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func telling(r Route, version int) Route {
	r.Action.ProxyProtocol = &ProxyProtocol{Accept: []string{"127.0.0.0/8"}, Send: version}
	return r
}

func TestProxyHeaderOfStreams(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, pool := testenv.SelfSigned(t, "re.test")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	tolds := make(chan told, 100)
	note := func(what told) { tolds <- what }
	plain := toldTarget(t, note, func(c net.Conn, r *bufio.Reader) { io.Copy(c, r) })
	secure := toldTarget(t, note, func(c net.Conn, r *bufio.Reader) {
		s := tls.Server(bufferedConn{c, r}, &tls.Config{Certificates: []tls.Certificate{pair}})
		io.Copy(s, s)
		s.Close()
	})
	for version := 1; version <= 2; version++ {
		port := testenv.FreePort(t)
		inside := telling(streamRoute("inside", 0, secure), version)
		inside.Match.Domains = []string{"re.test"}
		inside.Action.TLS = &TLS{Mode: TerminateAndReencrypt, Certificate: Certificate{CertPath: cert, KeyPath: key}, Upstream: UpstreamTLS{CAPath: cert}}
		p := start(t, Config{Routes: []Route{telling(streamRoute("raw", port, plain), version), inside}})
		for _, test := range []struct {
			header string // what the proxy itself is told; "" for the connection's own addresses
			want   told
		}{
			{"PROXY TCP4 192.0.2.1 203.0.113.9 12345 443\r\n", told{client: from4, to: to4}},
			{header2(0x21, 0x21, address6), told{client: from6, to: to6}},
			// Envoy CVE-2024-23327: a LOCAL connection has no addresses to pass on.
			{header2(0x20, 0x00), told{}},
			{header2(0x20, 0x11, address4), told{}},
			{header2(0x21, 0x00), told{}},
			{header2(0x21, 0x31, unixAddresses()), told{}},
			{"PROXY UNKNOWN\r\n", told{}},
		} {
			for _, at := range []int{port, 0} {
				c := dialTCP(t, addr(t, p, at))
				io.WriteString(c, test.header)
				var stream net.Conn = c
				if at == 0 {
					stream = tls.Client(c, &tls.Config{ServerName: "re.test", RootCAs: pool})
				}
				mustBounce(t, stream, "hello")
				want := test.want
				want.version = byte(version)
				if want.client == "" {
					want.client, want.to = c.LocalAddr().String(), c.RemoteAddr().String()
				}
				if got := receive(t, tolds); got != want {
					t.Errorf("version %d, %q: told %+v, want %+v", version, test.header, got, want)
				}
				c.Close()
			}
		}
		stopNow(p)
	}
}

// A connection that says whose it is carries nobody else's requests, whatever
// the clients do at once.
func TestProxyHeaderOfRequests(t *testing.T) {
	testenv.Goroutines(t)
	cert, key, _ := testenv.SelfSigned(t, "a.test")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(secure bool) Target {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		front := net.Listener(&proxyproto.Listener{Listener: ln, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }})
		if secure {
			front = tls.NewListener(front, &tls.Config{Certificates: []tls.Certificate{pair}})
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				upgradeEcho(w, r)
				return
			}
			fmt.Fprint(w, r.RemoteAddr, " ", r.Header.Get("X-Forwarded-For"))
		})}
		go s.Serve(front)
		t.Cleanup(func() { s.Close() })
		return targetOf(ln.Addr())
	}
	for version := 1; version <= 2; version++ {
		for _, secure := range []bool{false, true} {
			r := telling(httpRoute("web", 0, "a.test", serve(secure)), version)
			var settings *TLS
			if secure {
				settings = &TLS{Mode: TerminateAndReencrypt, Certificate: Certificate{CertPath: cert, KeyPath: key}, Upstream: UpstreamTLS{InsecureSkipVerify: true}}
				r.Action.TLS = settings
			}
			p := start(t, Config{Routes: []Route{r}})
			dial := func(from string) net.Conn {
				c := dialTCP(t, addr(t, p, 0))
				fmt.Fprintf(c, "PROXY TCP4 %s 203.0.113.9 4711 443\r\n", from)
				if secure {
					return tls.Client(c, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
				}
				return c
			}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					from := fmt.Sprintf("192.0.2.%d", i)
					c := dial(from)
					br := bufio.NewReader(c)
					for range 20 {
						io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
						resp, err := http.ReadResponse(br, nil)
						if err != nil {
							t.Error(err)
							return
						}
						body, _ := io.ReadAll(resp.Body)
						if got := string(body); got != from+":4711 "+from {
							t.Errorf("version %d, TLS %v: the target takes %s for %s", version, secure, from, got)
						}
						if resp.Close {
							t.Errorf("version %d, TLS %v: the client's connection ends with the target's", version, secure)
							return
						}
					}
					c.Close()
				})
			}
			waitAll(t, &wg)
			if !secure {
				c := dial("192.0.2.9")
				io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				br := bufio.NewReader(c)
				if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
					t.Fatalf("%v, %v", resp, err)
				}
				mustBounce(t, bufferedConn{c, br}, "upgraded")
				c.Close()
			}
			stopNow(p)
		}
	}
}

// A route that sends the header and one that does not, or another version,
// have no connection, health or counter of their target in common.
func TestProxyHeaderIsOfTheTarget(t *testing.T) {
	testenv.Goroutines(t)
	_, web := backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "served") })
	p := start(t, Config{Routes: []Route{httpRoute("without", 0, "a.test", web), telling(httpRoute("with", 0, "b.test", web), 1)}})
	c := dialTCP(t, addr(t, p, 0))
	io.WriteString(c, "PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	// An idle connection to the server is there, but not for this route: the
	// server gets a header, which it does not understand.
	c2 := dialTCP(t, addr(t, p, 0))
	io.WriteString(c2, "PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
	resp, err = http.ReadResponse(bufio.NewReader(c2), nil)
	if err != nil || resp.StatusCode < 400 {
		t.Fatalf("%v, %v", resp, err)
	}
	if n := len(p.Stats().Targets); n != 2 {
		t.Errorf("%d targets, want 2", n)
	}
}

func TestHealthChecksSpeakForThemselves(t *testing.T) {
	t.Parallel()
	for version := 1; version <= 2; version++ {
		var probes, clients atomic.Int64
		note := func(what told) {
			if what.version != byte(version) {
				t.Errorf("version %d, want %d", what.version, version)
			}
			if what.local {
				probes.Add(1)
			} else if netip.MustParseAddrPort(what.client).Addr() == netip.MustParseAddr("192.0.2.1") {
				clients.Add(1)
			}
		}
		raw := toldTarget(t, note, func(c net.Conn, r *bufio.Reader) { io.Copy(c, r) })
		web := toldTarget(t, note, func(c net.Conn, r *bufio.Reader) {
			head, err := wireHead(r)
			if err != nil || !strings.HasPrefix(head, "GET /health ") {
				t.Errorf("%q, %v", head, err)
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		})
		port := testenv.FreePort(t)
		often := HealthCheck{Interval: 5 * time.Millisecond}
		path := often
		path.Path = "/health"
		p := startBare(t, Config{Routes: []Route{checked(telling(streamRoute("raw", port, raw), version), often), checked(telling(httpRoute("web", 0, "a.test", web), version), path)}})
		c := dialTCP(t, addr(t, p, port))
		io.WriteString(c, line1("192.0.2.1"))
		mustBounce(t, c, "hello")
		eventually(t, "both are probed", func() bool { return probes.Load() > 20 })
		if n := clients.Load(); n != 1 {
			t.Errorf("%d connections for the client, want 1", n)
		}
		for _, s := range p.Stats().Targets {
			if !s.Healthy || s.LastError != "" {
				t.Errorf("%+v", s)
			}
		}
		stopNow(p)
	}
}
