package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/storage"
)

// dnsFlags are what a DNS server can have beside its configuration.
type dnsFlags struct {
	config    string
	cert, key string // of DNS over TLS and HTTPS
	store     string // folder
}

// runDNS is run for a DNS server.
func runDNS(ctx context.Context, f dnsFlags, control string) error {
	data, err := os.ReadFile(f.config)
	if err != nil {
		return err
	}
	var cfg dnsserver.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	options := []dnsserver.Option{dnsserver.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}})}
	if f.store != "" {
		store, err := storage.Open(ctx, storage.Dir(f.store))
		if err != nil {
			return err
		}
		defer store.Close()
		options = append(options, dnsserver.WithStorage(store))
	}
	s, err := dnsserver.New(cfg, options...)
	if err != nil {
		return err
	}
	if err := serveControl(control, "/update", func(w http.ResponseWriter, req *http.Request) error {
		return update(w, req, s, cfg.Zones[0].Name)
	}); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s.Stop(end) // whoever is still connected does not matter here
	return nil
}

// update changes as many records as the request says, one in each update, and
// says how long each took.
func update(w http.ResponseWriter, req *http.Request, s *dnsserver.Server, zone string) error {
	count, err := strconv.Atoi(req.FormValue("count"))
	if err != nil {
		return err
	}
	for i := range count {
		tx := new(dnsserver.Tx)
		tx.Set(dnsserver.Record{Name: fmt.Sprintf("u%d.%s", i, zone), Type: "A", Value: fmt.Sprintf("192.0.2.%d", i%256)})
		begin := time.Now()
		if err := s.Update(req.Context(), tx); err != nil {
			return err
		}
		fmt.Fprintln(w, time.Since(begin))
	}
	return nil
}
