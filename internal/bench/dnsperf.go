package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// dnsResult is what dnsperf says about its load.
type dnsResult struct {
	sent, lost int
	codes      map[string]int
	took       time.Duration
}

// dnsperf runs the load generator of that name, with 20 sockets or connections
// and so many questions under way on all of them together.
func dnsperf(s *server, pending int, queries string, args ...string) (dnsResult, error) {
	program, err := find("dnsperf")
	if err != nil {
		return dnsResult{}, err
	}
	mode := map[front]string{dnsUDP: "udp", dnsTCP: "tcp", dnsTLS: "dot"}[s.front]
	args = append([]string{"-m", mode, "-s", "127.0.0.1", "-p", strconv.Itoa(s.port), "-d", queries, "-T", "1", "-c", "20", "-q", strconv.Itoa(pending), "-t", "2"}, args...)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return dnsResult{}, fmt.Errorf("dnsperf: %w: %s", err, out)
	}
	return parseDNSPerf(string(out))
}

// parseDNSPerf reads what dnsperf prints.
func parseDNSPerf(out string) (r dnsResult, err error) {
	field := func(name string) string {
		if m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(name) + `:?\s+(.*)$`).FindStringSubmatch(out); m != nil {
			return m[1]
		}
		return ""
	}
	unknown := func() (dnsResult, error) { return r, fmt.Errorf("dnsperf printed something unknown: %s", out) }
	first := func(s string) string { return regexp.MustCompile(`^[\d.]+`).FindString(s) }
	if r.sent, err = strconv.Atoi(first(field("Queries sent"))); err != nil {
		return unknown()
	}
	completed, err := strconv.Atoi(first(field("Queries completed")))
	if err != nil {
		return unknown()
	}
	r.lost = r.sent - completed
	seconds, err := strconv.ParseFloat(first(field("Run time (s)")), 64)
	if err != nil {
		return unknown()
	}
	r.took = time.Duration(seconds * float64(time.Second))
	r.codes = make(map[string]int)
	counted := 0
	for _, m := range regexp.MustCompile(`(\w+) (\d+) \(`).FindAllStringSubmatch(field("Response codes"), -1) {
		n, _ := strconv.Atoi(m[2])
		r.codes[m[1]] += n
		counted += n
	}
	if counted != completed {
		return unknown()
	}
	return r, nil
}

// check finds out whether the answers can be right: none but that there is
// something or that there is not, the latter for a share of them.
func (r *dnsResult) check(absent float64) error {
	there, not := r.codes["NOERROR"], r.codes["NXDOMAIN"]
	if there+not == 0 || len(r.codes) > 2 || len(r.codes) == 2 && (there == 0 || not == 0) {
		return fmt.Errorf("response codes %v", r.codes)
	}
	if share := float64(not) / float64(there+not); share < absent-0.02 || share > absent+0.02 {
		return fmt.Errorf("response codes %v: want %.0f%% NXDOMAIN", r.codes, 100*absent)
	}
	return nil
}
