package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// There is no Upgrade in HTTP/2, so targets are asked in HTTP/1.1.
func TestUpstreamHTTP2WebSocket(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	for _, protocol := range []string{H2, H2C} {
		s := httptest.NewUnstartedServer(wsEcho(t))
		if protocol == H2 {
			pair, _ := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
			s.TLS, s.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}}, true
			s.StartTLS()
		} else {
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(true)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
		}
		closeAfter(t, s)
		a := forwardTo(targetOf(s.Listener.Addr()))
		a.UpstreamProtocol = protocol
		_, addrs := h2Front(t, nil, files, a)
		secure := &tls.Config{ServerName: "a.test", RootCAs: pool}
		h := h2Dial(t, addrs["h2"], secure, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24})
		h.WriteWindowUpdate(0, 1<<24)
		ws, head := h.openWebSocket(t, 1, "a.test", "/")
		if head[":status"] != "200" {
			t.Fatalf("%s: %v", protocol, head)
		}
		ws.talk(t)
		ws, resp := wsDial(t, tls.Client(wireDial(t, addrs["h2"]), secure), "a.test", "")
		if resp.StatusCode != 101 {
			t.Fatalf("%s: %v", protocol, resp)
		}
		ws.talk(t)
	}
}

func TestUpstreamHTTP2NotSpoken(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	pair, _ := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	a := forwardTo(wireServer(t, func(c net.Conn) {
		io.Copy(io.Discard, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}))
	a.UpstreamProtocol = H2
	p, addrs := h2Front(t, nil, files, a)
	if status, _ := get(t, client(t, addrs["h2"], pool), "https://a.test/"); status != 502 {
		t.Errorf("%d, want 502", status)
	}
	if e := p.Stats().Targets[0].LastError; !strings.Contains(e, "does not speak HTTP/2") {
		t.Errorf("last error %q", e)
	}
	// Without TLS the answer is no HTTP/2 either.
	_, plain := backend(t, says("x"))
	a = forwardTo(plain)
	a.UpstreamProtocol = H2C
	p = start(t, oneRoute(a))
	if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != 502 {
		t.Errorf("%d, want 502", status)
	}
}

// Requests that come while there is no connection to the target share the one
// that the first of them opens, and do not open a hundred.
func TestUpstreamHTTP2ColdStart(t *testing.T) {
	target := tcpServer(t, func(c *net.TCPConn) {
		if p := h2Greet(c, 0); p != nil {
			for id, _ := p.request(); id != 0; id, _ = p.request() {
				p.respond(id, "x")
			}
		}
	})
	a := forwardTo(target.target())
	a.UpstreamProtocol = H2C
	cfg := oneRoute(a)
	p := start(t, cfg)
	for n := range int64(3) {
		c := h2cClient(t, addr(t, p, 0))
		get(t, c, "http://b.test/") // so that it has a connection to us
		target.accepted.Store(0)
		if err := p.UpdateRoutes(t.Context(), []Route{handlerRoute("r", Match{})}); err != nil {
			t.Fatal(err) // without a route the target keeps no connection
		}
		if err := p.UpdateRoutes(t.Context(), cfg.Routes); err != nil {
			t.Fatal(err)
		}
		eventually(t, "no connection to the target", func() bool { return target.open.Load() == 0 })
		var running sync.WaitGroup
		for range 100 {
			running.Go(func() {
				if status, _ := get(t, c, "http://b.test/"); status != 200 {
					t.Errorf("%d", status)
				}
			})
		}
		waitAll(t, &running)
		// One that comes just when the first is through may still open its own.
		if got := target.accepted.Load(); got > 3 {
			t.Errorf("round %d: %d connections to the target, want 1", n, got)
		}
	}

	// If it fails, all hear of it, and none waits for its turn.
	dead := forwardTo(Target{Host: "127.0.0.1", Port: testenv.FreePort(t)})
	dead.UpstreamProtocol = H2C
	p = start(t, oneRoute(dead))
	var running sync.WaitGroup
	for range 20 {
		running.Go(func() {
			if status, _ := get(t, client(t, addr(t, p, 0), nil), "http://a.test/"); status != 502 {
				t.Errorf("dead: %d", status)
			}
		})
	}
	waitAll(t, &running)
}

// The answer to a client that has not ended its upload is not lost, however fast
// the target ends the stream behind it.
func TestUpstreamHTTP2EarlyAnswerIsWhole(t *testing.T) {
	files, _ := tlsFiles(t, "a.test")
	a := h2Backend(t, H2C, files, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		io.WriteString(w, "too large")
	})
	_, addrs := h2Front(t, nil, files, a)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8 * runtime.NumCPU())) // as in TestUploadsKeepTheirConnections
	var clients sync.WaitGroup
	for range 8 {
		var conns []net.Conn
		for range 50 {
			conns = append(conns, wireDial(t, addrs["http1"]))
		}
		clients.Go(func() {
			for _, c := range conns {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "too large" || err != nil {
					t.Errorf("%d %q, %v", resp.StatusCode, body, err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
}
