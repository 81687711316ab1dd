package email

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A route that says so has its mail go before that of others, also before what came
// earlier.
func TestPriorityOfRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cfg := oneEachSecond()
		cfg.Routes = append(cfg.Routes, Route{Name: "alerts", Priority: 1, Match: Match{ClientIP: []string{"10.0.0.0/8"}, Recipients: []string{"alert*"}},
			Action: Action{Type: Process, Process: &ProcessAction{Queue: PriorityQueue}}})
		st := onStage(t, cfg, s)
		for i := range 20 {
			st.post("<user@a.example>", toB, fmt.Sprintf("<bulk%d@b.example>", i))
			time.Sleep(time.Second) // so that it is due before what comes later
		}
		for i := range 5 {
			st.post("<user@a.example>", toB, fmt.Sprintf("<alert%d@b.example>", i))
		}
		if err := st.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		got := s.got()
		alerts := 0
		for _, rcpt := range got[:min(len(got), 8)] {
			if strings.HasPrefix(rcpt, "alert") {
				alerts++
			}
		}
		if len(got) != 25 || alerts != 5 {
			t.Errorf("%d of the 5 with priority are among the first 8 of %q", alerts, got)
		}
	})
}

// Limits of the server for an hour and for a day hold together, and what exceeds
// them goes on the days after.
func TestOutboundLimitsOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := relay("a.example")
		cfg.RateLimits.Outbound = OutboundLimits{MessagesPerHour: 10, MessagesPerDay: 25}
		n, a, inbox := limited(t, cfg)
		for i := range 60 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		began := time.Now()
		for _, step := range []struct {
			after time.Duration
			want  int
		}{{50 * time.Minute, 10}, {23 * time.Hour, 25}, {47 * time.Hour, 50}, {4 * 24 * time.Hour, 60}} {
			time.Sleep(step.after - time.Since(began))
			if got := len(inbox.all()); got != step.want {
				t.Errorf("after %v %d messages, want %d", step.after, got, step.want)
			}
		}
	})
}

// Keys change after as many days as the defaults say, and stay in a domain that says
// so. So do selector and size of keys come from the defaults, field by field.
func TestRotationInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := &published{hosts: hosts{}}
		cfg := relay("a.example")
		cfg.Defaults.DKIM = DKIM{Selector: "mail", KeySize: 1024, RotateKeys: new(true), RotationInterval: 30}
		cfg.Domains = append(cfg.Domains, Domain{Domain: "stays.example", DKIM: DKIM{Selector: "post", RotateKeys: new(false)}})
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		dns.add(a)
		signing := func() (names []string) {
			for _, d := range a.Domains() {
				for _, k := range d.Keys {
					if k.State == "active" {
						names = append(names, d.Domain+" "+k.Selector)
					}
				}
			}
			return names
		}
		first := []string{"a.example mail", "a.example mail-ed25519", "stays.example post", "stays.example post-ed25519"}
		for _, after := range []time.Duration{3 * time.Hour, 29 * 24 * time.Hour} {
			time.Sleep(after)
			if got := signing(); !slices.Equal(got, first) {
				t.Fatalf("after %v: %q", after, got)
			}
		}
		for name, record := range selectors(a) { // RSA, in base64 with its frame: 216 letters of 1024 bits, 392 of 2048
			if strings.Contains(record, "k=rsa") && (len(record) < 200 || len(record) > 300) {
				t.Errorf("%s has the record %s", name, record)
			}
		}
		time.Sleep(3 * 24 * time.Hour)
		got := signing()
		if len(got) != 4 || !strings.HasPrefix(got[0], "a.example mail-20") || !slices.Equal(got[2:], first[2:]) {
			t.Errorf("after 32 days: %q", got)
		}
	})
}

// The lists that have names of their own are asked at their zones, each for the
// address with its parts in reverse.
func TestBlockListsByName(t *testing.T) {
	for name, zone := range map[string]string{"spamhaus": "zen.spamhaus.org", "barracuda": "b.barracudacentral.org", "surbl": "multi.surbl.org"} {
		dns := resolver(t, "7.113.0.203."+zone+". A 127.0.0.2")
		checker, err := NewReputationChecker(IPReputation{Providers: []string{"spamhaus", "barracuda", "surbl"}, Threshold: 0.2}, WithResolver(dns))
		if err != nil {
			t.Fatal(err)
		}
		for addr, want := range map[string]bool{"203.0.113.7": true, "203.0.113.8": false} {
			got, err := checker.Check(t.Context(), netip.MustParseAddr(addr))
			if err != nil || got.Blocked != want || want && (len(got.Listings) != 1 || !strings.Contains(got.Reason, name)) {
				t.Errorf("%s, listed by %s: %+v, %v", addr, name, got, err)
			}
		}
	}
}

