package dcrouter_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// How many watch in BenchmarkWatched.
const (
	dashboards       = 50
	scrapesPerSecond = 20
)

// BenchmarkWatched has wrk load the proxy, by turns with and without dashboards
// that follow the counters and a Prometheus that scrapes far too often. It
// reports what throughput is left, and what CPU the watching alone takes, that of
// its clients in this process included. For figures worth something, run it
// with -benchtime 25x, which is 1,000 scrapes, and nothing else:
//
//	go test -run '^$' -bench Watched -benchtime 25x .
func BenchmarkWatched(b *testing.B) {
	wrk := testenv.Need(b, "wrk", "apt install wrk")
	port := testenv.FreePort(b)
	target := backend(b, "hello")
	var routes []proxy.Route
	for i := range 50 {
		routes = append(routes, proxy.Route{Name: fmt.Sprint("route ", i), Match: proxy.Match{Ports: proxy.Ports(port), Domains: []string{fmt.Sprintf("%d.example.com", i)}},
			Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{target}}})
	}
	routes[0].Match.Domains = nil
	ops := opsSection()
	r := start(b, dcrouter.WithOps(ops), dcrouter.WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: routes}))
	base := "http://" + r.Addrs()["ops"][0]
	token := signIn(b, r).token

	requests := regexp.MustCompile(`(?m)^Requests/sec:\s+([0-9.]+)`)
	load := func() float64 {
		b.Helper()
		out, err := testenv.Command(b, wrk, "-t1", "-c32", "-d2s", fmt.Sprintf("http://127.0.0.1:%d/", port)).CombinedOutput()
		found := requests.FindSubmatch(out)
		if err != nil || found == nil {
			b.Fatalf("wrk: %v\n%s", err, out)
		}
		rate, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		return rate
	}
	var events, scrapes atomic.Int64
	watch := func() (stop func()) {
		ctx, cancel := context.WithCancel(b.Context())
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: dashboards + 1}}
		read := func(path string) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
			if err != nil {
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Accept-Encoding", "gzip") // which is not undone here
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			switch {
			case resp.StatusCode != http.StatusOK:
				b.Errorf("%s: %d", path, resp.StatusCode)
			case err == nil:
				scrapes.Add(1)
			case n > 1000:
				events.Add(1)
			}
		}
		var wait sync.WaitGroup
		for range dashboards {
			wait.Go(func() { read("/api/v1/events?topics=stats,health,security") })
		}
		wait.Go(func() {
			tick := time.NewTicker(time.Second / scrapesPerSecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					read("/metrics")
				case <-ctx.Done():
					return
				}
			}
		})
		return func() { cancel(); wait.Wait(); client.CloseIdleConnections() }
	}

	var plain, watched float64
	load() // warm
	for b.Loop() {
		plain += load()
		stop := watch()
		watched += load()
		stop()
	}
	before, began := cpuTime(b), time.Now()
	stop := watch()
	testenv.WaitFor(b, time.Minute, func() error {
		if time.Since(began) < 3*time.Second {
			return fmt.Errorf("still measuring")
		}
		return nil
	})
	stop()
	b.ReportMetric(100*watched/plain, "%left")
	b.ReportMetric(plain/float64(b.N), "req/s")
	b.ReportMetric(100*float64(cpuTime(b)-before)/float64(time.Since(began)), "%cpu-alone")
	b.ReportMetric(float64(scrapes.Load()), "scrapes")
	b.ReportMetric(0, "ns/op")
	if events.Load() < dashboards {
		b.Errorf("only %d dashboards got anything", events.Load())
	}
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
