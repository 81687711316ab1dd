package soak

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter"
)

// usage is what must not grow with time.
type usage struct {
	at          time.Duration // since the start
	rss         int           // of the process, in KiB
	heap        int           // after a collection, in KiB
	goroutines  int
	descriptors int
}

// meter measures the gateway.
type meter struct {
	w  *world
	mu sync.Mutex
	// all measurements, the oldest first.
	all []usage
}

// measure takes measurements until ctx ends, fifty in the time given.
func (m *meter) measure(ctx context.Context, total time.Duration) {
	ticker := time.NewTicker(total / 50)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			begin := time.Now()
			u, _, err := m.w.usage()
			m.w.count("measurement", begin, err, stopAlways)
			if err == nil {
				m.mu.Lock()
				m.all = append(m.all, u)
				m.mu.Unlock()
			}
		}
	}
}

var rssLine = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// usage measures the gateway now.
func (w *world) usage() (u usage, stats dcrouter.Stats, err error) {
	var answer struct {
		Heap       uint64
		Goroutines int
		Stats      dcrouter.Stats
	}
	if err := w.tell("/usage", nil, &answer); err != nil {
		return u, stats, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.node.Pid))
	if err != nil {
		return u, stats, err
	}
	if found := rssLine.FindSubmatch(status); found != nil {
		u.rss, _ = strconv.Atoi(string(found[1]))
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.node.Pid))
	u.at, u.heap, u.goroutines, u.descriptors = time.Since(w.start), int(answer.Heap>>10), answer.Goroutines, len(files)
	return u, answer.Stats, err
}

// until is the usual usage in a tenth of the measurements: those up to a share of
// all.
func (m *meter) until(share float64) usage {
	end := max(int(share*float64(len(m.all))), 1)
	window := m.all[max(0, end-max(len(m.all)/10, 3)):min(end, len(m.all))]
	median := func(of func(usage) int) int {
		var values []int
		for _, u := range window {
			values = append(values, of(u))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return usage{
		at: window[len(window)-1].at, rss: median(func(u usage) int { return u.rss }), heap: median(func(u usage) int { return u.heap }),
		goroutines: median(func(u usage) int { return u.goroutines }), descriptors: median(func(u usage) int { return u.descriptors }),
	}
}

// report is the usage over time, and what has grown from the first quarter, which
// warms up, to the end: by a quarter and something for what the load does at random.
// A burst leaves 200 idle connections to a back end for a minute and a half. What is
// remembered up to a bound may not have come to it: changes of a zone (4 MiB of
// them), sessions that have ended (for ten minutes), what became of mail (100,000).
func (m *meter) report() (text string, grown []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.all) == 0 {
		return "", []string{"nothing has been measured"}
	}
	var w strings.Builder
	fmt.Fprintf(&w, "%-10s %10s %10s %10s %12s\n", "at", "RSS MiB", "heap MiB", "goroutines", "descriptors")
	for _, share := range []float64{0.05, 0.25, 0.5, 0.75, 1} {
		u := m.until(share)
		fmt.Fprintf(&w, "%-10v %10.1f %10.1f %10d %12d\n", u.at.Round(time.Second), float64(u.rss)/1024, float64(u.heap)/1024, u.goroutines, u.descriptors)
	}
	first, last := m.until(0.25), m.until(1)
	for _, x := range []struct {
		name               string
		first, last, slack int
	}{
		{"RSS in KiB", first.rss, last.rss, 32 << 10}, {"heap in KiB", first.heap, last.heap, 12 << 10},
		{"goroutines", first.goroutines, last.goroutines, 100}, {"descriptors", first.descriptors, last.descriptors, 250},
	} {
		if x.last > x.first+x.first/4+x.slack {
			grown = append(grown, fmt.Sprintf("%s: from %d to %d", x.name, x.first, x.last))
		}
	}
	return w.String(), grown
}