// asking counts questions by name.
type asking struct {
	hosts
	mu sync.Mutex
	n  map[string]int
}

func (a *asking) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a.mu.Lock()
	a.n["MX "+strings.TrimSuffix(name, ".")]++
	a.mu.Unlock()
	return a.hosts.LookupMX(ctx, name)
}

func (a *asking) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	if strings.HasSuffix(name, ".list.test.") || strings.HasSuffix(name, ".list.test") {
		a.mu.Lock()
		a.n["list"]++
		a.mu.Unlock()
		return []net.IPAddr{{IP: net.IPv4(127, 0, 0, 2)}}, nil
	}
	return a.hosts.LookupIPAddr(ctx, name)
}

func (a *asking) asked() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.n)
}

// What is remembered of DNS is remembered as long as the configuration says.
func TestCacheTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := &asking{hosts: hosts{"c.example": "192.0.2.2"}, n: map[string]int{}}
		cfg := relay("a.example")
		cfg.Outbound.MXCacheTimeout = 20 * time.Minute
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		// Not one of its own domains, which servers look up by themselves.
		other := relay("b.example")
		other.Routes[0].Match.Recipients = []string{"*@c.example"}
		inbox := newMailbox(nil)
		b := inBubble(t, n, other, WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		checker, err := NewReputationChecker(IPReputation{Providers: []string{"list.test"}, Threshold: 1, CacheTimeout: 20 * time.Minute}, WithResolver(dns))
		if err != nil {
			t.Fatal(err)
		}
		for step, want := range []int{1, 1, 2, 2} { // after 0, 15, 30 and 45 minutes
			n.inject(t, a, "10.0.0.1", "user@a.example", "user@c.example", toB)
			if got, err := checker.Check(t.Context(), netip.MustParseAddr("203.0.113.7")); err != nil || !got.Blocked {
				t.Fatal(got, err)
			}
			time.Sleep(time.Second)
			if got := dns.asked(); got["MX c.example"] != want || got["list"] != want || len(inbox.all()) != step+1 {
				t.Errorf("step %d: asked %v, want %d of each; %d messages arrived", step, got, want, len(inbox.all()))
			}
			time.Sleep(15*time.Minute - time.Second)
		}
	})
}

// A message that nobody takes is tried again after the first delay of the
// configuration, then less often, as many times as it says, and no more.
func TestRetriesOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(_ int, command string) string {
			if strings.HasPrefix(command, "RCPT") {
				return "450 4.2.1 later"
			}
			return ""
		}}
		cfg := relay("a.example")
		cfg.Queue = Queue{MaxRetries: new(3), RetryDelay: 10 * time.Minute}
		st := onStage(t, cfg, s)
		id := st.post("<user@a.example>", toB, "<bob@b.example>")
		for _, step := range []struct {
			until time.Duration
			tries int
		}{{time.Minute, 1}, {7 * time.Minute, 1}, {13 * time.Minute, 2}, {24 * time.Hour, 4}} {
			time.Sleep(step.until - time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
			if got := len(s.commands("RCPT")); got != step.tries {
				t.Errorf("after %v: tried %d times, want %d", step.until, got, step.tries)
			}
		}
		if got := st.status(id); got.Status != StatusBounced || len(st.inbox.all()) != 1 {
			t.Errorf("in the end: %+v, %d messages to the sender", got, len(st.inbox.all()))
		}
	})
}

// As many deliveries run at once as the configuration says.
func TestConcurrencyOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		cfg := relay("a.example")
		cfg.Queue = Queue{Concurrency: 3, Paused: true}
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		var running, most, all atomic.Int32
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(func(context.Context, *Delivery) error {
			all.Add(1)
			now := running.Add(1)
			for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
			}
			time.Sleep(time.Second)
			running.Add(-1)
			return nil
		}))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		for i := range 60 {
			n.inject(t, a, "10.0.0.1", "user@a.example", fmt.Sprintf("u%d@b.example", i), toB)
		}
		if err := a.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if all.Load() != 60 || most.Load() != 3 {
			t.Errorf("%d of 60 messages arrived, up to %d at once, want 3", all.Load(), most.Load())
		}
	})
}

