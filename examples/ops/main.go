// Command ops shows the operations API and the dashboard, with traffic of its own
// through the proxy, the mail system and the DNS server, so that there is something
// to see.
//
//	go run ./examples/ops
//
// Then open http://127.0.0.1:3000 in a browser and sign in as admin with the password
// "correct horse battery", or what ADMIN_PASSWORD says. It prints what else to try.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
)

const help = `Open http://%[1]s:3000 in a browser and sign in as admin with the password %[2]q.
Or try, in another shell here:

  curl -s http://%[1]s:3000/api/v1/adminLoginWithUsernameAndPassword -H 'Content-Type: application/json' -d '{"username": "admin", "password": "%[2]s"}' | sed 's/.*"jwt":"\([^"]*\).*/\1/' > ops.data/token  # sign in
  curl -s -H "Authorization: Bearer $(cat ops.data/token)" -X POST http://%[1]s:3000/api/v1/getServerStatistics  # all counters
  curl -s -H "Authorization: Bearer $(cat ops.data/token)" -X POST http://%[1]s:3000/api/v1/getLatency  # a method of this program
  curl -s -H "Authorization: Bearer $(cat ops.data/token)" -N -m 3 http://%[1]s:3000/api/v1/events  # what happens, for three seconds
  curl -s http://%[1]s:3000/metrics  # for Prometheus
  curl -s http://%[1]s:3000/readyz  # for whoever watches over the process
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
	password := cmp.Or(os.Getenv("ADMIN_PASSWORD"), "correct horse battery")
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(rand.N(20 * time.Millisecond))
		if rand.IntN(20) == 0 {
			http.Error(w, "one request in twenty fails", http.StatusInternalServerError)
		}
	})
	r, err := dcrouter.New(
		dcrouter.WithConfig(dcrouter.Config{
			// Secrets are never shown. Users may have the role viewer, operator or admin.
			Ops: &opsapi.Config{ListenHost: listen, Port: new(3000), Admin: opsapi.Admin{Username: "admin", Password: dcrouter.Secret(password)}},
			Proxy: &proxy.Config{ListenHost: listen, Routes: []proxy.Route{
				{Name: "app", Match: proxy.Match{Ports: proxy.Ports(8080)}, Action: proxy.Action{Handler: app}},
				{Name: "office", Match: proxy.Match{Ports: proxy.Ports(8080), Path: "/office/*"}, // for others, not for us
					Action: proxy.Action{Handler: app, Security: proxy.Security{IPAllowList: []string{"192.168.1.0/24"}}}},
			}},
			DNS: &dnsserver.Config{ListenHost: listen, Port: new(5300), NameServers: []string{"ns1.example.com"},
				Records: []dnsserver.Record{{Name: "ns1.example.com", Type: "A", Value: "192.0.2.1"}, {Name: "www.example.com", Type: "A", Value: "192.0.2.80"}}},
			Email: &email.Config{ListenHost: listen, Ports: email.Ports(2525), Hostname: "mail.example.com",
				Resolvers: []string{listen + ":5300"},                                         // so that it needs no internet; leave it out otherwise
				Domains:   []email.Domain{{Domain: "example.com", DMARC: email.MonitorDMARC}}, // as it cannot look up senders
				Routes:    []email.Route{{Name: "local", Match: email.Match{Recipients: []string{"ann@example.com"}}, Action: email.Action{Type: email.Deliver}}}},
			Storage: &dcrouter.StorageConfig{FSPath: "ops.data"}, // versions of the configuration, the audit log, mail
		}),
		// Without WithLogger the log is seen in the dashboard alone.
	)
	if err != nil {
		return err
	}
	t := &traffic{host: listen}
	opsapi.Handle(r.Ops().Methods(), "getLatency", opsapi.RoleViewer, func(context.Context, struct{}) (latency, error) {
		return latency{Milliseconds: float64(t.last.Load()) / 1e6}, nil
	}, opsapi.Doc("Says how long the last request of the demonstration took."))
	if err := r.Start(ctx); err != nil {
		return err
	}
	defer r.Stop(context.Background())
	fmt.Printf(help, listen, password)
	t.run(ctx)
	return nil
}

// latency is the answer of getLatency.
type latency struct {
	Milliseconds float64 `json:"milliseconds"`
}
