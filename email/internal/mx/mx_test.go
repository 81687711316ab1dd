package mx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
)

// show writes a destination on one line; hosts of equal preference are sorted.
func show(d Destination) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s:", d.Domain, d.Site)
	if d.Implicit {
		b.WriteString(" implicit")
	}
	for _, h := range d.Hosts {
		fmt.Fprintf(&b, " %d %s", h.Preference, h.Name)
		for _, a := range h.Addrs {
			b.WriteString(" " + a.String())
		}
	}
	return b.String()
}

func TestLookup(t *testing.T) {
	many := []string{}
	for i := range 30 {
		many = append(many, fmt.Sprintf("MX %d m%02d.many.example", 30-i, i))
	}
	zone := dnstest.Zone{
		"plain.example":         {"MX 20 b.hosts.example", "MX 10 A.hosts.example."},
		"same.example":          {"MX 5 a.hosts.example"},
		"implicit.example":      {"A 192.0.2.7", "AAAA 2001:db8::7"},
		"alias.example":         {"CNAME plain.example"},
		"null.example":          {"MX 0 .", "A 192.0.2.1"},
		"nullmore.example":      {"MX 0 .", "MX 10 a.hosts.example"},
		"gone.example":          {"MX 10 nowhere.example"},
		"partly.example":        {"MX 10 nowhere.example", "MX 20 b.hosts.example"},
		"text.example":          {"TXT no mail here"},
		"down.example":          {"SERVFAIL"},
		"downhost.example":      {"MX 10 down.example"},
		"mixed.example":         {"MX 10 nowhere.example", "MX 20 down.example"},
		"downbest.example":      {"MX 10 down.example", "MX 20 b.hosts.example"},
		"backup.example":        {"MX 10 a.hosts.example", "MX 20 us.example", "MX 20 b.hosts.example", "MX 30 c.hosts.example"},
		"backup2.example":       {"MX 10 a.hosts.example", "MX 20 otherus.example", "MX 20 b.hosts.example"},
		"backup3.example":       {"MX 10 down.example", "MX 20 otherus.example"},
		"loop.example":          {"MX 10 us.example", "MX 20 b.hosts.example"},
		"loop2.example":         {"MX 10 otherus.example"},
		"number.example":        {"MX 10 192.0.2.1"},
		"silly.example":         {"MX 10 silly4.example"},
		"silly4.example":        {"A 0.0.0.0", "A 224.0.0.1", "AAAA ::", "AAAA ff02::1"},
		"mapped.example":        {"AAAA ::ffff:192.0.2.9"},
		"hostalias.example":     {"MX 10 cname.hosts.example"},
		"a.hosts.example":       {"A 192.0.2.1", "A 192.0.2.2", "A 192.0.2.3", "AAAA 2001:db8::1", "AAAA 2001:db8::2"},
		"b.hosts.example":       {"A 192.0.2.20"},
		"c.hosts.example":       {"A 192.0.2.30"},
		"cname.hosts.example":   {"CNAME b.hosts.example"},
		"us.example":            {"A 192.0.2.99"},
		"otherus.example":       {"A 192.0.2.98"},
		"xn--bcher-kva.example": {"MX 10 b.hosts.example"},
		"many.example":          many,
		"wide.example":          {},
	}
	for i := range 30 {
		zone[fmt.Sprintf("m%02d.many.example", i)] = []string{"A 192.0.2.50"}
		zone["wide.example"] = append(zone["wide.example"], fmt.Sprintf("A 198.51.100.%d", i+1))
	}
	r := New(dnstest.New(t, zone).Client(), Options{
		Names: []string{"US.example."},
		Own:   func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.98") },
	})
	const a = "a.hosts.example 2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 192.0.2.3"
	for domain, want := range map[string]string{
		"plain.example":     "plain.example at a.hosts.example,b.hosts.example: 10 " + a + " 20 b.hosts.example 192.0.2.20",
		"PLAIN.Example.":    "plain.example at a.hosts.example,b.hosts.example: 10 " + a + " 20 b.hosts.example 192.0.2.20",
		"same.example":      "same.example at a.hosts.example: 5 " + a,
		"implicit.example":  "implicit.example at implicit.example: implicit 0 implicit.example 2001:db8::7 192.0.2.7",
		"alias.example":     "alias.example at a.hosts.example,b.hosts.example: 10 " + a + " 20 b.hosts.example 192.0.2.20",
		"hostalias.example": "hostalias.example at cname.hosts.example: 10 cname.hosts.example 192.0.2.20",
		"bücher.example":    "xn--bcher-kva.example at b.hosts.example: 10 b.hosts.example 192.0.2.20",
		"null.example":      "5.1.10 for good",
		"nullmore.example":  "nullmore.example at a.hosts.example: 10 " + a,
		"gone.example":      "5.4.4 for good",
		"partly.example":    "partly.example at b.hosts.example,nowhere.example: 20 b.hosts.example 192.0.2.20",
		"text.example":      "5.1.2 for good",
		"absent.example":    "5.1.2 for good",
		"down.example":      "4.4.3",
		"downhost.example":  "4.4.3",
		"downbest.example":  "downbest.example at b.hosts.example,down.example: 20 b.hosts.example 192.0.2.20",
		"backup.example":    "backup.example at a.hosts.example: 10 " + a,
		"backup2.example":   "backup2.example at a.hosts.example,b.hosts.example,otherus.example: 10 " + a,
		"backup3.example":   "4.4.3",
		"loop.example":      "5.4.6 for good",
		"mixed.example":     "4.4.3",
		"loop2.example":     "5.4.6 for good",
		"number.example":    "5.4.4 for good",
		"silly.example":     "5.4.4 for good",
		"mapped.example":    "mapped.example at mapped.example: implicit 0 mapped.example 192.0.2.9",

		"[192.0.2.5]":             "[192.0.2.5] at [192.0.2.5]: 0 192.0.2.5 192.0.2.5",
		"[IPv6:2001:DB8::5]":      "[IPv6:2001:DB8::5] at [2001:db8::5]: 0 2001:db8::5 2001:db8::5",
		"[ipv6:::ffff:192.0.2.5]": "[ipv6:::ffff:192.0.2.5] at [192.0.2.5]: 0 192.0.2.5 192.0.2.5",
		"[192.0.2.98]":            "5.4.6 for good",
		"[2001:db8::5]":           "5.1.2 for good",
		"[IPv6:192.0.2.5]":        "5.1.2 for good",
		"[IPv6:fe80::1%lo]":       "5.1.2 for good",
		"[192.0.2.5":              "5.1.2 for good",
		"[0.0.0.0]":               "5.1.2 for good",
		"[255.255.255.255]":       "5.1.2 for good",
		"[":                       "5.1.2 for good",
		"[]":                      "5.1.2 for good",
		"[x400:c=us]":             "5.1.2 for good",
		"":                        "5.1.2 for good",
		"a b.example":             "5.1.2 for good",
		strings.Repeat("a.", 200): "5.1.2 for good",
	} {
		d, err := r.Lookup(t.Context(), domain)
		got := show(d)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || d.Hosts != nil || !strings.HasPrefix(err.Error(), e.Enhanced+" ") {
				t.Fatalf("%s: %v", domain, err)
			}
			if got = e.Enhanced; e.Permanent {
				got += " for good"
			}
		}
		if got != want {
			t.Errorf("%.100q: %s, %v\nwant %s", domain, got, err, want)
		}
	}

	d, err := r.Lookup(t.Context(), "many.example")
	if err != nil || len(d.Hosts) != maxHosts || d.Hosts[0].Name != "m29.many.example" || len(d.Site) > maxSiteName {
		t.Errorf("%s, %v", show(d), err)
	}
	d, err = r.Lookup(t.Context(), "wide.example")
	if err != nil || len(d.Hosts[0].Addrs) != maxAddrs {
		t.Errorf("%s, %v", show(d), err)
	}
}

