package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// manyHosts is a script for wrk: requests for names spread over a table of
// that many routes.
const manyHosts = `
local requests = {}
for i = 0, 999 do
	requests[i] = string.format("GET / HTTP/1.1\r\nHost: r%%d.bench.example\r\n\r\n", math.floor(i * %d / 1000))
end
local n = 0
request = function()
	n = n + 1
	return requests[n %% 1000]
end
`

// tables are ours with so many routes.
func tables(gateway string, counts ...int) (list []peer) {
	for _, n := range counts {
		p := ours(gateway)
		p.routes = n
		p.name = thousands(n) + " routes"
		list = append(list, p)
	}
	return list
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// apply makes our server have n routes beside its first one. Each revision
// differs in some of them. It returns how long UpdateRoutes took, and the CPU
// time of its thread.
func (s *server) apply(n, revision int) (took, cpu time.Duration, err error) {
	answer, err := s.ask(fmt.Sprintf("apply?routes=%d&revision=%d", n, revision))
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(string(answer))
	if len(f) != 2 {
		return 0, 0, fmt.Errorf("our server says %q about an update", answer)
	}
	took, err = time.ParseDuration(f[0])
	cpu, err2 := time.ParseDuration(f[1])
	return took, cpu, errors.Join(err, err2)
}

// lookups is a load of requests over the whole table.
func (b *bench) lookups(s *server, d time.Duration) (result, error) {
	script := filepath.Join(s.dir, "hosts.lua")
	if err := os.WriteFile(script, fmt.Appendf(nil, manyHosts, s.routes), 0o644); err != nil {
		return result{}, err
	}
	return wrk(s.url(), 64, d, "-s", script)
}

// applyColumns are the figures of applying.
func applyColumns() []column {
	return []column{
		{name: "median ms", format: "%.1f"},
		{name: "CPU ms/update", format: "%.1f"},
		{name: "longest ms", format: "%.1f"},
		{name: "failed requests", format: "%.0f"},
		{name: "requests/s", format: "%.0f"},
		{name: "p99 ms", format: "%.2f"},
	}
}

// applying replaces all routes again and again while requests are made.
func (b *bench) applying(s *server, d time.Duration) ([]float64, error) {
	var r result
	done := make(chan error, 1)
	go func() (err error) {
		defer func() { done <- err }()
		r, err = b.lookups(s, d)
		return err
	}()
	var times, cpus []time.Duration
	for revision := 1; ; revision++ {
		select {
		case err := <-done:
			if err == nil && len(times) == 0 {
				err = fmt.Errorf("no update in %v", d)
			}
			if err != nil {
				return nil, err
			}
			return []float64{
				micros(percentile(times, 50)) / 1000, micros(percentile(cpus, 50)) / 1000, micros(percentile(times, 100)) / 1000,
				float64(r.failed), float64(r.requests) / r.took.Seconds(), micros(r.p99) / 1000,
			}, nil
		case <-time.After(100 * time.Millisecond):
		}
		took, cpu, err := s.apply(s.routes, revision)
		if err != nil {
			<-done
			return nil, err
		}
		times, cpus = append(times, took), append(cpus, cpu)
	}
}
