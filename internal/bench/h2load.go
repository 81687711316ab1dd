package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// h2load runs the load generator of that name. It keeps its log, from which
// the percentiles come, in dir.
func h2load(dir, url string, connections, streams int, d time.Duration, args ...string) (result, error) {
	program, err := find("h2load")
	if err != nil {
		return result{}, err
	}
	seconds := max(1, int(d.Seconds()+0.5)) // it takes whole ones
	log := filepath.Join(dir, "h2load.log")
	defer os.Remove(log)
	args = append([]string{"-t", "1", "-c", strconv.Itoa(connections), "-m", strconv.Itoa(streams),
		"-D", strconv.Itoa(seconds), "--log-file", log}, append(args, url)...)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("h2load: %w: %s", err, out)
	}
	r, err := parseH2load(string(out))
	if err != nil {
		return r, err
	}
	data, err := os.ReadFile(log)
	if err != nil {
		return r, err
	}
	var times []time.Duration
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line) // start, status, microseconds
		if len(f) != 3 {
			return r, fmt.Errorf("h2load logged something unknown: %q", line)
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			return r, fmt.Errorf("h2load logged something unknown: %q", line)
		}
		times = append(times, time.Duration(n)*time.Microsecond)
	}
	r.p50, r.p99 = percentile(times, 50), percentile(times, 99)
	return r, nil
}

// parseH2load reads what h2load prints.
func parseH2load(out string) (r result, err error) {
	finished := regexp.MustCompile(`(?m)^finished in (\S+),`).FindStringSubmatch(out)
	requests := regexp.MustCompile(`(?m)^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`).FindStringSubmatch(out)
	codes := regexp.MustCompile(`(?m)^status codes: (\d+) 2xx`).FindStringSubmatch(out)
	if finished == nil || requests == nil || codes == nil {
		return r, fmt.Errorf("h2load printed something unknown: %s", out)
	}
	if r.took, err = time.ParseDuration(finished[1]); err != nil {
		return r, fmt.Errorf("h2load printed something unknown: %w", err)
	}
	r.requests, _ = strconv.Atoi(codes[1])
	succeeded, _ := strconv.Atoi(requests[1])
	failed, _ := strconv.Atoi(requests[2]) // errored and timed out ones are among them
	r.failed = failed + max(0, succeeded-r.requests)
	return r, nil
}

// percentile sorts the list.
func percentile[T cmp.Ordered](list []T, p int) T {
	if len(list) == 0 {
		var none T
		return none
	}
	slices.Sort(list)
	return list[min(len(list)-1, len(list)*p/100)]
}
