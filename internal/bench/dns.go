package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// dnsRows are about the DNS server.
func (b *bench) dnsRows() []row {
	withBefore := func(peers ...peer) []peer {
		if b.before != "" {
			before := oursDNS(b.before)
			before.name = "before"
			peers = append(peers, before)
		}
		return peers
	}
	kept := oursDNS(b.gateway, "-store", "store")
	kept.name = "ours, changes kept"
	const load = "dnsperf -T1 -c20 "
	const lost = 2 // a column
	return []row{
		{
			name: "dns-udp", title: "DNS over UDP, 10,000 names, 10 % NXDOMAIN", load: load + "-q100; A, AAAA and MX",
			columns: dnsColumns(),
			targets: []target{{0, "Knot", 1.1}, {0, "NSD", 0.95}, {0, "CoreDNS", 0.35}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), knot(), nsd(), coreDNS()), front: dnsUDP, names: dnsNames, measure: b.dnsMixed(100),
		},
		{
			name: "dns-tcp", title: "DNS over TCP, 20 questions under way on each connection", load: load + "-q400 -m tcp; questions as over UDP",
			columns: dnsColumns(),
			targets: []target{{0, "CoreDNS", 0.4}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), knot(), nsd(), coreDNS()), front: dnsTCP, names: dnsNames, measure: b.dnsMixed(400),
		},
		{
			name: "dns-tcp1", title: "DNS over TCP, one question at a time", load: load + "-q20 -m tcp; questions as over UDP",
			columns: dnsColumns(),
			targets: []target{{0, "CoreDNS", 0.4}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), knot(), nsd(), coreDNS()), front: dnsTCP, names: dnsNames, measure: b.dnsMixed(20),
		},
		{
			name: "dns-dot", title: "DNS over TLS, 20 questions under way on each connection", load: load + "-q400 -m dot; questions as over UDP",
			columns: dnsColumns(),
			targets: []target{{0, "CoreDNS", 0.4}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), nsd(), coreDNS()), front: dnsTLS, names: dnsNames, measure: b.dnsMixed(400),
		},
		{
			name: "dns-doh", title: "DNS over HTTPS, by GET", load: "h2load -t1 -c16 -m8; questions as over UDP",
			columns: dnsColumns(),
			targets: []target{{0, "CoreDNS", 0.4}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), coreDNS()), front: dnsHTTPS, names: dnsNames, measure: b.dnsOverHTTPS,
		},
		{
			name: "dns-flood", title: "DNS over UDP, a flood of random subdomains", load: load + fmt.Sprintf("-q100; %s questions, each for another name that is not there", thousands(b.flood)),
			columns: append(dnsColumns(), column{name: "MiB before", format: "%.1f"}, column{name: "MiB more", format: "%.1f"}),
			targets: []target{{4, "", 1}, {lost, "", 0}},
			peers:   withBefore(oursDNS(b.gateway), knot(), nsd(), coreDNS()), front: dnsUDP, names: dnsNames, measure: b.dnsFlood, fresh: true,
		},
		{
			name: "dns-memory", title: fmt.Sprintf("DNS, a zone of %s records", thousands(b.records)),
			load: fmt.Sprintf("none; memory is what the processes hold %v after they have answered for the first time, what they share counted once; then records of ours change, one in each update", settle),
			columns: []column{
				{name: "MiB", format: "%.0f", ratio: true},
				{name: "load s", format: "%.2f", ratio: true},
				{name: "update ms", format: "%.3f"},
				{name: "longest ms", format: "%.3f"},
			},
			targets: []target{{0, "NSD", 1.5}, {2, "", 1}},
			peers:   withBefore(oursDNS(b.gateway), kept, knot(), nsd()), front: dnsUDP, names: b.records / recordsPerName, measure: b.dnsMemory, fresh: true,
		},
	}
}

// dnsNames is how many names the zone under load has.
const dnsNames = 10_000

// dnsColumns are the figures of rows whose work is questions.
func dnsColumns() []column {
	return []column{
		{name: "CPU µs/query", format: "%.2f", ratio: true},
		{name: "queries/s", format: "%.0f", ratio: true, more: true},
		{name: "lost %", format: "%.2f"},
	}
}

