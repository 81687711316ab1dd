package dnsbl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

// lists is a DNS server with block lists.
type lists struct {
	mu      sync.Mutex
	records map[string][]string // name: addresses, and texts
	asked   map[string]int
	silent  string // zone that does not answer
}

func startLists(t *testing.T, records map[string][]string) (*lists, *net.Resolver) {
	t.Helper()
	l := &lists{records: records, asked: map[string]int{}}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(l.answer)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.ActivateAndServe()
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
	return l, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, pc.LocalAddr().String())
	}}
}

func (l *lists) answer(w dns.ResponseWriter, query *dns.Msg) {
	q := query.Question[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name), ".")
	l.mu.Lock()
	records := l.records[name]
	if q.Qtype == dns.TypeA {
		l.asked[name]++
	}
	silent := l.silent != "" && strings.HasSuffix(name, l.silent)
	l.mu.Unlock()
	if silent {
		return
	}
	reply := new(dns.Msg).SetReply(query)
	reply.RecursionAvailable = true // or the resolver takes an empty answer for none
	if strings.HasSuffix(name, ".broken.test") {
		reply.Rcode = dns.RcodeServerFailure
	} else if records == nil {
		reply.Rcode = dns.RcodeNameError
	}
	for _, r := range records {
		head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		ip := net.ParseIP(r)
		switch {
		case q.Qtype == dns.TypeA && ip.To4() != nil:
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: ip})
		case q.Qtype == dns.TypeAAAA && ip != nil && ip.To4() == nil:
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: ip})
		case q.Qtype == dns.TypeTXT && ip == nil:
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: head, Txt: []string{r}})
		}
	}
	w.WriteMsg(reply)
}

func (l *lists) total() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.asked {
		n += c
	}
	return n
}

