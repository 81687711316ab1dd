package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/dcrouter/dcrouter/proxy"
)

// A site behind the proxy, and routes that change while it runs.
func Example() {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s asks for %s\n", r.Header.Get("X-Forwarded-For"), r.URL.Path)
	}))
	defer site.Close()
	addr := site.Listener.Addr().(*net.TCPAddr)
	web := proxy.Route{
		Name:  "web",
		Match: proxy.Match{Ports: proxy.Ports(0), Protocol: "http"}, // any free port
		Action: proxy.Action{
			Type:    proxy.Forward,
			Targets: []proxy.Target{{Host: "127.0.0.1", Port: addr.Port}},
		},
	}
	p, err := proxy.New(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{web}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := p.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer p.Stop(ctx)

	get := func(path string) {
		resp, err := http.Get("http://" + p.Addr(0).String() + path)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Print(resp.StatusCode, " ", string(body))
	}
	get("/page")

	closed := proxy.Route{
		Name:  "closed",
		Match: proxy.Match{Ports: proxy.Ports(0), Path: "/private/*"}, // more specific, so it goes first
		Action: proxy.Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "not for you", http.StatusForbidden)
		})},
	}
	if err := p.UpdateRoutes(ctx, []proxy.Route{web, closed}); err != nil {
		fmt.Println(err)
	}
	get("/private/page")
	// Output:
	// 200 127.0.0.1 asks for /page
	// 403 not for you
}

// A socket handler serves connections of any protocol in the host's process.
func ExampleSocketHandler() {
	greet := proxy.SocketHandlerFunc(func(_ context.Context, conn net.Conn, info proxy.ConnInfo) {
		fmt.Fprintf(conn, "hello from %s", info.Route)
	})
	p, err := proxy.New(proxy.Config{
		ListenHost: "127.0.0.1",
		Routes: []proxy.Route{{
			Name:   "greeter",
			Match:  proxy.Match{Ports: proxy.Ports(0)},
			Action: proxy.Action{SocketHandler: greet},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	if err := p.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer p.Stop(ctx)

	conn, err := net.Dial("tcp", p.Addr(0).String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	text, _ := io.ReadAll(conn)
	fmt.Println(string(text))
	// Output: hello from greeter
}

// The routes of a database, of two web sites on one port, and of everything
// else that comes there.
func ExampleConfig() {
	to := func(host string, port int) proxy.Action {
		return proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: host, Port: port}}}
	}
	web := to("10.0.0.1", 8080)
	web.TLS = &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{CertPath: "cert.pem", KeyPath: "key.pem"}}
	secret := to("10.0.0.2", 443)
	secret.TLS = &proxy.TLS{Mode: proxy.Passthrough}
	office := to("10.0.0.3", proxy.PreservePort)
	office.Security.IPAllowList = []string{"192.168.1.0/24"}

	cfg := proxy.Config{Routes: []proxy.Route{
		{Name: "web", Match: proxy.Match{Ports: proxy.Ports(443), Domains: []string{"example.com", "*.example.com"}}, Action: web},
		{Name: "secret", Match: proxy.Match{Ports: proxy.Ports(443), Domains: []string{"secret.example.org"}}, Action: secret},
		{Name: "database", Match: proxy.Match{Ports: []proxy.PortRange{{From: 5432, To: 5439}}}, Action: office},
		{Name: "to-https", Match: proxy.Match{Ports: proxy.Ports(80)}, Action: proxy.Action{
			Type: proxy.Redirect, Redirect: proxy.RedirectTo{To: "https://{host}{uri}"}}},
	}}
	fmt.Println(cfg.Validate())
	// Output: <nil>
}
