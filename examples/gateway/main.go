// Command gateway runs everything that a configuration file asks for.
//
//	gateway -config FILE          run
//	gateway -config FILE -check   validate: exit status 0 or 1, every problem
//	                              on standard error, one a line
//	gateway                       a demonstration on loopback
//
// When everything is bound it prints one line on standard output: "ready " and
// a JSON object of component to bound addresses. Logs go to standard error.
// SIGHUP reloads the routes from FILE; SIGTERM and SIGINT stop gracefully, a
// second one at once.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter"
)

// stopTimeout is how long a graceful stop may take.
const stopTimeout = 30 * time.Second

func main() {
	file := flag.String("config", "", "configuration `file`; without one a demonstration runs")
	check := flag.Bool("check", false, "validate the configuration and exit")
	flag.Parse()
	if flag.NArg() > 0 || *check && *file == "" {
		flag.Usage()
		os.Exit(2)
	}

	var err error
	switch {
	case *check:
		err = validate(*file)
	case *file != "":
		err = runFile(*file)
	default:
		err = runDemo()
	}
	if err != nil {
		for _, e := range dcrouter.FieldErrors(err) {
			fmt.Fprintln(os.Stderr, e)
		}
		os.Exit(1)
	}
}

// load reads a configuration file.
func load(file string) (dcrouter.Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return dcrouter.Config{}, err
	}
	defer f.Close()
	return dcrouter.LoadConfig(f)
}

// validate checks a configuration file and the files that it names.
func validate(file string) error {
	cfg, err := load(file)
	if err != nil {
		return err
	}
	r, err := dcrouter.New(dcrouter.WithConfig(cfg))
	if err != nil {
		return err
	}
	for _, e := range dcrouter.FieldErrors(r.Unavailable()) {
		fmt.Fprintln(os.Stderr, "note: valid, but it cannot be started:", e)
	}
	return r.Check()
}

// runFile runs a configuration file until a signal ends it.
func runFile(file string) error {
	cfg, err := load(file)
	if err != nil {
		return err
	}
	log := newLogger()
	r, err := dcrouter.New(dcrouter.WithConfig(cfg), dcrouter.WithLogger(log))
	if err != nil {
		return err
	}
	return serve(r, log, func() error {
		cfg, err := load(file)
		if err != nil {
			return err
		}
		if cfg.Proxy == nil {
			return errors.New("smartProxyConfig: missing; to remove all routes, give an empty list")
		}
		return r.UpdateRoutes(context.Background(), cfg.Proxy.Routes)
	})
}

// serve runs r until a signal ends it. reload is called on SIGHUP.
func serve(r *dcrouter.Router, log *slog.Logger, reload func() error) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	if err := r.Start(context.Background()); err != nil {
		return err
	}
	ready, err := json.Marshal(r.Addrs())
	if err != nil {
		return err
	}
	fmt.Printf("ready %s\n", ready)

	failed := make(chan error, 1)
	go func() { failed <- r.Wait() }()
	for {
		select {
		case err := <-failed:
			return errors.Join(err, stop(r, signals))
		case s := <-signals:
			if s != syscall.SIGHUP {
				log.Info("stopping", "signal", s.String())
				return stop(r, signals)
			}
			if err := reload(); err != nil {
				for _, e := range dcrouter.FieldErrors(err) {
					log.Error("reload failed, nothing has changed", "err", e)
				}
				continue
			}
			log.Info("routes reloaded", "addrs", r.Addrs())
		}
	}
}

// stop stops gracefully, or at once at the next signal.
func stop(r *dcrouter.Router, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	go func() {
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGHUP {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return r.Stop(ctx)
}

func newLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
