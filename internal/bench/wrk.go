package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// result is what a load generator says about its load.
type result struct {
	requests int // right answers
	failed   int // errors and answers with another status than 200
	took     time.Duration
	p50, p99 time.Duration
}

// wrk runs the load generator of that name.
func wrk(url string, connections int, d time.Duration, args ...string) (result, error) {
	program, err := find("wrk")
	if err != nil {
		return result{}, err
	}
	seconds := max(1, int(d.Seconds()+0.5)) // it takes whole ones
	args = append([]string{"-t", "1", "-c", strconv.Itoa(connections), "-d", fmt.Sprintf("%ds", seconds), "--latency"}, append(args, url)...)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return parseWrk(string(out))
}

// parseWrk reads what wrk prints.
func parseWrk(out string) (r result, err error) {
	summary := regexp.MustCompile(`(?m)^\s*(\d+) requests in (\S+),`).FindStringSubmatch(out)
	p50 := regexp.MustCompile(`(?m)^\s*50%\s+(\S+)`).FindStringSubmatch(out)
	p99 := regexp.MustCompile(`(?m)^\s*99%\s+(\S+)`).FindStringSubmatch(out)
	if summary == nil || p50 == nil || p99 == nil {
		return r, fmt.Errorf("wrk printed something unknown: %s", out)
	}
	r.requests, _ = strconv.Atoi(summary[1])
	var errs [3]error
	r.took, errs[0] = time.ParseDuration(summary[2])
	r.p50, errs[1] = time.ParseDuration(p50[1])
	r.p99, errs[2] = time.ParseDuration(p99[1])
	if err := errors.Join(errs[:]...); err != nil {
		return r, fmt.Errorf("wrk printed something unknown: %w", err)
	}
	if m := regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`).FindStringSubmatch(out); m != nil {
		for _, s := range m[1:] {
			n, _ := strconv.Atoi(s)
			r.failed += n
		}
	}
	if _, rest, ok := strings.Cut(out, "Non-2xx or 3xx responses: "); ok {
		n, _ := strconv.Atoi(strings.Fields(rest)[0])
		r.failed += n
		r.requests -= n
	}
	return r, nil
}
