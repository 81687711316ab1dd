package lookup_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dnstest"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// counting counts the questions that get to it.
type counting struct {
	lookup.Resolver
	n int
}

func (r *counting) LookupTXT(ctx context.Context, name string) ([]string, error) {
	r.n++
	return r.Resolver.LookupTXT(ctx, name)
}
func (r *counting) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	r.n++
	return r.Resolver.LookupMX(ctx, name)
}
func (r *counting) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	r.n++
	return r.Resolver.LookupIPAddr(ctx, name)
}
func (r *counting) LookupAddr(ctx context.Context, name string) ([]string, error) {
	r.n++
	return r.Resolver.LookupAddr(ctx, name)
}

func TestCache(t *testing.T) {
	r := &counting{Resolver: dnstest.New(t, dnstest.Zone{
		"a.example":              {"TXT one", "TXT two", "MX 10 mail.example", "A 192.0.2.1", "AAAA 2001:db8::1"},
		"1.2.0.192.in-addr.arpa": {"PTR a.example"},
		"down.example":           {"SERVFAIL"},
	}).Resolver()}
	now := time.Unix(1000, 0)
	c := lookup.NewCache(r, func() time.Time { return now })
	all := func() string {
		var b strings.Builder
		txt, err := c.LookupTXT(t.Context(), "a.example.")
		fmt.Fprintln(&b, txt, err)
		mx, err := c.LookupMX(t.Context(), "a.example.")
		fmt.Fprintln(&b, len(mx), mx[0].Host, err)
		ips, err := c.LookupIPAddr(t.Context(), "a.example.")
		fmt.Fprintln(&b, len(ips), err)
		names, err := c.LookupAddr(t.Context(), "192.0.2.1")
		fmt.Fprintln(&b, names, err)
		txt, err = c.LookupTXT(t.Context(), "absent.example.")
		fmt.Fprintln(&b, txt, lookup.NotFound(err))
		for _, list := range [][]string{txt, names} {
			clear(list) // is the caller's alone
		}
		clear(ips)
		return b.String()
	}
	first := all()
	if !strings.Contains(first, "one") || !strings.Contains(first, "mail.example") || !strings.HasSuffix(first, "[] true\n") || r.n != 5 {
		t.Fatalf("after %d questions:\n%s", r.n, first)
	}
	for _, step := range []struct {
		after time.Duration
		asked int
	}{{0, 0}, {4 * time.Second, 0}, {5 * time.Second, 0}, {9 * time.Second, 0}, {11 * time.Second, 5}, {15 * time.Second, 0}, {60 * time.Second, 5}, {0, 5}} {
		now = time.Unix(1000, 0).Add(step.after)
		r.n = 0
		if got := all(); got != first || r.n != step.asked {
			t.Errorf("after %v %d questions, want %d:\n%s", step.after, r.n, step.asked, got)
		}
	}

	r.n = 0
	for range 2 {
		if _, err := c.LookupTXT(t.Context(), "down.example."); err == nil || lookup.NotFound(err) {
			t.Error(err)
		}
	}
	if r.n != 2 {
		t.Error("a failure was remembered")
	}
}

// Strangers' names do not fill the memory.
func TestCacheIsBounded(t *testing.T) {
	r := &counting{Resolver: absent{}}
	now := time.Unix(1000, 0)
	c := lookup.NewCache(r, func() time.Time { return now })
	const names = 100_000
	for range 2 {
		for i := range names {
			c.LookupTXT(t.Context(), fmt.Sprintf("%d.example.", i))
		}
	}
	if saved := 2*names - r.n; saved < 5_000 || saved > 20_000 {
		t.Errorf("%d names were remembered", saved)
	}
}

// absent is a resolver for which no name exists.
type absent struct{ lookup.Resolver }

func (absent) LookupTXT(context.Context, string) ([]string, error) {
	return nil, &net.DNSError{IsNotFound: true}
}

// What is remembered can be had without asking anybody.
func TestKnown(t *testing.T) {
	r := &counting{Resolver: dnstest.New(t, dnstest.Zone{"a.example": {"TXT one", "A 192.0.2.1"}}).Resolver()}
	c := lookup.NewCache(r, time.Now)
	ask := func(r lookup.Resolver) string {
		txt, err := r.LookupTXT(t.Context(), "a.example.")
		_, absent := r.LookupMX(t.Context(), "a.example.")
		return fmt.Sprint(txt, err, lookup.NotFound(absent))
	}
	known, missed := c.Known()
	if got := ask(known); !missed() || !strings.Contains(got, "not remembered") || r.n != 0 {
		t.Errorf("nothing is remembered yet, but there is %s after %d questions", got, r.n)
	}
	if got, want := ask(c), "[one] <nil> true"; got != want || r.n != 2 {
		t.Errorf("%s after %d questions", got, r.n)
	}
	known, missed = c.Known()
	if got, want := ask(known), "[one] <nil> true"; got != want || missed() || r.n != 2 {
		t.Errorf("%s, missed %t, after %d questions", got, missed(), r.n)
	}
	_, err1 := known.LookupIPAddr(t.Context(), "a.example.")
	_, err2 := known.LookupAddr(t.Context(), "192.0.2.1")
	if !missed() || err1 == nil || err2 == nil || lookup.NotFound(err1) || lookup.NotFound(err2) || r.n != 2 {
		t.Errorf("%v, %v, missed %t, after %d questions", err1, err2, missed(), r.n)
	}
}
