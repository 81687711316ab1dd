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
	backend int  // port
	names   int  // in the zone of DNS
	fresh   bool // every measurement wants a new server
	// unprofiled is set where ours has no control port to get a profile from.
	unprofiled bool
	// measure puts load on a server for about d and says what it took, one
	// figure a column. It fails if any answer was wrong.
	measure func(s *server, d time.Duration) ([]float64, error)
}

// A column is one kind of figure.
type column struct {
	name   string
	format string // of fmt, for a float64
	ratio  bool   // say how the first peer compares
	more   bool   // more is better
}

// A target is what we want of a column: that our figure is at most limit times
// the peer's, or at least where more is better; without a peer, limit itself.
type target struct {
	column int
	peer   string
	limit  float64
}

func (b *bench) rows() []row {
	web := []peer{ours(b.gateway), haproxy(), nginx(), caddy()}
	streams := []peer{ours(b.gateway), haproxy()}
	if b.before != "" {
		before := ours(b.before)
		before.name = "before"
		web, streams = append(web, before), append(streams, before)
	}
	splicing := haproxy("option splice-request", "option splice-response")
	splicing.name = "HAProxy splicing"
	keepAlive := b.requests(1, func(s *server, d time.Duration) (result, error) { return wrk(s.url(), 64, d) })
	handshakes := func(resume bool) func(*server, time.Duration) ([]float64, error) {
		return b.requests(1, func(s *server, d time.Duration) (result, error) {
			return b.handshakes(loopback(s.port), 8, resume, d)
		})
	}
	return append([]row{
		{
			name: "http1", title: "HTTP/1.1, keep-alive, 100 bytes", load: "wrk -t1 -c64",
			columns: requestColumns("request"),
			targets: []target{{0, "HAProxy", 1.15}, {0, "nginx", 1}, {0, "Caddy", 0.2}, {3, "Caddy", 1}},
			peers:   web, front: plainHTTP, backend: b.backend.plain, measure: keepAlive,
		},
		{
			name: "https", title: "HTTP/1.1 over TLS, keep-alive, 100 bytes", load: "wrk -t1 -c64, https",
			columns: requestColumns("request"),
			targets: []target{{0, "HAProxy", 1.3}},
			peers:   web, front: tlsHTTP, backend: b.backend.plain, measure: keepAlive,
		},
		{
			name: "full", title: "TLS handshakes, full, with one request", load: "8 clients in Go; TLS 1.3, X25519, ECDSA P-256",
			columns: requestColumns("handshake"),
			targets: []target{{0, "nginx", 1.3}},
			peers:   web, front: tlsHTTP, backend: b.backend.plain, measure: handshakes(false),
		},
		{
			name: "resumed", title: "TLS handshakes, resumed, with one request", load: "8 clients in Go; TLS 1.3, X25519, by ticket",
			columns: requestColumns("handshake"),
			targets: []target{{0, "nginx", 1.3}},
			peers:   web, front: tlsHTTP, backend: b.backend.plain, measure: handshakes(true),
		},
		{
			name: "http2", title: "HTTP/2 over TLS, 100 bytes", load: "h2load -t1 -c16 -m8",
			columns: requestColumns("request"),
			targets: []target{{0, "Caddy", 0.5}},
			peers:   web, front: tlsHTTP, backend: b.backend.plain,
			measure: b.requests(2, func(s *server, d time.Duration) (result, error) { return h2load(s.dir, s.url(), 16, 8, d) }),
		},
		{
			name: "tcp", title: "TCP forward, small exchanges", load: "wrk -t1 -c64 through it to the back end",
			columns: requestColumns("exchange"),
			targets: []target{{0, "HAProxy", 1.3}},
			peers:   streams, front: tcp, backend: b.backend.plain, measure: keepAlive,
		},
		{
			name: "sni", title: "TLS passed through by server name, small exchanges", load: "wrk -t1 -c64, https, through it to the back end",
			columns: requestColumns("exchange"),
			targets: []target{{0, "HAProxy", 1.3}},
			peers:   streams, front: tcpByName, backend: b.backend.tls, measure: keepAlive,
		},
		{
			name: "bulk", title: "TCP forward, one large transfer", load: fmt.Sprintf("%.4g GB on one connection, from back end to client", float64(b.source.size)/1e9),
			columns: bulkColumns(),
			targets: []target{{1, "HAProxy", 1}, {1, "HAProxy splicing", 1}},
			peers:   append(streams, splicing), front: tcp, backend: b.source.port(), measure: b.bulk,
		},
		{
			name: "idle", title: "TCP forward, idle connections", load: "connections opened one after another, one HTTP exchange on each, then held",
			columns: idleColumns(),
			targets: []target{{0, "HAProxy", 2}, {1, "", 2}, {2, "", 0}},
			peers:   streams, front: tcp, backend: b.backend.plain, measure: b.idle, fresh: true,
		},
		{
			name: "routes", title: "Route table: requests", load: "wrk -t1 -c64 for 1,000 names spread over the table",
			columns: requestColumns("request"),
			targets: []target{{0, "10 routes", 1.5}},
			peers:   tables(b.gateway, 100_000, 1_000, 10), front: plainHTTP, backend: b.backend.plain,
			measure: b.requests(1, b.lookups),
		},
		{
			name: "apply", title: "Route table: 10,000 routes replaced under load", load: "the same, while a tenth of the routes change ten times a second",
			columns: applyColumns(),
			targets: []target{{0, "", 50}, {1, "", 50}, {3, "", 0}},
			peers:   tables(b.gateway, 10_000), front: plainHTTP, backend: b.backend.plain, measure: b.applying,
		},
		b.radius(), b.memory(),
	}, append(b.dnsRows(), b.mailRows()...)...)
}

// requestColumns are the figures of rows whose work comes in small units.
func requestColumns(unit string) []column {
	return []column{
		{name: "CPU µs/" + unit, format: "%.1f", ratio: true},
		{name: unit + "s/s", format: "%.0f", more: true},
		{name: "p50 ms", format: "%.2f"},
		{name: "p99 ms", format: "%.2f", ratio: true},
	}
}

// requests measures a load that gives those figures, in HTTP/1 or 2.
func (b *bench) requests(version int, load func(*server, time.Duration) (result, error)) func(*server, time.Duration) ([]float64, error) {
	return func(s *server, d time.Duration) ([]float64, error) {
		client := b.client(version)
		defer client.CloseIdleConnections()
		if err := checkAnswer(client, s.url(), version); err != nil {
			return nil, err
		}
		var r result
		cpu, err := s.cpuOf(func() (err error) {
			r, err = load(s, d)
			return err
		})
		if err != nil {
			return nil, err
		}
		if r.failed > 0 || r.requests == 0 {
			return nil, fmt.Errorf("%d requests failed, %d did not", r.failed, r.requests)
		}
		if err := checkAnswer(client, s.url(), version); err != nil {
			return nil, err
		}
		n := float64(r.requests)
		return []float64{micros(cpu) / n, n / r.took.Seconds(), micros(r.p50) / 1000, micros(r.p99) / 1000}, nil
	}
}

// client is one for HTTP/1 or 2 that trusts the benchmark's certificate.
func (b *bench) client(version int) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(version == 1)
	protocols.SetHTTP2(version == 2)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: b.cert.trust(), Protocols: protocols}}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