// Addresses that mail may not go to are left out, and hosts that have no others.
func TestUsable(t *testing.T) {
	zone := dnstest.Zone{
		"some.example":    {"MX 10 inner.example", "MX 20 both.example"},
		"none.example":    {"MX 10 inner.example", "MX 20 gone.example"},
		"down.example":    {"MX 10 inner.example", "MX 20 broken.example"},
		"inner.example":   {"A 10.0.0.5"},
		"both.example":    {"A 10.0.0.6", "A 192.0.2.6"},
		"broken.example":  {"SERVFAIL"},
		"backup.example":  {"MX 10 inner.example", "MX 20 us.example"},
		"us.example":      {"A 192.0.2.98"},
		"outside.example": {"A 192.0.2.9"},
	}
	r := New(dnstest.New(t, zone).Client(), Options{Names: []string{"us.example"}, Usable: func(a netip.Addr) bool { return !a.IsPrivate() }})
	for domain, want := range map[string]string{
		"some.example":           "some.example at both.example,inner.example: 20 both.example 192.0.2.6",
		"outside.example":        "outside.example at outside.example: implicit 0 outside.example 192.0.2.9",
		"none.example":           "5.4.4",
		"inner.example":          "5.4.4",
		"backup.example":         "5.4.4",
		"down.example":           "4.4.3",
		"[10.0.0.5]":             "5.1.2",
		"[IPv6:fd00::5]":         "5.1.2",
		"[IPv6:::ffff:10.0.0.5]": "5.1.2",
	} {
		for range 2 {
			d, err := r.Lookup(t.Context(), domain)
			got := show(d)
			var e *Error
			if errors.As(err, &e) {
				got = e.Enhanced
			}
			if got != want {
				t.Errorf("%s: %s, %v\nwant %s", domain, got, err, want)
			}
			if domain[0] == '[' {
				_, err, ok := r.Cached(domain)
				if !ok || err == nil {
					t.Errorf("%s is known to be usable", domain)
				}
			}
		}
	}
}

