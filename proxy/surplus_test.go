package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// surplusTarget answers with the path that it was asked for and, to /bad, with an
// answer more, behind what the length says. What comes after is one answer late.
func surplusTarget(t *testing.T, ln net.Listener) Target {
	t.Helper()
	var conns sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		for br := bufio.NewReader(c); ; {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body := req.URL.Path
			if size, ok := strings.CutPrefix(body, "/bad/"); ok {
				n := 0
				fmt.Sscan(size, &n)
				body = strings.Repeat("b", n)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
			if n := len(body); n > 60_000 {
				io.WriteString(c, body[:60_000])
				body = body[60_000:]
			}
			time.Sleep(time.Millisecond) // head and body come one by one
			if strings.HasPrefix(req.URL.Path, "/bad/") {
				body += "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus"
			}
			io.WriteString(c, body)
		}
	}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { serve(c) })
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-accepting
		conns.Wait()
	})
	return targetOf(ln.Addr())
}

// A target that says more than its answer has lost count: what comes then is not for
// the next client.
func TestHTTPSurplusOfATarget(t *testing.T) {
	files, pool := tlsFiles(t, "a.test")
	pair, err := tls.LoadX509KeyPair(files.Certificate.CertPath, files.Certificate.KeyPath)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	settings := *files
	settings.Mode = TerminateAndReencrypt
	settings.Upstream = UpstreamTLS{ServerName: "a.test", CAPath: files.Certificate.CertPath}
	secure := tlsRoute("secure", &settings, forwardTo(surplusTarget(t, ln)), "a.test")
	p := startBare(t, Config{Routes: []Route{secure}})
	for _, size := range []string{"100", "70000"} {
		for _, path := range []string{"/bad/" + size, "/good"} {
			c, err := tls.Dial("tcp", addr(t, p, 0), &tls.Config{ServerName: "a.test", RootCAs: pool})
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || path == "/good" && string(body) != path {
				t.Errorf("behind %s bytes: %s is answered %q, %v", size, path, body, err)
			}
			c.Close()
		}
	}
}

// The same in the rush, where connections are used again at once.
func TestHTTPSurplusUnderLoad(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := startBare(t, oneRoute(forwardTo(surplusTarget(t, ln))))
	var clients sync.WaitGroup
	var good, wrong atomic.Int64
	end := time.Now().Add(time.Second)
	for k := range 16 {
		clients.Go(func() {
			var c net.Conn
			var br *bufio.Reader
			for i := 0; time.Now().Before(end); i++ {
				if c == nil {
					c = wireDial(t, addr(t, p, 0))
					br = bufio.NewReader(c)
				}
				path := fmt.Sprintf("/%d/%d", k, i)
				if k == 0 {
					path = "/bad/100"
				}
				fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
				resp, err := http.ReadResponse(br, nil)
				if err != nil { // a target that has lost count may end an exchange, but not mix two up
					c.Close()
					c = nil
					continue
				}
				body, _ := io.ReadAll(resp.Body)
				switch {
				case k == 0 || resp.StatusCode != http.StatusOK:
				case string(body) == path:
					good.Add(1)
				default:
					wrong.Add(1)
				}
			}
		})
	}
	clients.Wait()
	if wrong.Load() > 0 || good.Load() == 0 {
		t.Errorf("%d answers are of others, %d are right", wrong.Load(), good.Load())
	}
}
