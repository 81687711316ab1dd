package dnsbl

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/together"
)

// Result is what is known about an address.
type Result struct {
	Addr netip.Addr `json:"ip"`
	// Blocked says that Score has reached the threshold, or that the address is
	// on the configured block list.
	Blocked bool `json:"blocked"`
	// Score is the share of the lists that know the address, by their weight:
	// 0 is none, 1 all.
	Score float64 `json:"score"`
	// Reason says in one line why the address is blocked, or why it was not
	// asked about; else it is empty.
	Reason string `json:"reason,omitempty"`
	// Listings has the lists that know the address.
	Listings []Listing `json:"listings,omitempty"`
	// Failures has the lists that did not answer, by name, and why.
	Failures map[string]string `json:"failures,omitempty"`
	// Checked is when the lists were asked.
	Checked time.Time `json:"checked"`
	// Expires is until when the answer counts.
	Expires time.Time `json:"expires"`
	// Cached says that it was known before the call.
	Cached bool `json:"-"`
}

// Listing is one list's word on an address.
type Listing struct {
	Provider string `json:"provider"`
	Zone     string `json:"zone"`
	// Codes are the addresses that it answered with; the list says what they
	// mean.
	Codes []netip.Addr `json:"codes"`
	// Text is its reason, in printable ASCII.
	Text string `json:"text,omitempty"`
}

// Checker asks block lists. Make one with [New]. It is safe for concurrent use
// and has nothing to close.
type Checker struct {
	cfg   Config
	total float64 // weight of all providers

	mu      sync.Mutex
	cache   cache
	flights map[netip.Addr]*flight
}

// flight is a question under way, for all who ask it.
type flight struct {
	done   chan struct{}
	result Result
	err    error
}

// New makes a Checker. It does no I/O, and reports all problems of cfg at once.
func New(cfg Config) (*Checker, error) {
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	c := &Checker{cfg: cfg, cache: newCache(cfg.MaxCache), flights: map[netip.Addr]*flight{}}
	for _, p := range cfg.Providers {
		c.total += p.Weight
	}
	return c, nil
}

// Check tells what is known about addr, and asks the lists if nothing is.
// Addresses that are no host's on the Internet are not asked about. The error is
// ctx's, or that addr is none; lists that fail are in [Result.Failures].
func (c *Checker) Check(ctx context.Context, addr netip.Addr) (Result, error) {
	if !addr.IsValid() {
		return Result{}, fmt.Errorf("dnsbl: no address")
	}
	addr = addr.Unmap().WithZone("")
	if r, ok := c.configured(addr); ok {
		return r, nil
	}
	for {
		f, mine := c.join(addr)
		if mine {
			f.result, f.err = c.find(ctx, addr)
			c.land(addr, f)
			return f.result, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Result{}, context.Cause(ctx)
		}
		if f.err == nil {
			return f.result, nil
		}
		// It was the other's context that ended: ask again.
	}
}

// configured answers for addresses that no list has to be asked about.
func (c *Checker) configured(addr netip.Addr) (Result, bool) {
	r := Result{Addr: addr, Checked: c.cfg.Now()}
	r.Expires = r.Checked
	for _, p := range c.cfg.Allow {
		if p.Contains(addr) {
			r.Reason = fmt.Sprintf("allowed by %s", p)
			return r, true
		}
	}
	for _, p := range c.cfg.Block {
		if p.Contains(addr) {
			r.Blocked, r.Score, r.Reason = true, 1, fmt.Sprintf("blocked by %s", p)
			return r, true
		}
	}
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		r.Reason = "not an address of the Internet"
		return r, true
	}
	return r, len(c.cfg.Providers) == 0
}

// join returns the question under way about addr, or begins one that is the
// caller's to answer.
func (c *Checker) join(addr netip.Addr) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[addr]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	c.flights[addr] = f
	return f, true
}

// land gives the answer to all who wait for it.
func (c *Checker) land(addr netip.Addr, f *flight) {
	c.mu.Lock()
	delete(c.flights, addr)
	c.mu.Unlock()
	close(f.done)
}

// find looks into the cache, then into storage, then asks.
func (c *Checker) find(ctx context.Context, addr netip.Addr) (Result, error) {
	c.mu.Lock()
	r, ok := c.cache.get(addr, c.cfg.Now())
	c.mu.Unlock()
	if !ok {
		if r, ok = c.load(ctx, addr); ok {
			c.remember(ctx, r)
		}
	}
	if ok {
		r.Cached = true
		return c.judge(r), nil
	}
	r, err := c.query(ctx, addr)
	if err != nil {
		return Result{}, err
	}
	c.remember(ctx, r)
	c.save(ctx, r)
	return r, nil
}

// query asks all lists at once.
func (c *Checker) query(ctx context.Context, addr netip.Addr) (Result, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	answers := make([]answer, len(c.cfg.Providers))
	var wg together.Group
	for i, p := range c.cfg.Providers {
		wg.Go(func() { answers[i] = c.ask(limited, addr, p) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}

	r := Result{Addr: addr, Checked: c.cfg.Now()}
	ttl := c.cfg.CleanTimeout
	for i, p := range c.cfg.Providers {
		switch a := answers[i]; {
		case a.err != nil:
			if r.Failures == nil {
				r.Failures = map[string]string{}
			}
			r.Failures[p.Name] = text([]string{a.err.Error()})
		case a.listing != nil:
			ttl = c.cfg.CacheTimeout
			r.Listings = append(r.Listings, *a.listing)
		}
	}
	if len(r.Failures) > 0 {
		ttl = min(ttl, failureTimeout)
	}
	r.Expires = r.Checked.Add(ttl)
	return c.judge(r), nil
}

// judge works out the score, by the lists and the threshold of today also for
// an answer of yesterday.
func (c *Checker) judge(r Result) Result {
	weight := 0.0
	var names []string
	for _, p := range c.cfg.Providers {
		for _, l := range r.Listings {
			if l.Zone == p.Zone {
				weight += p.Weight
				names = append(names, l.Provider)
				break
			}
		}
	}
	r.Score, r.Blocked, r.Reason = 0, false, ""
	if c.total > 0 {
		r.Score = weight / c.total
	}
	if r.Score >= c.cfg.Threshold {
		r.Blocked, r.Reason = true, "listed by "+strings.Join(names, ", ")
	}
	return r
}
