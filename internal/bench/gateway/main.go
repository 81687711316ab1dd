// Command gateway is ours among the servers under test: a proxy.Proxy and
// nothing else, but for a control port of the benchmark's.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter/proxy"
)

func main() {
	config := flag.String("config", "", "JSON `file` with a proxy.Config")
	control := flag.String("control", "", "`address` of the control port")
	flag.Parse()
	if err := run(*config, *control); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(config, control string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var cfg proxy.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return err
	}
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", control)
	if err != nil {
		return err
	}
	defer ln.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/profile", pprof.Profile)
	go http.Serve(ln, mux)
	if err := p.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.Stop(end) // whoever is still connected does not matter here
	return nil
}
