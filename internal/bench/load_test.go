package main

import (
	"testing"
	"time"
)

func TestParseWrk(t *testing.T) {
	const out = `Running 1s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.02ms    1.35ms  20.36ms   86.11%
  Latency Distribution
     50%  834.00us
     75%    2.50ms
     90%    3.38ms
     99%    1.02s
  31204 requests in 1.10s, 7.92MB read
`
	want := result{requests: 31204, took: 1100 * time.Millisecond, p50: 834 * time.Microsecond, p99: 1020 * time.Millisecond}
	if got, err := parseWrk(out); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	want.requests, want.failed = 31204-5, 2+3+4+1+5
	if got, err := parseWrk(out + "  Socket errors: connect 2, read 3, write 4, timeout 1\n  Non-2xx or 3xx responses: 5\nRequests/sec:  28367.27\n"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseWrk("unable to connect to 127.0.0.1:1 Connection refused\n"); err == nil {
		t.Errorf("%+v without an error", got)
	}
}

func TestParseH2load(t *testing.T) {
	const out = `finished in 1.01s, 29648.00 req/s, 3.50MB/s
requests: 29648 total, 29776 started, 29648 done, 29640 succeeded, 8 failed, 3 errored, 0 timeout
status codes: 29630 2xx, 0 3xx, 7 4xx, 3 5xx
traffic: 3.50MB (3671234) total
`
	want := result{requests: 29630, failed: 18, took: 1010 * time.Millisecond}
	if got, err := parseH2load(out); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseH2load("[ERROR] connect failed\n"); err == nil {
		t.Errorf("%+v without an error", got)
	}
}

func TestPercentile(t *testing.T) {
	var list []int
	for i := range 200 {
		list = append(list, 199-i)
	}
	for p, want := range map[int]int{0: 0, 50: 100, 99: 198, 100: 199} {
		if got := percentile(list, p); got != want {
			t.Errorf("percentile %d is %d, want %d", p, got, want)
		}
	}
	if got := percentile([]int{}, 50); got != 0 {
		t.Errorf("percentile of nothing is %d", got)
	}
}
