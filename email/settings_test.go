package email

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A route that says so has its mail go before that of others, also before what came
// earlier.
func TestPriorityOfRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(_ int, command string) string {
			if command == "." {
				time.Sleep(time.Second)
			}
			return ""
		}}
		cfg := relay("a.example")
		cfg.Queue.Paused = true
		cfg.Queue.ConcurrencyPerSite = 1
		cfg.Routes = append(cfg.Routes, Route{Name: "alerts", Priority: 1, Match: Match{ClientIP: []string{"10.0.0.0/8"}, Recipients: []string{"alert*"}},
			Action: Action{Type: Process, Process: &ProcessAction{Queue: PriorityQueue}}})
		st := onStage(t, cfg, s)
		for i := range 20 {
			st.post("<user@a.example>", toB, fmt.Sprintf("<bulk%d@b.example>", i))
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
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"b.example": "192.0.2.2"}
		cfg := relay("a.example")
		cfg.RateLimits.Outbound = OutboundLimits{MessagesPerHour: 10, MessagesPerDay: 25}
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		inbox := newMailbox(nil)
		b := inBubble(t, n, relay("b.example"), WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
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

// Keys change after as many days as the domain says, and stay where it says so.
func TestRotationInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := &published{hosts: hosts{}}
		cfg := relay("a.example")
		cfg.Domains[0].DKIM = DKIM{Selector: "mail", KeySize: 1024, RotateKeys: new(true), RotationInterval: 30}
		cfg.Domains = append(cfg.Domains, Domain{Domain: "stays.example", DKIM: DKIM{Selector: "mail", KeySize: 1024, RotationInterval: 30}})
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
		first := []string{"a.example mail", "a.example mail-ed25519", "stays.example mail", "stays.example mail-ed25519"}
		for _, after := range []time.Duration{3 * time.Hour, 29 * 24 * time.Hour} {
			time.Sleep(after)
			if got := signing(); !slices.Equal(got, first) {
				t.Fatalf("after %v: %q", after, got)
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