// With Go's own resolver it is the same, also where that finds names malformed.
func TestGoResolver(t *testing.T) {
	r := New(dnstest.New(t, dnstest.Zone{
		"a.example":      {"MX 10 192.0.2.1", "MX 20 mail.a.example"},
		"number.example": {"MX 10 192.0.2.1"},
		"null.example":   {"MX 0 ."},
		"mail.a.example": {"A 192.0.2.4", "AAAA 2001:db8::4"},
	}).Resolver(), Options{})
	for domain, want := range map[string]string{
		"a.example":      "a.example at 192.0.2.1,mail.a.example: 20 mail.a.example 2001:db8::4 192.0.2.4",
		"mail.a.example": "mail.a.example at mail.a.example: implicit 0 mail.a.example 2001:db8::4 192.0.2.4",
		"null.example":   "5.1.10",
		"absent.example": "5.1.2",
		"number.example": "5.4.4",
	} {
		d, err := r.Lookup(t.Context(), domain)
		got := show(d)
		var e *Error
		if errors.As(err, &e) {
			got = e.Enhanced
		}
		if got != want {
			t.Errorf("%s: %s, %v\nwant %s", domain, got, err, want)
		}
	}
}

func TestEqualPreferencesAreShuffled(t *testing.T) {
	r := New(dnstest.New(t, dnstest.Zone{
		"d.example": {"MX 10 a.example", "MX 10 b.example", "MX 10 c.example", "MX 20 d2.example", "MX 5 first.example"},
		"a.example": {"A 192.0.2.1"}, "b.example": {"A 192.0.2.2"}, "c.example": {"A 192.0.2.3"}, "d2.example": {"A 192.0.2.4"}, "first.example": {"A 192.0.2.5"},
	}).Client(), Options{})
	second := map[string]int{}
	for range 300 {
		d, err := r.Lookup(t.Context(), "d.example")
		if err != nil || len(d.Hosts) != 5 || d.Hosts[0].Name != "first.example" || d.Hosts[4].Name != "d2.example" {
			t.Fatal(show(d), err)
		}
		second[d.Hosts[1].Name]++
		d.Hosts[1].Addrs[0] = netip.Addr{} // the caller's alone
		d.Hosts[2].Name = ""
	}
	for _, name := range []string{"a.example", "b.example", "c.example"} {
		if second[name] < 50 {
			t.Errorf("in 300 lookups: %v", second)
		}
	}
}

// secure is a resolver that validates.
type secure struct {
	dnstest.Client
	bad string // a name that is not signed
}

func (r secure) LookupMXSecure(ctx context.Context, name string) ([]*net.MX, bool, error) {
	list, err := r.LookupMX(ctx, name)
	return list, name != r.bad, err
}

func (r secure) LookupAddrsSecure(ctx context.Context, name string) ([]netip.Addr, bool, error) {
	list, _, err := insecure{r}.LookupAddrsSecure(ctx, name)
	return list, name != r.bad, err
}

