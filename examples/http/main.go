// Command http is a reverse proxy for three sites: one of two applications, of which
// a dead one gets nothing, one of files, and one that other names redirect to. All
// of it is HTTPS, and HTTP leads there.
//
//	go run ./examples/http
//
// needs nothing else: the applications are in this program, and certificates come
// from an authority of its own, whose root it writes to http.data/ca.pem. It prints
// what to try. For production, see the comment at acme.
package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

const help = `Try, in another shell here:

  curl -L --connect-to ::%[1]s: --cacert http.data/ca.pem http://example.com:8080/      # from HTTP to HTTPS, from there to www.
  curl --connect-to ::%[1]s: --cacert http.data/ca.pem https://www.example.com:8443/hello # again: the two take turns
  curl --connect-to ::%[1]s: --cacert http.data/ca.pem https://www.example.com:8443/api/ # a path of green alone
  curl --connect-to ::%[1]s: --cacert http.data/ca.pem https://cdn.example.com:8443/     # a file of http.data/files
  curl --connect-to ::%[1]s: --cacert http.data/ca.pem -X POST https://www.example.com:8443/sick # a second later green has all, until this is done again
  curl --connect-to ::%[1]s: --cacert http.data/ca.pem -sN --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==' https://www.example.com:8443/live # a WebSocket
`

func main() {
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *listen); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen string) error {
	if err := os.MkdirAll("http.data/files", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("http.data/files/index.html", []byte("<h1>a file</h1>\n"), 0o644); err != nil {
		return err
	}
	blue, err := startApp("blue")
	if err != nil {
		return err
	}
	green, err := startApp("green")
	if err != nil {
		return err
	}
	r, err := dcrouter.New(
		dcrouter.WithProxy(proxy.Config{
			ListenHost: listen,
			Routes:     routes(blue, green),
			// In production: ACME{Email: "you@example.com", UseProduction: true} has
			// them from Let's Encrypt, for which ports 80 and 443 must be reachable.
			ACME: &proxy.ACME{LocalCA: true},
		}),
		dcrouter.WithStorage(storage.Dir("http.data/storage")),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	defer r.Stop(context.Background())
	if err := os.WriteFile("http.data/ca.pem", r.LocalCARoot(), 0o644); err != nil {
		return err
	}
	fmt.Printf(help, listen)
	<-ctx.Done()
	return nil
}

func routes(blue, green proxy.Target) []proxy.Route {
	secure := &proxy.TLS{Mode: proxy.Terminate, Certificate: proxy.Certificate{Auto: true}}
	return []proxy.Route{{
		Name:  "to-https",
		Match: proxy.Match{Ports: proxy.Ports(8080)},
		Action: proxy.Action{Type: proxy.Redirect, // without the port in production
			Redirect: proxy.RedirectTo{To: "https://{host}:8443{uri}"}},
	}, {
		Name:  "to-www",
		Match: proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"example.com", "*.example.org"}},
		Action: proxy.Action{Type: proxy.Redirect, TLS: secure,
			Redirect: proxy.RedirectTo{To: "https://www.example.com:8443{uri}", Status: http.StatusFound}},
	}, {
		Name:  "www",
		Match: proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"www.example.com", "localhost"}}, // localhost for browsers
		Action: proxy.Action{
			Type:    proxy.Forward,
			TLS:     secure,
			Targets: []proxy.Target{blue, green},
			LoadBalancing: proxy.LoadBalancing{
				HealthCheck: &proxy.HealthCheck{Path: "/health", Interval: time.Second, UnhealthyAfter: 1, HealthyAfter: 1},
			},
			Headers: proxy.HeaderEdits{Response: proxy.HeaderEdit{Set: map[string]string{"Strict-Transport-Security": "max-age=300"}}},
		},
	}, {
		Name:   "api",
		Match:  proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"www.example.com"}, Path: "/api/*"},
		Action: proxy.Action{Type: proxy.Forward, TLS: secure, Targets: []proxy.Target{green}},
	}, {
		Name:   "sick",
		Match:  proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"www.example.com"}, Path: "/sick", Methods: []string{"POST"}},
		Action: proxy.Action{Type: proxy.Forward, TLS: secure, Targets: []proxy.Target{blue}},
	}, {
		Name:   "files",
		Match:  proxy.Match{Ports: proxy.Ports(8443), Domains: []string{"cdn.example.com"}},
		Action: proxy.Action{Type: proxy.Serve, Root: "http.data/files", TLS: secure, Compression: &proxy.Compression{}},
	}}
}

// startApp starts one of the applications, on any port of this machine.
func startApp(name string) (proxy.Target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return proxy.Target{}, err
	}
	var sick atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s answers %s for %s\n", name, r.URL, r.Host)
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() {
			http.Error(w, "sick", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /sick", func(w http.ResponseWriter, r *http.Request) {
		sick.Store(!sick.Load())
		fmt.Fprintf(w, "is %s sick? %t\n", name, sick.Load())
	})
	mux.HandleFunc("/live", func(w http.ResponseWriter, r *http.Request) { live(w, r, name) })
	go http.Serve(ln, mux)
	return proxy.Target{Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}, nil
}

// live accepts a WebSocket (RFC 6455), says three things and closes it. A real
// application has a package for that.
func live(w http.ResponseWriter, r *http.Request, name string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this is for WebSockets", http.StatusUpgradeRequired)
		return
	}
	defer conn.Close()
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]))
	for n := range 3 {
		text := fmt.Sprintf("%s says %d\n", name, n)
		if _, err := conn.Write(append([]byte{0x81, byte(len(text))}, text...)); err != nil { // one frame of text
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	conn.Write([]byte{0x88, 0}) // closed
}
