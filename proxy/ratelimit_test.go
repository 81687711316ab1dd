package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// limited answers with its name, within a limit.
func limited(name string, limit RateLimit) Route {
	r := handlerRoute(name, Match{Domains: []string{name}})
	r.Action.Security.RateLimit = &limit
	return r
}

// askFrom makes a request from an address, with header lines, on a connection
// of its own, and returns the answer.
func askFrom(t testing.TB, p *Proxy, from, host, lines string) string {
	t.Helper()
	c := dialFrom(t, from, addr(t, p, 0))
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: %s\r\n%s\r\n", host, lines)
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestRateLimit(t *testing.T) {
	const slow = 0.001
	other := testenv.Loopback(t, "127.0.0.2")
	const here = "127.0.0.1"
	type ask struct {
		from, lines string
		want        int
	}
	key := func(k string) string { return "X-Api-Key: " + k + "\r\n" }
	for _, test := range []struct {
		name  string
		limit RateLimit
		asks  []ask
	}{
		{"by client", RateLimit{RequestsPerSecond: slow, Burst: 2}, []ask{
			{here, "", 200}, {here, key("a"), 200}, {here, key("b"), 429}, {here, "", 429}, {other, "", 200}, {other, "", 200}, {other, "", 429}, {here, "", 429}}},
		{"burst by default", RateLimit{RequestsPerSecond: slow, By: ByClient}, []ask{{here, "", 200}, {here, "", 429}, {other, "", 200}}},
		{"by route", RateLimit{RequestsPerSecond: slow, Burst: 3, By: ByRoute}, []ask{
			{here, key("a"), 200}, {other, "", 200}, {here, "", 200}, {other, key("b"), 429}, {here, "", 429}}},
		{"by header", RateLimit{RequestsPerSecond: slow, By: "header:x-api-key"}, []ask{
			{here, key("a"), 200}, {here, key("b"), 200}, {other, key("a"), 429}, {here, key("b"), 429}, {here, key("c"), 200},
			// Without it by client; twice, empty and once is not the same.
			{here, "", 200}, {here, key("d") + key("e"), 429}, {here, key(""), 429}, {other, "", 200}, {here, key("d"), 200}}},
		{"by host", RateLimit{RequestsPerSecond: slow, By: "header:Host"}, []ask{{here, "", 200}, {other, "", 429}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, Config{Routes: []Route{limited("a.test", test.limit), limited("b.test", test.limit)}})
			refused := uint64(0)
			for i, a := range test.asks {
				answer := askFrom(t, p, a.from, "a.test", a.lines)
				if wireStatus(answer) != a.want {
					t.Fatalf("%d: %d, want %d", i, wireStatus(answer), a.want)
				}
				if a.want == 429 {
					refused++
				}
			}
			// Other routes have limits of their own.
			if answer := askFrom(t, p, here, "b.test", ""); wireStatus(answer) != 200 {
				t.Errorf("another route: %q", answer)
			}
			s := p.Stats()
			if s.Refused["rateLimited"] != refused || s.Routes[0].Blocked != refused || s.Routes[0].Requests != uint64(len(test.asks))-refused {
				t.Errorf("of %d refused %+v", refused, s)
			}
		})
	}
}

// Who waits as long as Retry-After says is let in, and no sooner than needed.
func TestRateLimitRetryAfter(t *testing.T) {
	p := start(t, Config{Routes: []Route{limited("a.test", RateLimit{RequestsPerSecond: 0.8})}})
	c := client(t, addr(t, p, 0), nil)
	get(t, c, "http://a.test/")
	began := time.Now()
	resp, err := c.Get("http://a.test/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	wait, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != 429 || wait != 2 {
		t.Fatalf("%s, Retry-After %q, want 2", resp.Status, resp.Header.Get("Retry-After"))
	}
	eventually(t, "the client is let in again", func() bool {
		status, _ := get(t, c, "http://a.test/")
		return status == 200
	})
	if took := time.Since(began); took < 1200*time.Millisecond {
		t.Errorf("let in after %v", took)
	}
}

