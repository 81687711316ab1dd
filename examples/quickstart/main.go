// Command quickstart embeds the gateway in a program of its own: it serves
// http://127.0.0.1:8080 and changes the routes while it runs.
//
//	go run ./examples/quickstart
//	curl http://127.0.0.1:8080/
package main

import (
	"context"
	"flag"
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
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	r, err := dcrouter.New(
		dcrouter.WithProxy(proxy.Config{ListenHost: *listen, Routes: routes("1")}),
		dcrouter.WithLogger(slog.Default()),
	)
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Start(ctx); err != nil {
		log.Fatal(err)
	}
	log.Printf("try: curl http://%s:8080/  # and again in a second", *listen)

	for n := 2; ctx.Err() == nil; n++ {
		select {
		case <-time.After(time.Second):
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
