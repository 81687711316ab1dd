package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dcrouter/dcrouter/email"
)

// runMail is run for a mail server. It asks the resolver about names, and makes
// log lines as in earnest, but writes them nowhere.
func runMail(ctx context.Context, config, resolver, control string) error {
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var cfg email.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return err
	}
	s, err := email.New(cfg,
		email.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		email.WithResolver(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, resolver)
		}}))
	if err != nil {
		return err
	}
	if err := serveControl(control, "/queue", func(w http.ResponseWriter, req *http.Request) error {
		_, err := fmt.Fprintln(w, s.Stats().Spool.Messages)
		return err
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
