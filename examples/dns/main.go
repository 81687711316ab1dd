// Command dns serves a zone file until it is interrupted, and reads it again on
// SIGHUP.
//
//	go run ./examples/dns
//	dig @127.0.0.1 -p 5300 www.example.com
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
)

func main() {
	zone := flag.String("zone", "example.com", "the `domain` at the top of the zone")
	file := flag.String("file", "examples/dns/example.com.zone", "the zone `file`")
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	port := flag.Int("port", 5300, "the `port` to listen on, by UDP and TCP")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log, dnsserver.Config{
		ListenHost: *listen,
		Port:       port,
		Zones:      []dnsserver.Zone{{Name: *zone, File: *file}},
	}); err != nil {
		log.Error("it cannot go on", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger, cfg dnsserver.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)

	server, err := dnsserver.New(cfg, dnsserver.WithLogger(log))
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	log.Info("serving", "addrs", server.Addrs(), "zones", server.Zones())
	fmt.Fprintf(os.Stderr, "try: dig @%s -p %d www.%s\n", cfg.ListenHost, *cfg.Port, cfg.Zones[0].Name)
	for {
		select {
		case <-hangup:
			if err := server.Reload(ctx); err != nil {
				log.Error("the zone stays as it is", "err", err)
				continue
			}
			log.Info("reloaded", "zones", server.Zones())
		case <-ctx.Done():
			patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return server.Stop(patience)
		}
	}
}
