package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// Resolver looks up names; [net.Resolver] is one. Errors that say "no such
// name" are [net.DNSError] with IsNotFound.
type Resolver interface {
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Provider is a block list.
type Provider struct {
	// Name is for people; the default is Zone.
	Name string
	// Zone is the domain below which the list answers. Required.
	Zone string
	// Weight is how much this list counts beside others; the default 0 means 1.
	Weight float64
}

// Named returns the providers that are known by name, "spamhaus", "barracuda"
// and "surbl", and for any other name the one whose zone it is.
func Named(name string) Provider {
	switch name {
	case "spamhaus":
		return Provider{Name: name, Zone: "zen.spamhaus.org"}
	case "barracuda":
		return Provider{Name: name, Zone: "b.barracudacentral.org"}
	case "surbl":
		return Provider{Name: name, Zone: "multi.surbl.org"}
	}
	return Provider{Name: name, Zone: name}
}

// Config of a [Checker].
type Config struct {
	// Providers are the lists to ask.
	Providers []Provider
	// Resolver asks them. Required if there are Providers.
	Resolver Resolver
	// Threshold is the score from which an address is blocked, above 0 and at
	// most 1; the default 0 means 0.7.
	Threshold float64
	// Timeout bounds the questions about one address; the default 0 means 2s.
	Timeout time.Duration
	// CacheTimeout is how long it is remembered that an address is listed; the
	// default 0 means 1h.
	CacheTimeout time.Duration
	// CleanTimeout is how long it is remembered that an address is not; the
	// default 0 means CacheTimeout, and 15m at most, as spam comes before its
	// listing.
	CleanTimeout time.Duration
	// MaxCache bounds the addresses that are remembered; default 10,000.
	MaxCache int
	// Allow are never blocked and not asked about. It goes before Block.
	Allow []netip.Prefix
	// Block are always blocked and not asked about.
	Block []netip.Prefix
	// Store keeps the cache below security/ip-reputation. Nil means in memory
	// only.
	Store *storage.Store
	// Log is told when storing fails. Nil means nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// failureTimeout is how long an answer is remembered that some lists did not
// take part in.
const failureTimeout = time.Minute

func (c *Config) prepare() error {
	var errs []error
	c.Providers = append([]Provider(nil), c.Providers...)
	for i := range c.Providers {
		p := &c.Providers[i]
		p.Zone = strings.Trim(p.Zone, ".")
		if p.Zone == "" || len(p.Zone) > 180 { // an IPv6 address takes 64 more of 253
			errs = append(errs, fmt.Errorf("dnsbl: providers[%d]: %q is no domain of a list", i, p.Zone))
		}
		if p.Name == "" {
			p.Name = p.Zone
		}
		if p.Weight == 0 {
			p.Weight = 1
		}
		if !(p.Weight > 0 && p.Weight <= 1e6) {
			errs = append(errs, fmt.Errorf("dnsbl: providers[%d]: the weight %v is not positive", i, p.Weight))
		}
	}
	if len(c.Providers) > 0 && c.Resolver == nil {
		errs = append(errs, errors.New("dnsbl: no resolver to ask the providers with"))
	}
	if !(c.Threshold >= 0 && c.Threshold <= 1) {
		errs = append(errs, fmt.Errorf("dnsbl: the threshold %v is not between 0 and 1", c.Threshold))
	}
	if c.Threshold == 0 {
		c.Threshold = 0.7
	}
	if c.Timeout <= 0 {
		c.Timeout = 2 * time.Second
	}
	if c.CacheTimeout <= 0 {
		c.CacheTimeout = time.Hour
	}
	if c.CleanTimeout <= 0 {
		c.CleanTimeout = min(c.CacheTimeout, 15*time.Minute)
	}
	if c.MaxCache <= 0 {
		c.MaxCache = 10_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return errors.Join(errs...)
}
