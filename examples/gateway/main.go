// Command gateway runs everything that a configuration file asks for.
//
//	gateway -config FILE          run
//	gateway -config FILE -check   validate: exit status 0 or 1, every problem
//	                              on standard error, one a line
//	gateway                       a demonstration on loopback
//
// When everything is bound it prints one line on standard output: "ready " and
// a JSON object of component to bound addresses. Logs go to standard error.
// SIGHUP reloads the routes from FILE, and zone files; SIGUSR2 starts the program
// anew, with its file as it is now, and leaves everything to the new process
// without refusing a connection; SIGTERM and SIGINT stop gracefully, a second
// one at once. Under systemd it takes sockets from it and tells it how things
// are; see docs/upgrade.md.
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
	"runtime/debug"
	"strings"
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
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "config" })
	if flag.NArg() > 0 || *check && !given || given && *file == "" {
		flag.Usage()
		os.Exit(2)
	}

	var err error
	switch {
	case *check:
		err = validate(*file)
	case given:
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
	for _, e := range dcrouter.FieldErrors(r.Unready()) {
		fmt.Fprintln(os.Stderr, "note: valid, but it cannot be started:", e)
	}
	return r.Check()
}

// runFile runs a configuration file until a signal ends it, or another process
// goes on with it.
func runFile(file string) error {
	path, err := program()
	if err != nil {
		return err
	}
	old, left, err := inherited()
	if err != nil {
		return err
	}
	given, err := activation()
	if err != nil {
		return err
	}
	cfg, err := load(file)
	if err != nil {
		return err
	}
	log := newLogger()
	r, err := dcrouter.New(append(given, dcrouter.WithConfig(cfg), dcrouter.WithLogger(log), dcrouter.WithSockets(left...))...)
	if err != nil {
		return err
	}
	if old != nil {
		// Whatever is wrong is said before the old process stops anything.
		if err := errors.Join(r.Unready(), r.Check()); err != nil {
			return err
		}
		if err := old.takeOver(); err != nil {
			return err
		}
	}
	atStart := beyondRoutes(cfg)
	return serve(r, &succession{old, path}, log, func(ctx context.Context) error {
		cfg, err := load(file)
		if err != nil {
			return err
		}
		if cfg.Proxy == nil {
			return errors.New("smartProxyConfig: missing; to remove all routes, give an empty list")
		}
		if err := r.UpdateRoutes(ctx, cfg.Proxy.Routes); err != nil {
			return err
		}
		if dns := r.DNS(); dns != nil {
			if err := dns.Reload(ctx); err != nil {
				return err
			}
		}
		if beyondRoutes(cfg) != atStart {
			log.Warn("the file has changed beyond its routes; that takes effect at the next start")
		}
		return nil
	})
}

// beyondRoutes is what a reload does not change, to compare.
func beyondRoutes(cfg dcrouter.Config) string {
	if cfg.Proxy != nil {
		p := *cfg.Proxy
		p.Routes = nil
		cfg.Proxy = &p
	}
	var text strings.Builder
	dcrouter.WriteConfig(&text, cfg) // with secrets, which may have changed too
	return text.String()
}

// serve runs r until a signal ends it. reload is called on SIGHUP. Without a
// succession there are no upgrades.
func serve(r *dcrouter.Router, s *succession, log *slog.Logger, reload func(context.Context) error) error {
	ctx, stopSignals := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stopSignals()
	hangups := make(chan os.Signal, 1) // one is enough: it asks for the newest file
	signal.Notify(hangups, syscall.SIGHUP)

	var upgradeSignals <-chan os.Signal
	if s != nil {
		upgradeSignals = upgrades()
	}

	if err := r.Start(ctx); err != nil {
		return err
	}
	debug.FreeOSMemory() // to start takes more than to run
	if s != nil && s.old != nil {
		s.old.say(sayServing) // if it is gone by now, so much the better
		s.old.Close()
	}
	notify("READY=1", fmt.Sprintf("MAINPID=%d", os.Getpid()))
	inCharge, resign := context.WithCancel(context.Background())
	defer resign()
	go watchdog(inCharge, r)
	ready, err := json.Marshal(r.Addrs())
	if err == nil {
		_, err = fmt.Printf("ready %s\n", ready)
	}
	if err != nil {
		return errors.Join(err, stop(r)) // whoever waits for it would wait for ever
	}

	// Not in the loop below: a file that cannot be read to its end must not
	// keep a signal from ending the process.
	go func() {
		for range hangups {
			notify("RELOADING=1")
			err := reload(ctx)
			notify("READY=1")
			for _, e := range dcrouter.FieldErrors(err) {
				log.Error("reload failed, nothing has changed", "err", e)
			}
			if err == nil {
				log.Info("routes reloaded", "addrs", r.Addrs())
			}
		}
	}()
	for {
		failed := make(chan error, 1)
		go func() { failed <- r.Wait() }()
		select {
		case err := <-failed:
			return errors.Join(err, stop(r))
		case <-ctx.Done():
			log.Info("stopping", "at most", stopTimeout)
			notify("STOPPING=1")
			stopSignals() // a second signal does what it always does
			return stop(r)
		case <-upgradeSignals:
		}
		err := upgrade(ctx, r, s.program, log)
		switch {
		case err == nil:
			resign()
			return drain(ctx, r)
		case errors.Is(err, errLost):
			return errors.Join(err, stop(r))
		case ctx.Err() == nil:
			log.Error("the upgrade failed, and this process goes on", "err", err)
		}
	}
}

// stop stops gracefully, for a time.
func stop(r *dcrouter.Router) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return r.Stop(ctx)
}

// drain serves the connections that are left after an upgrade. A signal that ends
// the process is for them, too.
func drain(ctx context.Context, r *dcrouter.Router) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	return r.Stop(ctx)
}

func newLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