// A limit lasts as long as its route and its setting.
func TestRateLimitAcrossUpdates(t *testing.T) {
	limit := RateLimit{RequestsPerSecond: 0.001, Burst: 1}
	route := limited("a.test", limit)
	p := start(t, Config{Routes: []Route{route}})
	want := func(what string, want int) {
		t.Helper()
		if got := wireStatus(askFrom(t, p, "127.0.0.1", "a.test", "")); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	want("first", 200)
	want("second", 429)
	moved := route
	moved.Match.Path, moved.Priority = "/*", 7
	update(t, p, handlerRoute("other", Match{Domains: []string{"other.test"}}), moved)
	want("changed otherwise", 429)
	bad := route
	bad.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 1000, Burst: 1000}
	bad.Action.TLS = filesTLS(Terminate) // no such files
	if err := p.UpdateRoutes(t.Context(), []Route{bad}); err == nil {
		t.Fatal("the update should have failed")
	}
	want("after an update that failed", 429)
	more := route
	more.Action.Security.RateLimit = &RateLimit{RequestsPerSecond: 0.001, Burst: 2}
	update(t, p, more)
	want("other limit", 200)
	want("other limit, second", 200)
	want("other limit, third", 429)
	none := route
	none.Action.Security.RateLimit = nil
	update(t, p, none)
	want("no limit", 200)
	want("no limit", 200)
}

// Against a bucket that fills up with time, written down as one would explain
// it.
func TestRateLimiterIsATokenBucket(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		cfg := RateLimit{RequestsPerSecond: 0.01 + 1000*rng.Float64()*rng.Float64(), Burst: 1 + rng.IntN(20)}
		l := newRateLimiter(cfg)
		burst := int64(cfg.Burst)
		if rate := 1e9 / float64(l.interval); rate < cfg.RequestsPerSecond*0.9999 || rate > cfg.RequestsPerSecond*1.0001 {
			t.Fatalf("%v a second became %v", cfg.RequestsPerSecond, rate)
		}
		// What is in a bucket, in nanoseconds; a request takes one interval out.
		buckets := make([]int64, 30)
		for i := range buckets {
			buckets[i] = burst * l.interval
		}
		now, refused := int64(0), 0
		for range 3000 {
			step := int64(rng.ExpFloat64() * float64(l.interval) / float64(2*len(buckets)))
			now += step
			for i := range buckets {
				buckets[i] = min(burst*l.interval, buckets[i]+step)
			}
			who := rng.IntN(len(buckets))
			want := max(0, l.interval-buckets[who])
			if wait := l.takeAt(uint64(who), now); wait != time.Duration(want) {
				t.Fatalf("%+v: wait %v, want %v", cfg, wait, time.Duration(want))
			}
			if want == 0 {
				buckets[who] -= l.interval
			} else {
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("%+v: nothing was refused", cfg)
		}
	}
}

func TestRateLimiterDefaultBurst(t *testing.T) {
	t.Parallel()
	for rate, want := range map[float64]int{0.5: 1, 1: 1, 1.2: 2, 50: 50} {
		l := newRateLimiter(RateLimit{RequestsPerSecond: rate})
		n := 0
		for l.takeAt(1, 0) == 0 {
			n++
		}
		if n != want {
			t.Errorf("%v a second: a burst of %d, want %d", rate, n, want)
		}
	}
}

// A client that has used up its burst stays out, whoever else comes along, and
// all together get no more than the table can account for.
func TestRateLimiterFlood(t *testing.T) {
	t.Parallel()
	const burst = 3
	l := newRateLimiter(RateLimit{RequestsPerSecond: 1, Burst: burst})
	rng := rand.New(rand.NewPCG(3, 4))
	greedy := make([]uint64, 100)
	now := int64(time.Hour)
	for i := range greedy {
		greedy[i] = rng.Uint64()
		for range burst {
			if l.takeAt(greedy[i], now) != 0 {
				t.Fatal("refused within its burst")
			}
		}
	}
	let := 0
	const flood = 1 << 20
	for range flood {
		if l.takeAt(rng.Uint64(), now) == 0 {
			let++
		}
	}
	for i, key := range greedy {
		if l.takeAt(key, now+int64(time.Second)-1) == 0 {
			t.Fatalf("the flood has freed client %d", i)
		}
	}
	size := uintptr(0)
	for i := range l.shards {
		size += unsafe.Sizeof(l.shards[i]) + uintptr(len(l.shards[i].sets))*unsafe.Sizeof(l.shards[i].sets[0])
	}
	t.Logf("%d of %d newcomers let in, %d KiB", let, flood, size>>10)
	if size > 1100<<10 {
		t.Errorf("the table takes %d bytes", size)
	}
	if places := rateShards * maxRateSets * rateWays; let > burst*places {
		t.Errorf("%d let in, more than %d places account for", let, places)
	} else if let < places {
		t.Errorf("only %d let in though there are %d places", let, places)
	}
	// Afterwards it is as before.
	now += int64(burst * time.Second)
	for range 1000 {
		key := rng.Uint64()
		for i := range burst + 1 {
			if ok := l.takeAt(key, now) == 0; ok != (i < burst) {
				t.Fatalf("after the flood: request %d of a newcomer: %v", i, ok)
			}
		}
	}
}

