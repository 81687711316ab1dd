package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/proxy"
)

// gateway runs a Router until SIGTERM.
func gateway(path string, deadline time.Duration, address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	cfg, err := dcrouter.LoadConfig(f)
	f.Close()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := dcrouter.New(dcrouter.WithConfig(cfg), dcrouter.WithLogger(log))
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(err, r.Stop(ctx))
	}
	control := &http.Server{Handler: controls(r)}
	go func() { _ = control.Serve(ln) }()
	<-ctx.Done()
	control.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return r.Stop(ctx)
}

// controls changes the Router, and tells how it is.
func controls(r *dcrouter.Router) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, do func(*http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, req *http.Request) {
			answer, err := do(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	handle("/routes", func(req *http.Request) (any, error) {
		var routes []proxy.Route
		if err := json.NewDecoder(req.Body).Decode(&routes); err != nil {
			return nil, err
		}
		return nil, r.UpdateRoutes(req.Context(), routes)
	})
	handle("/records", func(req *http.Request) (any, error) {
		var records []dnsserver.Record
		if err := json.NewDecoder(req.Body).Decode(&records); err != nil {
			return nil, err
		}
		tx := new(dnsserver.Tx)
		tx.Set(records...)
		return nil, r.DNS().Update(req.Context(), tx)
	})
	handle("/usage", func(*http.Request) (any, error) {
		runtime.GC()
		runtime.GC() // pools are emptied in two steps
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return map[string]any{"heap": m.HeapAlloc, "goroutines": runtime.NumGoroutine(), "stats": r.Stats()}, nil
	})
	handle("/retry", func(req *http.Request) (any, error) { // all mail that waits
		for m, err := range r.Email().Queue(req.Context()) {
			if err == nil {
				_ = r.Email().Retry(req.Context(), m.ID) // it may be under way, or delivered
			}
		}
		return nil, nil
	})
	mux.HandleFunc("GET /heap", func(w http.ResponseWriter, _ *http.Request) { _ = pprof.Lookup("heap").WriteTo(w, 0) })
	return mux
}
