package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
)

// Ports of the demonstration. Where one is taken, any free one is used.
const (
	httpPort  = 8080
	httpsPort = 8443
	echoPort  = 9000
)

// demo is a gateway and the back ends behind it, in one process.
type demo struct {
	router  *dcrouter.Router
	targets map[string]proxy.Target
	ports   map[int]int // bound, by the port in the routes

	swapping sync.Mutex
	swapped  atomic.Bool
}

// runDemo runs the demonstration until a signal ends it.
func runDemo() error {
	d := &demo{targets: make(map[string]proxy.Target), ports: make(map[int]int)}
	for _, name := range []string{"blue", "green"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			fmt.Fprintf(w, "%s answers %s %s for %s from %s\n", name, req.Method, req.URL, req.Host, req.Header.Get("X-Forwarded-For"))
		}))
		d.add(name, ln)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go serveEcho(ln)
	d.add("echo", ln)

	log := newLogger()
	opts := []dcrouter.Option{
		dcrouter.WithLogger(log),
		dcrouter.WithGetCertificate(selfSigned("localhost")),
	}
	for _, port := range []int{httpPort, httpsPort, echoPort} {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				return err
			}
		}
		d.ports[port] = ln.Addr().(*net.TCPAddr).Port
		opts = append(opts, dcrouter.WithListener(addr, ln))
	}
	opts = append(opts, dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: d.routes()}))
	if d.router, err = dcrouter.New(opts...); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, `This is a demonstration with back ends of its own. Try, while it runs:

  curl http://127.0.0.1:%[1]d/                 forwarded to blue
  curl http://127.0.0.1:%[1]d/api/hello        forwarded by path, to green
  curl -X POST http://127.0.0.1:%[1]d/swap     replaces the routes: blue and green change places
  curl -k https://localhost:%[2]d/             TLS terminated, HTTP/2
  curl -i http://localhost:%[1]d/              redirected to HTTPS by its domain
  curl telnet://127.0.0.1:%[3]d                TCP forwarded to an echo server: type, then Ctrl-C

Ctrl-C ends it. To run your own: go run ./examples/gateway -config FILE

`, d.ports[httpPort], d.ports[httpsPort], d.ports[echoPort])
	return serve(d.router, nil, log, func(ctx context.Context) error { return d.router.UpdateRoutes(ctx, d.routes()) })
}

func (d *demo) add(name string, ln net.Listener) {
	d.targets[name] = proxy.Target{Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}
}

// routes returns the routes as they should be now.
func (d *demo) routes() []proxy.Route {
	first, second := d.targets["blue"], d.targets["green"]
	if d.swapped.Load() {
		first, second = second, first
	}
	to := func(t proxy.Target) proxy.Action {
		return proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{t}}
	}
	secure := to(first)
	secure.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	return []proxy.Route{
		{Name: "web", Match: proxy.Match{Ports: proxy.Ports(httpPort), Protocol: "http"}, Action: to(first)},
		{Name: "api", Match: proxy.Match{Ports: proxy.Ports(httpPort), Path: "/api/*"}, Action: to(second)},
		{Name: "swap", Match: proxy.Match{Ports: proxy.Ports(httpPort), Path: "/swap", Methods: []string{"POST"}},
			Action: proxy.Action{Handler: http.HandlerFunc(d.swap)}},
		{Name: "to-https", Match: proxy.Match{Ports: proxy.Ports(httpPort), Domains: []string{"localhost"}},
			Action: proxy.Action{Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: fmt.Sprintf("https://{host}:%d{uri}", d.ports[httpsPort])}}},
		{Name: "secure", Match: proxy.Match{Ports: proxy.Ports(httpsPort)}, Action: secure},
		{Name: "echo", Match: proxy.Match{Ports: proxy.Ports(echoPort)}, Action: to(d.targets["echo"])},
	}
}

// swap replaces the routes from inside a request that they carry.
func (d *demo) swap(w http.ResponseWriter, req *http.Request) {
	d.swapping.Lock()
	defer d.swapping.Unlock()
	before := d.swapped.Load()
	d.swapped.Store(!before)
	if err := d.router.UpdateRoutes(req.Context(), d.routes()); err != nil {
		d.swapped.Store(before)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "blue and green have changed places; no connection was closed")
}

func serveEcho(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// selfSigned makes a certificate for the time the demonstration runs.
func selfSigned(name string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	create := func() (*tls.Certificate, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()),
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(30 * 24 * time.Hour),
			DNSNames:     []string{name},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			return nil, err
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
	cert, err := create()
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, err }
}