func newChecker(t *testing.T, cfg Config, zones ...string) *Checker {
	t.Helper()
	for _, z := range zones {
		cfg.Providers = append(cfg.Providers, Named(z))
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second // of patience with a busy machine
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func check(t *testing.T, c *Checker, addr string) Result {
	t.Helper()
	r, err := c.Check(t.Context(), netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestQueryNames(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.99": "99.2.0.192.bad.test.",
		// RFC 5782 section 2.4.
		"2001:db8:1:2:3:4:567:89ab": "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bad.test.",
	} {
		if got := queryName(netip.MustParseAddr(addr), "bad.test"); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

func TestScores(t *testing.T) {
	testenv.Goroutines(t)
	_, resolver := startLists(t, map[string][]string{
		"1.2.0.192.a.test": {"127.0.0.2", "127.0.0.4", "listed, \x1b[31msee\x00 " + strings.Repeat("x", 220)},
		"1.2.0.192.b.test": {"127.0.0.10"},
		"2.2.0.192.a.test": {"127.0.0.2"},
		"3.2.0.192.b.test": {"127.0.0.2"},
		"4.2.0.192.a.test": {"127.255.255.254", "error: open resolver"},
		"5.2.0.192.a.test": {"192.0.2.7"},
		"6.2.0.192.a.test": {"127.0.0.1"},
		"7.2.0.192.a.test": {"only a text"},
		"8.2.0.192.a.test": {"::1"},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.a.test": {"127.0.0.2"},
	})
	c := newChecker(t, Config{Resolver: resolver, Threshold: 0.5}, "a.test", "b.test")
	c.cfg.Providers[0].Weight, c.total = 3, 4
	for addr, want := range map[string]string{
		"192.0.2.1":        "1.00 true [a.test b.test] 0",
		"192.0.2.2":        "0.75 true [a.test] 0",
		"192.0.2.3":        "0.25 false [b.test] 0",
		"192.0.2.4":        "0.00 false [] 1", // an error code
		"192.0.2.5":        "0.00 false [] 1", // not of 127/8
		"192.0.2.6":        "0.00 false [] 1",
		"192.0.2.7":        "0.00 false [] 0",
		"192.0.2.8":        "0.00 false [] 0",
		"192.0.2.9":        "0.00 false [] 0",
		"2001:db8::1":      "0.75 true [a.test] 0",
		"::ffff:192.0.2.2": "0.75 true [a.test] 0",
	} {
		r := check(t, c, addr)
		var zones []string
		for _, l := range r.Listings {
			zones = append(zones, l.Zone)
		}
		if got := fmt.Sprintf("%.2f %v %v %d", r.Score, r.Blocked, zones, len(r.Failures)); got != want {
			t.Errorf("%s: %s, not %s (%v)", addr, got, want, r.Failures)
		}
		if r.Blocked != strings.HasPrefix(r.Reason, "listed by a.test") {
			t.Errorf("%s: the reason is %q", addr, r.Reason)
		}
	}
	r := check(t, c, "192.0.2.1")
	if first := r.Listings[0]; !slices.Equal(first.Codes, []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.4")}) ||
		!strings.HasPrefix(first.Text, "listed, ?[31msee? x") || len(first.Text) != maxText {
		t.Errorf("%+v", first)
	}
}

func TestWhoIsNotAskedAbout(t *testing.T) {
	l, resolver := startLists(t, map[string][]string{"1.2.0.192.a.test": {"127.0.0.2"}})
	c := newChecker(t, Config{Resolver: resolver,
		Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("198.51.100.1/32")},
		Block: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("10.0.0.0/8")}}, "a.test")
	for addr, want := range map[string]bool{
		"192.0.2.1": false, "198.51.100.1": false, "198.51.100.2": true, "::ffff:198.51.100.2": true, "2001:db8::1": true, "10.1.1.1": true,
		"127.0.0.1": false, "::1": false, "192.168.1.1": false, "fe80::1%eth0": false, "fd00::1": false, "0.0.0.0": false, "224.0.0.1": false, "169.254.1.1": false,
	} {
		if r := check(t, c, addr); r.Blocked != want || (r.Score == 1) != want || r.Reason == "" {
			t.Errorf("%s: %+v", addr, r)
		}
	}
	if n := l.total(); n != 0 {
		t.Errorf("%d questions", n)
	}
	if _, err := c.Check(t.Context(), netip.Addr{}); err == nil {
		t.Error("no address is one")
	}
	if r := check(t, newChecker(t, Config{}), "192.0.2.1"); r.Blocked {
		t.Error("blocked without a list")
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := New(Config{Providers: []Provider{{Zone: "."}, {Zone: "a.test", Weight: -1}}, Threshold: 2})
	for _, want := range []string{"providers[0]", "providers[1]", "resolver", "threshold"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v says nothing of %s", err, want)
		}
	}
	for name, zone := range map[string]string{"spamhaus": "zen.spamhaus.org", "barracuda": "b.barracudacentral.org", "surbl": "multi.surbl.org", "bl.test": "bl.test"} {
		if p := Named(name); p.Zone != zone || p.Name != name {
			t.Errorf("%s is %+v", name, p)
		}
	}
}

// A list that fails lets in, is not remembered for long, and says why.
func TestListsFail(t *testing.T) {
	t.Parallel()
	l, resolver := startLists(t, map[string][]string{"1.2.0.192.a.test": {"127.0.0.2"}})
	l.mu.Lock()
	l.silent = "silent.test"
	l.mu.Unlock()
	now := testenv.NewClock(time.Now())
	c := newChecker(t, Config{Resolver: resolver, Threshold: 0.3, Timeout: 3 * time.Second, Now: now.Now}, "a.test", "broken.test", "silent.test")
	r := check(t, c, "192.0.2.1")
	if !r.Blocked || len(r.Failures) != 2 || r.Failures["silent.test"] == "" || r.Failures["broken.test"] == "" {
		t.Errorf("%+v", r)
	}
	if r.Expires.Sub(r.Checked) > time.Minute {
		t.Errorf("it is remembered for %v", r.Expires.Sub(r.Checked))
	}
}

func TestCache(t *testing.T) {
	_, resolver := startLists(t, map[string][]string{"1.2.0.192.a.test": {"127.0.0.2"}})
	now := testenv.NewClock(time.Now())
	c := newChecker(t, Config{Resolver: resolver, MaxCache: 3, Now: now.Now}, "a.test")
	steps := []struct {
		addr   string
		pass   time.Duration
		cached bool
	}{
		{"192.0.2.1", 0, false}, {"192.0.2.1", 0, true}, {"192.0.2.2", 0, false}, {"192.0.2.2", 14 * time.Minute, true},
		{"192.0.2.2", 2 * time.Minute, false}, // clean, for 15 minutes
		{"192.0.2.1", 40 * time.Minute, true}, // listed, for an hour
		{"192.0.2.1", 10 * time.Minute, false},
		{"192.0.2.3", 0, false}, {"192.0.2.1", 0, true}, {"192.0.2.4", 0, false}, {"192.0.2.5", 0, false}, // the fourth
		{"192.0.2.1", 0, true}, {"192.0.2.3", 0, false},
		{"192.0.2.1", -2 * time.Hour, false}, // a clock set back
	}
	for i, step := range steps {
		now.Advance(step.pass)
		r := check(t, c, step.addr)
		if r.Cached != step.cached || r.Blocked != (step.addr == "192.0.2.1") {
			t.Errorf("step %d: %+v", i, r)
		}
	}
	if len(c.cache.entries) > 3 || c.cache.order.Len() != len(c.cache.entries) {
		t.Errorf("%d are remembered", len(c.cache.entries))
	}
}

// held is a resolver that answers when it is let, and counts.
type held struct {
	asked   atomic.Int32
	release chan struct{}
}

func (h *held) LookupIPAddr(ctx context.Context, _ string) ([]net.IPAddr, error) {
	h.asked.Add(1)
	select {
	case <-h.release:
		return []net.IPAddr{{IP: net.IPv4(127, 0, 0, 2)}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *held) LookupTXT(context.Context, string) ([]string, error) { return nil, nil }

// All who ask at once about one address share the question; if the one who asks
// goes, another takes over.
func TestQuestionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &held{release: make(chan struct{})}
		c := newChecker(t, Config{Resolver: h}, "a.test")
		addr := netip.MustParseAddr("192.0.2.1")
		impatient, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := c.Check(impatient, addr)
			gone <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if r, err := c.Check(t.Context(), addr); err != nil || !r.Blocked {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		synctest.Wait()
		if n := h.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
		close(h.release)
		wg.Wait()
		if n := h.asked.Load(); n != 2 || len(c.flights) != 0 {
			t.Errorf("asked %d times in the end, %d under way", n, len(c.flights))
		}
	})
}

// A resolver that does not answer costs the timeout, not more, and lets in.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChecker(t, Config{Resolver: &held{}, Timeout: 2 * time.Second}, "a.test", "b.test")
		start := time.Now()
		if r := check(t, c, "192.0.2.1"); r.Blocked || len(r.Failures) != 2 || time.Since(start) != 2*time.Second {
			t.Errorf("%+v after %v", r, time.Since(start))
		}
	})
}

func TestCacheIsKept(t *testing.T) {
	l, resolver := startLists(t, map[string][]string{"1.2.0.192.a.test": {"127.0.0.2", "spam"}, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.a.test": {"127.0.0.2"}})
	store, err := storage.Open(t.Context(), storage.Dir(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	cfg := Config{Resolver: resolver, Store: store, MaxCache: 2}
	c := newChecker(t, cfg, "a.test")
	fresh := check(t, c, "192.0.2.1")
	b, err := store.Get(t.Context(), "security/ip-reputation/192.0.2.1.json")
	if err != nil {
		t.Fatal(err)
	}
	var stored map[string]any
	if err := json.Unmarshal(b, &stored); err != nil || stored["ip"] != "192.0.2.1" || stored["blocked"] != true || stored["score"] != 1.0 {
		t.Errorf("%s, %v", b, err)
	}
	check(t, c, "2001:db8::1")

	asked := l.total()
	again := newChecker(t, cfg, "a.test")
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		if r := check(t, again, addr); !r.Cached || !r.Blocked {
			t.Errorf("after a restart: %+v", r)
		}
	}
	if r := check(t, again, "192.0.2.1"); !r.Checked.Equal(fresh.Checked) || r.Listings[0].Text != "spam" {
		t.Errorf("%+v", r)
	}
	if l.total() != asked {
		t.Error("it was asked again")
	}
	// What has no place in memory leaves storage too.
	check(t, again, "192.0.2.3")
	check(t, again, "192.0.2.4")
	n := 0
	for key, err := range store.List(t.Context(), "security/ip-reputation/") {
		if err != nil {
			t.Fatal(err)
		}
		t.Log(key)
		n++
	}
	if n != 2 {
		t.Errorf("%d are stored", n)
	}
	// Other lists, other scores: what is stored is judged anew.
	other := newChecker(t, cfg, "a.test", "b.test", "c.test")
	for _, damaged := range []string{"{", `{"ip":"192.0.2.3"}`, `{"ip":"192.0.2.9","expires":"` + time.Now().Add(10*time.Minute).Format(time.RFC3339) + `"}`, `{"ip":"192.0.2.3","expires":"2999-01-01T00:00:00Z"}`} {
		if err := store.Put(t.Context(), "security/ip-reputation/192.0.2.3.json", []byte(damaged)); err != nil {
			t.Fatal(err)
		}
		if r := check(t, other, "192.0.2.3"); r.Cached {
			t.Errorf("%s is taken for an answer", damaged)
		}
		other = newChecker(t, cfg, "a.test", "b.test", "c.test")
	}
}

func TestStoreFails(t *testing.T) {
	_, resolver := startLists(t, map[string][]string{"1.2.0.192.a.test": {"127.0.0.2"}})
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	var log bytes.Buffer
	c := newChecker(t, Config{Resolver: resolver, Store: store, Log: slog.New(slog.NewTextHandler(&log, nil))}, "a.test")
	if r := check(t, c, "192.0.2.1"); !r.Blocked {
		t.Errorf("%+v", r)
	}
	if s := log.String(); !strings.Contains(s, "could not be read") || !strings.Contains(s, "could not be stored") {
		t.Errorf("the log is %q", s)
	}
}
