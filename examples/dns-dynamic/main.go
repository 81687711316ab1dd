// Command dns-dynamic serves a zone that it changes while it runs: now.example.com
// tells the time. What it changes is kept in a folder, and so is the serial number.
//
//	go run ./examples/dns-dynamic -dir /tmp/zones
//	dig @127.0.0.1 -p 5300 now.example.com TXT +short
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/storage"
)

func main() {
	dir := flag.String("dir", "", "the `folder` to keep changes in; in memory without it")
	listen := flag.String("listen", "127.0.0.1", "the `address` to listen on")
	port := flag.Int("port", 5300, "the `port` to listen on, by UDP and TCP")
	every := flag.Duration("every", time.Second, "how often the record changes")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log, *dir, *listen, *port, *every); err != nil {
		log.Error("it cannot go on", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger, dir, listen string, port int, every time.Duration) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	backend := storage.Memory()
	if dir != "" {
		backend = storage.Dir(dir)
	}
	store, err := storage.Open(ctx, backend, storage.WithLogger(log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	server, err := dnsserver.New(dnsserver.Config{
		ListenHost:  listen,
		Port:        &port,
		NameServers: []string{"ns1.example.com"},
		Records:     []dnsserver.Record{{Name: "ns1.example.com", Type: "A", Value: "127.0.0.1"}},
	}, dnsserver.WithLogger(log), dnsserver.WithStorage(store))
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	log.Info("serving", "addrs", server.Addrs())
	fmt.Fprintf(os.Stderr, "try: dig @%s -p %d now.example.com TXT +short\n", listen, port)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case now := <-ticks.C:
			tx := new(dnsserver.Tx)
			tx.Set(dnsserver.Record{Name: "now.example.com", Type: "TXT", Value: now.Format(time.RFC3339), TTL: 1})
			if err := server.Update(ctx, tx); err != nil {
				log.Error("the record stays as it is", "err", err)
			}
		case <-ctx.Done():
			patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return server.Stop(patience)
		}
	}
}
