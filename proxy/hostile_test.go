package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// inChild runs the rest of the test in a process of its own, which must end
// well and print nothing. It reports true in the child.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv("PROXY_TEST_CHILD") == t.Name() {
		return true
	}
	cmd := testenv.Command(t, os.Args[0], "-test.timeout=2m", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "PROXY_TEST_CHILD="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		if len(out) > 4096 {
			out = append(out[:4096:4096], " ..."...)
		}
		t.Errorf("%v; it printed:\n%s", err, out)
	}
	return false
}

// endChild ends the child process before package testing prints something.
func endChild(t *testing.T) {
	if !t.Failed() {
		os.Exit(0)
	}
}

func startQuietly(t *testing.T, cfg Config, opts ...Option) *Proxy {
	cfg.ListenHost = "127.0.0.1"
	p, err := New(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	mustStart(t, p)
	return p
}

// answers is an HTTP target that says the same to whatever it is asked.
func answers(t *testing.T, text string) Target {
	return tcpServer(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			io.WriteString(c, text)
		}
	}).target()
}

func TestNothingIsPrinted(t *testing.T) {
	t.Parallel()
	if !inChild(t) {
		return
	}
	cert, key, pool := testenv.SelfSigned(t, "s.test", "quic.test")
	panics := func(name string) Route {
		return Route{Name: name, Match: Match{Ports: Ports(0), Domains: []string{name + ".test"}}}
	}
	handler, socket := panics("handler"), panics("socket")
	handler.Action.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.WriteHeader(500) // superfluous
		w.Write([]byte("x"))
		panic("on purpose")
	})
	port := testenv.FreePort(t)
	socket.Match = Match{Ports: Ports(port)}
	socket.Action.SocketHandler = SocketHandlerFunc(func(context.Context, net.Conn, ConnInfo) { panic("on purpose") })
	_, ok := backend(t, says("ok"))
	secure := httpRoute("secure", 0, "s.test", ok)
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	re := httpRoute("re", 0, "re.test", ok)
	re.Action.TLS = &TLS{Mode: TerminateAndReencrypt, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	bad := map[string]string{
		"more":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"garbage": "\x00\x01\x02 what is this\r\n\r\n",
		"short":   "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok",
		"chunks":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\nevil",
		"early":   "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
		"header":  "HTTP/1.1 200 OK\r\nA\x00: b\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
	}
	quicHandler := panics("quic")
	quicHandler.Action.TLS = secure.Action.TLS
	quicHandler.Action.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "nonsense")
		w.Write([]byte("x"))
		w.WriteHeader(500)
		w.(http.Flusher).Flush()
		panic("on purpose")
	})
	routes := []Route{handler, socket, secure, re, quicHandler, httpRoute("dead", 0, "dead.test", Target{Host: "127.0.0.1", Port: 1})}
	for name, text := range bad {
		routes = append(routes, httpRoute(name, 0, name+".test", answers(t, text)))
	}
	p := startQuietly(t, Config{HTTP3: HTTP3{Enabled: true}, Routes: routes, Timeouts: Timeouts{Route: 300 * time.Millisecond, RequestHead: 300 * time.Millisecond, Idle: 300 * time.Millisecond}})
	at := addr(t, p, 0)
	say := func(text string) {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	}
	var wg sync.WaitGroup
	for range 2 { // the second time on pooled connections
		for name := range bad {
			wg.Go(func() {
				c := client(t, at, nil)
				for range 3 {
					if resp, err := c.Get("http://" + name + ".test/"); err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}
				if resp, err := c.Post("http://"+name+".test/", "", strings.NewReader(strings.Repeat("x", 1<<20))); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		for _, text := range []string{
			"", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", "GET /../../ HTTP/1.1\r\nHost: dead.test\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: dead.test\r\n\r\nGET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nHost: dead.test\r\nX: " + strings.Repeat("x", 1<<16) + "\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: garbage.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "POST / HTTP/1.1\r\nHost: garbage.test\r\nContent-Length: 50\r\n\r\nx",
			"POST / HTTP/1.1\r\nHost: garbage.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "GET / HTTP/1.1\r\nHost: handler.test\r\n\r\n",
			"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 70000), "\x00\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
			"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "GET http://garbage.test/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: garbage.test\r\nExpect: nonsense\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: garbage.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
		} {
			wg.Go(func() { say(text) })
		}
		for name, send := range map[string]func(c *tls.Conn){
			"http/1.1": func(c *tls.Conn) { io.WriteString(c, "nonsense\r\n\r\n"); io.Copy(io.Discard, c) },
			"h2": func(c *tls.Conn) {
				io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame at all")
			},
			"": func(c *tls.Conn) { c.NetConn().Close() },
		} {
			wg.Go(func() {
				protocols := []string{name}
				if name == "" {
					protocols = nil
				}
				c := tls.Client(dialTCP(t, at), &tls.Config{ServerName: "s.test", RootCAs: pool, NextProtos: protocols})
				if c.Handshake() == nil { // on a busy machine the proxy may lose patience
					send(c)
				}
			})
		}
		wg.Go(func() { // refused by the client
			c := tls.Client(dialTCP(t, at), &tls.Config{ServerName: "s.test"})
			c.Handshake()
			c.Close()
		})
		wg.Go(func() { tls.Client(dialTCP(t, at), &tls.Config{ServerName: "nobody.test"}).Handshake() })
		wg.Go(func() { isClosed(dialTCP(t, addr(t, p, port)), 2*time.Second) })
		wg.Go(func() {
			c := client3(t, at, pool)
			for _, url := range []string{"https://s.test/", "https://quic.test/", "https://re.test/", "https://nobody.test/"} {
				if resp, err := c.Get(url); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
			if c, err := quicOpen(t, at, &tls.Config{ServerName: "s.test", RootCAs: pool}); err == nil {
				str, _ := c.OpenStream()
				str.Write([]byte("garbage that is no frame at all"))
				awaitClose(t, c, 5*time.Second)
			}
		})
		waitAll(t, &wg)
	}
	stopWithin(p, 100*time.Millisecond)
	endChild(t)
}

// An upload that is answered before it has been read: the rest of the body is
// read by a goroutine that may outlive the request.
func TestEarlyAnswerToUploadDoesNotCrash(t *testing.T) {
	t.Parallel()
	if !inChild(t) {
		return
	}
	log.SetOutput(io.Discard) // the clients here may complain; a crash prints all the same
	early := tcpServer(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 512))
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		time.Sleep(10 * time.Millisecond)
	}).target()
	cert, key, pool := testenv.SelfSigned(t, "s.test")
	secure := httpRoute("secure", 0, "s.test", early)
	secure.Action.TLS = &TLS{Mode: Terminate, Certificate: Certificate{CertPath: cert, KeyPath: key}}
	p := startQuietly(t, Config{Routes: []Route{secure, httpRoute("plain", 0, "a.test", early)}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := client(t, addr(t, p, 0), pool)
			for range 60 {
				pr, pw := io.Pipe()
				req, _ := http.NewRequest("POST", []string{"https://s.test/", "http://a.test/"}[i%4/3], pr)
				go func() {
					for range 20 {
						if _, err := pw.Write(make([]byte, 10000)); err != nil {
							return
						}
					}
					time.Sleep(time.Millisecond)
					pw.Close()
				}()
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
				}
				pr.Close()
			}
		})
	}
	waitAll(t, &wg)
	stopWithin(p, time.Second)
	endChild(t)
}