// dnsMixed measures under a mixed load with so many questions under way.
func (b *bench) dnsMixed(pending int) func(*server, time.Duration) ([]float64, error) {
	return func(s *server, d time.Duration) ([]float64, error) {
		return b.dnsLoad(s, func() (dnsResult, error) {
			r, err := dnsperf(s, pending, s.zone.mixed, "-l", strconv.Itoa(max(1, int(d.Seconds()+0.5))))
			if err == nil {
				err = r.check(0.1)
			}
			return r, err
		})
	}
}

// dnsOverHTTPS is that in HTTP/2.
func (b *bench) dnsOverHTTPS(s *server, d time.Duration) ([]float64, error) {
	return b.dnsLoad(s, func() (dnsResult, error) {
		r, err := h2load(s.dir, s.url(), 16, 8, d, "-B", s.url(), "-i", s.zone.paths)
		return dnsResult{sent: r.requests + r.failed, lost: r.failed, took: r.took}, err
	})
}

// dnsLoad measures under a load.
func (b *bench) dnsLoad(s *server, load func() (dnsResult, error)) ([]float64, error) {
	if err := b.checkDNS(s); err != nil {
		return nil, err
	}
	var r dnsResult
	cpu, err := s.cpuOf(func() (err error) {
		r, err = load()
		return err
	})
	if err != nil {
		return nil, err
	}
	if r.lost >= r.sent {
		return nil, fmt.Errorf("%d questions, %d without an answer", r.sent, r.lost)
	}
	if err := b.checkDNS(s); err != nil {
		return nil, err
	}
	n := float64(r.sent - r.lost)
	return []float64{micros(cpu) / n, n / r.took.Seconds(), 100 * float64(r.lost) / float64(r.sent)}, nil
}

// dnsFlood measures what many names that are not there cost, and leave behind.
func (b *bench) dnsFlood(s *server, d time.Duration) ([]float64, error) {
	const pending = 100
	if _, err := b.dnsMixed(pending)(s, min(d, warmUp)); err != nil {
		return nil, err
	}
	before, err := memory(s.proc.pid)
	if err != nil {
		return nil, err
	}
	figures, err := b.dnsLoad(s, func() (dnsResult, error) {
		r, err := dnsperf(s, pending, s.zone.flood, "-n", "1")
		if err == nil {
			err = r.check(1)
		}
		return r, err
	})
	if err != nil {
		return nil, err
	}
	after, err := memory(s.proc.pid)
	return append(figures, mebi(before), mebi(after-before)), err
}

// dnsMemory measures a server that has just been started.
func (b *bench) dnsMemory(s *server, _ time.Duration) ([]float64, error) {
	took := s.loaded.Sub(s.proc.began)
	if err := b.checkDNS(s); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	used, err := memory(s.proc.pid)
	if err != nil {
		return nil, err
	}
	mid, longest := math.NaN(), math.NaN()
	if s.program == b.gateway || s.program == b.before {
		if mid, longest, err = s.updateRecords(200); err != nil {
			return nil, err
		}
	}
	return []float64{mebi(used), took.Seconds(), mid, longest}, nil
}

func mebi(bytes int) float64 { return float64(bytes) / (1 << 20) }

// updateRecords makes our server change records, one after another, and returns
// how many milliseconds that took each time: the median and the longest.
func (s *server) updateRecords(n int) (mid, longest float64, err error) {
	text, err := s.ask(fmt.Sprintf("update?count=%d", n))
	if err != nil {
		return 0, 0, err
	}
	var times []time.Duration
	for _, f := range strings.Fields(string(text)) {
		d, err := time.ParseDuration(f)
		if err != nil {
			return 0, 0, err
		}
		times = append(times, d)
	}
	if len(times) != n {
		return 0, 0, fmt.Errorf("%d updates, want %d", len(times), n)
	}
	return micros(percentile(times, 50)) / 1000, micros(percentile(times, 100)) / 1000, nil
}

// waitForZone waits until a server gives a right answer, as some begin to listen
// before they have read their zones.
func (b *bench) waitForZone(s *server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := b.answersOnce(s)
		s.loaded = time.Now()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", s.name, err)
		case <-s.proc.done:
			return fmt.Errorf("%s has ended: %w", s.name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (b *bench) answersOnce(s *server) error {
	ask, done, err := b.asking(s)
	if err != nil {
		return err
	}
	defer done()
	return checkDNSAnswer(ask, s.zone.names-1, dnsTypes()[0], true)
}
