// Command quickstart embeds the gateway in a program of its own: it serves
// http://127.0.0.1:8080 and changes the routes while it runs.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/proxy"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	r, err := dcrouter.New(
		dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: routes("1")}),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Start(ctx); err != nil {
		log.Fatal(err)
	}
	log.Println("try: curl http://127.0.0.1:8080/, and again in ten seconds")

	for n := 2; ctx.Err() == nil; n++ {
		select {
		case <-time.After(10 * time.Second):
			if err := r.UpdateRoutes(ctx, routes(fmt.Sprint(n))); err != nil {
				log.Println(err)
			}
		case <-ctx.Done():
		}
	}
	r.Stop(context.Background())
}

// routes sends / to a handler of this program. Other routes would forward:
// Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "10.0.0.1", Port: 80}}}.
func routes(name string) []proxy.Route {
	return []proxy.Route{{
		Name:  "hello",
		Match: proxy.Match{Ports: proxy.Ports(8080)},
		Action: proxy.Action{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "hello from route table %s\n", name)
		})},
	}}
}
