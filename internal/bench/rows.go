package main

import (
	"fmt"
	"net/http"
	"time"
)

// A row is one kind of work, and how servers are compared at it.
type row struct {
	name    string // for -rows
	title   string // for readers
	load    string // what made the load
	columns []column
	targets []target
	peers   []peer // the first one is what the others are compared with
	front   front
	backend int // port
	// measure puts load on a server for about d and says what it took, one
	// figure a column. It fails if any answer was wrong.
	measure func(s *server, d time.Duration) ([]float64, error)
}

// A column is one kind of figure.
type column struct {
	name   string
	format string // of fmt, for a float64
	ratio  bool   // say how the first peer compares
}

// A target is what we want of a column: that our figure is at most limit times
// the peer's.
type target struct {
	column int
	peer   string
	limit  float64
}

func (b *bench) rows() []row {
	web := []peer{ours(b.gateway), haproxy(), nginx(), caddy()}
	return []row{
		{
			name: "http1", title: "HTTP/1.1, keep-alive, 100 bytes", load: "wrk -t1 -c64",
			columns: requestColumns("request"),
			targets: []target{{0, "HAProxy", 1.15}, {0, "nginx", 1}, {0, "Caddy", 0.2}, {3, "Caddy", 1}},
			peers:   web, front: plainHTTP, backend: b.backend.plain,
			measure: b.requests(func(url string, d time.Duration) (result, error) { return wrk(url, 64, d) }),
		},
	}
}

// requestColumns are the figures of rows whose work comes in small units.
func requestColumns(unit string) []column {
	return []column{
		{"CPU µs/" + unit, "%.1f", true},
		{unit + "s/s", "%.0f", false},
		{"p50 ms", "%.2f", false},
		{"p99 ms", "%.2f", true},
	}
}

// requests measures a load that gives those figures.
func (b *bench) requests(load func(url string, d time.Duration) (result, error)) func(*server, time.Duration) ([]float64, error) {
	return func(s *server, d time.Duration) ([]float64, error) {
		client := b.client()
		defer client.CloseIdleConnections()
		if err := checkAnswer(client, s.url()); err != nil {
			return nil, err
		}
		var r result
		cpu, err := s.cpuOf(func() (err error) {
			r, err = load(s.url(), d)
			return err
		})
		if err != nil {
			return nil, err
		}
		if r.failed > 0 || r.requests == 0 {
			return nil, fmt.Errorf("%d requests failed, %d did not", r.failed, r.requests)
		}
		if err := checkAnswer(client, s.url()); err != nil {
			return nil, err
		}
		n := float64(r.requests)
		return []float64{micros(cpu) / n, n / r.took.Seconds(), micros(r.p50) / 1000, micros(r.p99) / 1000}, nil
	}
}

// client is one that trusts the benchmark's certificate.
func (b *bench) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: b.cert.trust()}}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
