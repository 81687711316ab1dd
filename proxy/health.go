package proxy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

func (h HealthCheck) withDefaults() HealthCheck {
	h.Interval = defaultTo(h.Interval, 10*time.Second)
	h.Timeout = defaultTo(h.Timeout, 2*time.Second)
	h.HealthyAfter = defaultTo(h.HealthyAfter, 2)
	h.UnhealthyAfter = defaultTo(h.UnhealthyAfter, 3)
	return h
}

// health is what one health check says of one target. Routes with equal checks
// of a target share it.
type health struct {
	target *target
	check  HealthCheck
	name   string // to ask for, where that is up to clients, if it cannot be had without
	bad    atomic.Bool
	stop   context.CancelFunc // nil: not watching
}

type healthKey struct {
	target targetKey
	check  HealthCheck
	name   string
}

// watch probes the target until ctx ends.
func (h *health) watch(ctx context.Context, log *slog.Logger) {
	t, check := h.target, h.check
	// Not the target's pool: a probe must open a connection of its own, or it
	// would say that a server which accepts no more connections is well.
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return t.connect(ctx, network, addr, t.ownHeader())
		},
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			if name == t.key.host {
				name = t.ownName()
			}
			return t.dialTLS(ctx, addr, name, t.ownHeader(), check.Timeout)
		},
	}
	if t.h2 != nil {
		transport = newHTTP2Transport(t, nil)
	}
	transport.DisableKeepAlives = true
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var good, bad int
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := h.probe(ctx, client)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			good, bad = 0, bad+1
			t.noteError(err)
			if bad >= check.UnhealthyAfter && !h.bad.Swap(true) {
				log.Warn("target is unhealthy", "target", t.name, "err", err)
			}
		default:
			good, bad = good+1, 0
			if !h.bad.Load() {
				t.reached()
			} else if good >= check.HealthyAfter {
				t.reached()
				h.bad.Store(false)
				t.returned()
				log.Info("target is healthy again", "target", t.name)
			}
		}
		// Up to a tenth earlier, so that probes of many targets spread out.
		timer.Reset(check.Interval - time.Duration(rand.Int64N(int64(check.Interval)/10+1)))
	}
}

// probe asks the target. One that knows nobody without a name is asked again with
// that of the route: at once, the certificate would have to be for that, and may be
// for another of the route's names.
func (h *health) probe(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithTimeout(ctx, h.check.Timeout)
	defer cancel()
	err := h.ask(ctx, client, "")
	if err != nil && h.name != "" && asTLSError(err) != nil {
		err = h.ask(ctx, client, h.name)
	}
	return err
}

// ask asks the target once, by a name unless that is "".
func (h *health) ask(ctx context.Context, client *http.Client, name string) error {
	t, check := h.target, h.check
	port := t.key.port
	if check.Port != 0 {
		port = check.Port
	}
	if check.Path == "" {
		var conn net.Conn
		var err error
		addr := net.JoinHostPort("", strconv.Itoa(port))
		switch {
		case t.key.udp: // a datagram would tell nothing
			conn, err = t.dial(ctx, "tcp", addr)
		case t.tls == nil:
			conn, err = t.connect(ctx, "tcp", addr, t.ownHeader())
		default:
			conn, err = t.dialTLS(ctx, addr, cmp.Or(name, t.ownName()), t.ownHeader(), check.Timeout)
		}
		if err != nil {
			return err
		}
		return conn.Close()
	}
	scheme, host := "http", t.key.host
	if t.tls != nil {
		scheme, host = "https", t.serverName(name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, strconv.Itoa(port))+check.Path, nil)
	if err != nil {
		return err
	}
	if name != "" {
		req.Host = name // without the port, as clients have it
	}
	req.Header.Set("User-Agent", "dcrouter-health-check")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 4096)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("health check answered %s", resp.Status)
	}
	return nil
}

func defaultTo[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