func TestSecure(t *testing.T) {
	client := dnstest.New(t, dnstest.Zone{
		"d.example": {"MX 10 a.example", "MX 20 b.example"},
		"a.example": {"A 192.0.2.1"}, "b.example": {"A 192.0.2.2"},
	}).Client()
	for _, test := range []struct {
		bad, domain string
		want        string // of MX, and of the hosts
	}{
		{"", "d.example", "true [true true]"},
		{"", "a.example", "true [true]"}, // the absence of MX records was proved
		{"d.example.", "d.example", "false [true true]"},
		{"b.example.", "d.example", "true [true false]"},
		{"a.example.", "a.example", "false [false]"},
	} {
		d, err := New(secure{client, test.bad}, Options{}).Lookup(t.Context(), test.domain)
		var hosts []bool
		for _, h := range d.Hosts {
			hosts = append(hosts, h.Secure)
		}
		if got := fmt.Sprint(d.Secure, hosts); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v", test, got, err)
		}
	}
	if d, err := New(client, Options{}).Lookup(t.Context(), "d.example"); err != nil || d.Secure || d.Hosts[0].Secure {
		t.Error(d, err)
	}
}

// slow answers when it is let, and counts what it is asked.
type slow struct {
	SecureResolver
	asked atomic.Int32
	err   error
	wait  time.Duration
}

func (s *slow) LookupTXT(context.Context, string) ([]string, error)        { return nil, nil }
func (s *slow) LookupMX(context.Context, string) ([]*net.MX, error)        { return nil, nil }
func (s *slow) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) { return nil, nil }
func (s *slow) LookupAddr(context.Context, string) ([]string, error)       { return nil, nil }

func (s *slow) LookupMXSecure(ctx context.Context, name string) ([]*net.MX, bool, error) {
	s.asked.Add(1)
	select {
	case <-time.After(s.wait):
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	return []*net.MX{{Host: "mail.example.", Pref: 10}}, false, s.err
}

func (s *slow) LookupAddrsSecure(context.Context, string) ([]netip.Addr, bool, error) {
	if s.err != nil {
		return nil, false, s.err
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, false, nil
}

func TestCache(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		keep time.Duration
	}{
		"found":   {nil, keepFound},
		"nothing": {&net.DNSError{IsNotFound: true}, keepNothing},
		"failure": {&net.DNSError{IsTimeout: true}, keepFailure},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slow{err: test.err}
				r := New(s, Options{})
				for step, want := range []int32{1, 1, 1, 2} {
					if _, err := r.Lookup(t.Context(), "d.example"); (err != nil) != (test.err != nil) {
						t.Fatal(err)
					}
					if got := s.asked.Load(); got != want {
						t.Errorf("step %d: asked %d times, not %d", step, got, want)
					}
					time.Sleep(test.keep * 2 / 5) // of the bubble
				}
			})
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := &slow{}
	r := New(s, Options{})
	for i := range 2*keepDomains + 10 {
		if _, err := r.Lookup(t.Context(), fmt.Sprintf("d%d.example", i)); err != nil {
			t.Fatal(err)
		}
		if len(r.known) > keepDomains {
			t.Fatalf("%d domains are remembered", len(r.known))
		}
	}
	if len(r.known) < keepDomains/2 || len(r.flights) != 0 {
		t.Errorf("%d domains are remembered, %d lookups under way", len(r.known), len(r.flights))
	}
}

// All who ask at once wait for one lookup, each no longer than it wants to; and
// when the one who does it gives up, another goes on.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{wait: 10 * time.Second}
		r := New(s, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var first error
		var group sync.WaitGroup
		group.Go(func() { _, first = r.Lookup(ctx, "d.example") })
		synctest.Wait()
		var failed atomic.Int32
		for i := range 20 {
			group.Go(func() {
				ctx := t.Context()
				if i < 5 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				if _, err := r.Lookup(ctx, "d.example"); err != nil {
					failed.Add(1)
				}
			})
		}
		time.Sleep(5 * time.Second)
		cancel()
		group.Wait()
		var e *Error
		if !errors.As(first, &e) || e.Permanent || !errors.Is(first, context.Canceled) || failed.Load() != 5 || s.asked.Load() != 2 {
			t.Errorf("%v, %d failed, asked %d times", first, failed.Load(), s.asked.Load())
		}
	})
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"a.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "bücher.example", "[", "a..b"} {
		f.Add(s)
	}
	r := New(&slow{}, Options{})
	f.Fuzz(func(t *testing.T, domain string) {
		d, err := r.Lookup(t.Context(), domain)
		var e *Error
		switch {
		case err == nil && (len(d.Hosts) == 0 || len(d.Hosts[0].Addrs) == 0 || d.Site == ""):
			t.Errorf("%q: %+v", domain, d)
		case err != nil && (!errors.As(err, &e) || strings.ContainsAny(err.Error(), "\r\n\x00")):
			t.Errorf("%q: %q", domain, err)
		}
	})
}
