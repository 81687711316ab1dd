// Command gateway is ours among the servers under test: a proxy.Proxy, a
// dnsserver.Server or an email.Server and nothing else, but for a control port of the benchmark's.
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
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter/proxy"
)

func main() {
	config := flag.String("config", "", "JSON `file` with a proxy.Config")
	control := flag.String("control", "", "`address` of the control port")
	var d dnsFlags
	flag.StringVar(&d.config, "dns", "", "JSON `file` with a dnsserver.Config, instead of a proxy's")
	flag.StringVar(&d.cert, "cert", "", "PEM `file` with the certificate for DNS over TLS and HTTPS")
	flag.StringVar(&d.key, "key", "", "PEM `file` with its key")
	flag.StringVar(&d.store, "store", "", "`folder` to keep changes of records in")
	mail := flag.String("mail", "", "JSON `file` with an email.Config, instead of a proxy's")
	resolver := flag.String("resolver", "", "`address` of the DNS server that the mail server asks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch {
	case d.config != "":
		err = runDNS(ctx, d, *control)
	case *mail != "":
		err = runMail(ctx, *mail, *resolver, *control)
	default:
		err = run(ctx, *config, *control)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, config, control string) error {
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
	if err := serveControl(control, "/apply", func(w http.ResponseWriter, req *http.Request) error {
		took, cpu, err := apply(p, cfg.Routes, req)
		if err == nil {
			fmt.Fprintln(w, took, cpu)
		}
		return err
	}); err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.Stop(end) // whoever is still connected does not matter here
	return nil
}

// serveControl serves the control port, until the program ends: CPU profiles,
// and a command.
func serveControl(addr, command string, do func(http.ResponseWriter, *http.Request) error) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/profile", pprof.Profile)
	mux.HandleFunc(command, func(w http.ResponseWriter, req *http.Request) {
		if err := do(w, req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	go http.Serve(ln, mux)
	return nil
}

// apply gives the proxy, beside its first routes, as many as the request says,
// each for a name of its own. Every tenth depends on the revision, so that the
// proxy cannot find the table unchanged. It returns how long that took, and
// the CPU time of it.
func apply(p *proxy.Proxy, first []proxy.Route, req *http.Request) (took, cpu time.Duration, err error) {
	count, err := strconv.Atoi(req.FormValue("routes"))
	if err != nil {
		return 0, 0, err
	}
	revision := req.FormValue("revision")
	routes := slices.Clone(first)
	for i := range count {
		r := first[0]
		r.Name = fmt.Sprintf("r%d", i)
		r.Match.Domains = []string{r.Name + ".bench.example"}
		if i%10 == 0 {
			r.Action.Headers.Response.Set = map[string]string{"X-Revision": revision}
		}
		routes = append(routes, r)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, before := time.Now(), threadTime()
	err = p.UpdateRoutes(req.Context(), routes)
	return time.Since(begin), threadTime() - before, err
}

// threadTime is the CPU time that this thread has used.
func threadTime() time.Duration {
	const thread = 1 // RUSAGE_THREAD, which only Linux has
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