// With as many clients as there are places most of them are known exactly.
func TestRateLimiterManyClients(t *testing.T) {
	t.Parallel()
	l := newRateLimiter(RateLimit{RequestsPerSecond: 0.1, Burst: 2})
	rng := rand.New(rand.NewPCG(5, 6))
	now := int64(0)
	keys := make([]uint64, 20_000)
	for i := range keys {
		keys[i] = rng.Uint64()
	}
	for round := range 3 {
		for i, key := range keys {
			if ok := l.takeAt(key, now) == 0; ok != (round < 2) {
				t.Fatalf("request %d of client %d: %v", round, i, ok)
			}
		}
	}
}

func TestRateLimiterKeys(t *testing.T) {
	t.Parallel()
	l := newRateLimiter(RateLimit{RequestsPerSecond: 1, By: "header:X-Key"})
	from := func(ip string, values ...string) uint64 {
		h := http.Header{}
		if values != nil {
			h["X-Key"] = values
		}
		return l.key(&query{client: netip.MustParseAddr(ip), host: "a.test", header: h})
	}
	four := netip.MustParseAddr("192.0.2.1").As16()
	six := netip.MustParseAddr("2001:db8::").As16()
	for _, test := range []struct {
		name string
		a, b uint64
		same bool
	}{
		{"one address", from("192.0.2.1"), from("192.0.2.1"), true},
		{"two addresses", from("192.0.2.1"), from("192.0.2.2"), false},
		{"one /64", from("2001:db8::1"), from("2001:db8::ffff:0:0:1"), true},
		{"two of them", from("2001:db8::1"), from("2001:db8:0:1::1"), false},
		{"one value", from("192.0.2.1", "a"), from("2001:db8::1", "a"), true},
		{"other case", from("192.0.2.1", "a"), from("192.0.2.1", "A"), false},
		{"two values", from("192.0.2.1", "a", "a"), from("192.0.2.1"), true},
		{"empty value", from("192.0.2.1", ""), from("192.0.2.1"), true},
		{"a value like an address", from("192.0.2.9", string(four[:])), from("192.0.2.1"), false},
		{"a value like an IPv6 address", from("192.0.2.9", string(six[:8])), from("2001:db8::1"), false},
	} {
		if (test.a == test.b) != test.same {
			t.Errorf("%s: the same is %v", test.name, test.a == test.b)
		}
	}
}

// The limit holds if everybody asks at once.
func TestRateLimiterConcurrent(t *testing.T) {
	t.Parallel()
	l := newRateLimiter(RateLimit{RequestsPerSecond: 0.001, Burst: 50})
	var let [40]atomic.Int32
	var running sync.WaitGroup
	for worker := range 8 {
		running.Go(func() {
			for i := range 20_000 {
				who := (i*7 + worker) % len(let)
				if l.takeAt(uint64(who)*rateShards/2, int64(i)) == 0 {
					let[who].Add(1)
				}
			}
		})
	}
	waitAll(t, &running)
	for i := range let {
		if n := let[i].Load(); n != 50 {
			t.Errorf("client %d got %d requests in, want 50", i, n)
		}
	}
}

func TestRateLimiterDoesNotAllocate(t *testing.T) {
	h := http.Header{"X-Key": {"some value"}}
	for _, by := range []string{ByClient, ByRoute, "header:X-Key"} {
		l := newRateLimiter(RateLimit{RequestsPerSecond: 1000, By: by})
		q := &query{client: netip.MustParseAddr("2001:db8::1"), header: h}
		if n := testing.AllocsPerRun(1000, func() { l.take(q) }); n > 0 {
			t.Errorf("by %s: %v allocations", by, n)
		}
	}
}

func BenchmarkRateLimit(b *testing.B) {
	for _, by := range []string{ByClient, ByRoute, "header:X-Key"} {
		for _, clients := range []uint32{1, 10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", by, clients), func(b *testing.B) {
				l := newRateLimiter(RateLimit{RequestsPerSecond: 10, By: by})
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					q := &query{header: http.Header{"X-Key": {""}}}
					values := q.header.(http.Header)["X-Key"]
					var ip [4]byte
					for pb.Next() {
						binary.BigEndian.PutUint32(ip[:], rand.Uint32N(clients))
						q.client = netip.AddrFrom4(ip)
						values[0] = string(ip[:])
						l.take(q)
					}
				})
			})
		}
	}
}