// Code of the host that panics must not take the process with it.
func TestPanicInHooksDoesNotKill(t *testing.T) {
	t.Parallel()
	if !inChild(t) {
		return
	}
	peer := tcpEcho(t)
	bad := Target{Host: "127.0.0.1", PortFunc: func(ConnInfo) int { panic("on purpose") }}
	auto := terminateAuto(bad)
	auto.Match.Domains = []string{"auto.test"}
	a, b := testenv.FreePort(t), testenv.FreePort(t)
	p := startQuietly(t, Config{HTTP3: HTTP3{Enabled: true},
		Routes: []Route{streamRoute("bad", a, bad), streamRoute("good", b, peer.target()), httpRoute("web", 0, "web.test", bad), auto}},
		WithGetCertificate(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("on purpose") }))
	for range 3 {
		if !isClosed(dialTCP(t, addr(t, p, a)), 5*time.Second) {
			t.Error("stream: not closed")
		}
		if resp, err := client(t, addr(t, p, 0), nil).Get("http://web.test/"); err == nil {
			resp.Body.Close()
		}
		if err := tls.Client(dialTCP(t, addr(t, p, 0)), &tls.Config{ServerName: "auto.test"}).Handshake(); err == nil {
			t.Error("a handshake without a certificate")
		}
		if _, err := quicOpen(t, addr(t, p, 0), &tls.Config{ServerName: "auto.test"}); err == nil {
			t.Error("a handshake of QUIC without a certificate")
		}
		mustBounce(t, dialTCP(t, addr(t, p, b)), "hello")
	}
	eventually(t, "nothing is counted as open", func() bool { return routeStats(p, "bad").Active == 0 && routeStats(p, "web").Active == 0 })
	if err := stopWithin(p, time.Second); err != nil {
		t.Logf("the last stream was open: %v", err)
	}
	endChild(t)
}