// The scanners of the reference, on a server: mail that looks like spam gets the
// header fields that the list names (here not those of the default), a virus is refused and kept, and attachments
// are refused by their extension and size.
func TestScannersAsListed(t *testing.T) {
	var scanners []Scanner
	if err := json.Unmarshal([]byte(`[
		{"type": "spam", "threshold": 5.0, "action": "tag", "headers": ["X-Spam-Score", "X-Spam-Level"]},
		{"type": "virus", "action": "reject", "quarantine": true},
		{"type": "attachment", "blockedExtensions": [".exe", ".bat", ".scr"], "maxSize": 100000}]`), &scanners); err != nil {
		t.Fatal(err)
	}
	m := newMailbox(nil)
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	s := start(t, Config{DataPath: t.TempDir(), Scanners: scanners, SmartHost: &SmartHost{Host: "127.0.0.1", Port: int(portOf(next.Addrs()[0]))},
		Routes: routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process","process":{"scan":true}}}]`)})
	with := func(name, content string) string {
		mixed := strings.Replace(hi, "\r\n\r\n", "\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n", 1)
		return strings.Replace(mixed, "Hello.", "--b\r\n\r\ntext\r\n--b\r\nContent-Disposition: attachment; filename="+name+"\r\n\r\n"+content+"\r\n--b--", 1)
	}
	for _, test := range []struct {
		what, content, want string
		has, hasNot         []string
	}{
		{"good", hi, "250", []string{"X-Spam-Score: ", "X-Spam-Level: "}, []string{"X-Spam-Status", "X-Spam-Flag"}},
		{"spam", strings.Replace(hi, "Hello.", "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X", 1), "250", []string{"X-Spam-Score: ", "X-Spam-Level: *****"}, []string{"X-Spam-Status", "X-Spam-Flag"}},
		{"virus", strings.Replace(hi, "Hello.", `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*`, 1), "554 5.7.1", nil, nil},
		{"program", with("Setup.EXE", "x"), "554 5.7.1", nil, nil},
		{"large", with("a.pdf", strings.Repeat("0123456789\r\n", 10_000)), "554 5.7.1", nil, nil},
		{"small", with("a.pdf", strings.Repeat("0123456789\r\n", 5_000)), "250", []string{"filename=a.pdf"}, nil},
	} {
		before := len(m.all())
		if got := s.dial().hello().send("a@example.net", "b@example.com", test.content); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %s", test.what, got, test.want)
		}
		if test.want != "250" {
			continue
		}
		waitFor(t, func() bool { return len(m.all()) == before+1 })
		content := m.all()[before].content
		for _, want := range test.has {
			if !strings.Contains(content, want) {
				t.Errorf("%s: no %q in\n%.1000s", test.what, want, content)
			}
		}
		for _, bad := range test.hasNot {
			if strings.Contains(content, bad) {
				t.Errorf("%s: %q in\n%.1000s", test.what, bad, content)
			}
		}
	}
	if spool := s.Stats().Spool; spool.Quarantined != 1 {
		t.Errorf("%+v, want the virus to be kept", spool)
	}
}

// A route that says so has its mail go without our signature.
func TestUnsignedByARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := &published{hosts: hosts{"b.example": "192.0.2.2"}}
		cfg := relay("a.example")
		cfg.Domains[0].DKIM.KeySize = 1024
		cfg.Routes = append(cfg.Routes, Route{Name: "raw", Priority: 1, Match: Match{ClientIP: []string{"10.0.0.0/8"}, Recipients: []string{"raw@*"}},
			Action: Action{Type: Process, Process: &ProcessAction{DKIM: new(false)}}})
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		dns.add(a)
		inbox := newMailbox(nil)
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		time.Sleep(3 * time.Hour) // until keys are in use
		for _, test := range []struct {
			to         string
			signatures int
		}{{"raw@b.example", 0}, {"user@b.example", 2}} {
			n.inject(t, a, "10.0.0.1", "user@a.example", test.to, toB)
			time.Sleep(time.Minute)
			all := inbox.all()
			if got := strings.Count(all[len(all)-1].content, "DKIM-Signature:"); got != test.signatures || all[len(all)-1].Recipient != test.to {
				t.Errorf("to %s: %d signatures, want %d", test.to, got, test.signatures)
			}
		}
	})
}
