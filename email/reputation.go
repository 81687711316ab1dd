package email

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsbl"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// Reputation is what is known of an address.
type Reputation = dnsbl.Result

// ReputationListing is what one list says of an address.
type ReputationListing = dnsbl.Listing

// ReputationChecker asks DNS block lists about addresses (RFC 5782). It also works
// without a [Server]:
//
//	checker, err := email.NewReputationChecker(email.IPReputation{Providers: []string{"spamhaus"}})
//	...
//	result, err := checker.Check(ctx, netip.MustParseAddr("192.0.2.1"))
//	if result.Blocked {
//		log.Print(result.Reason)
//	}
//
// What it learns is cached, in the storage too if it was given one, below
// "security/ip-reputation/". Its methods may be called from several goroutines.
type ReputationChecker struct{ c *dnsbl.Checker }

// NewReputationChecker makes a ReputationChecker. Of the options, those about
// logger, storage, resolver and clock matter. The error joins all mistakes, each
// a [*FieldError].
func NewReputationChecker(cfg IPReputation, opts ...Option) (*ReputationChecker, error) {
	check := conf.NewChecker()
	cfg.validate(check)
	if err := check.Err(); err != nil {
		return nil, err
	}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	return newReputation(&cfg, &o)
}

func newReputation(cfg *IPReputation, o *options) (*ReputationChecker, error) {
	c := dnsbl.Config{
		Resolver: resolverOr(o.resolver), Threshold: cfg.Threshold, Timeout: cfg.Timeout, CacheTimeout: cfg.CacheTimeout,
		Store: o.store, Log: logOr(o.log), Now: nowOr(o.now),
	}
	for _, name := range cfg.Providers {
		c.Providers = append(c.Providers, dnsbl.Named(name))
	}
	for _, p := range cfg.AllowList {
		c.Allow = append(c.Allow, mustPrefix(p))
	}
	for _, p := range cfg.BlockList {
		c.Block = append(c.Block, mustPrefix(p))
	}
	checker, err := dnsbl.New(c)
	return &ReputationChecker{checker}, err
}

// Check tells what is known of an address. Lists that do not answer count as if
// they did not know it; [Reputation] names them. The error is ctx's, or that addr
// is not an address.
func (c *ReputationChecker) Check(ctx context.Context, addr netip.Addr) (Reputation, error) {
	return c.c.Check(ctx, addr)
}

// checkReputation refuses clients of bad reputation.
func (r *run) checkReputation(ctx context.Context, addr netip.Addr) *Reply {
	if r.reputation == nil {
		return nil
	}
	res, err := r.reputation.Check(ctx, addr)
	if err != nil || !res.Blocked {
		return nil // nothing is known against it
	}
	return &Reply{Code: 554, Enhanced: [3]int{5, 7, 1}, Text: fmt.Sprintf("%s is refused: %s", addr, res.Reason)}
}

// greylisted says how long mail is put off, 0 if it is not.
func (r *run) greylisted(client netip.Addr, sender, recipient string) time.Duration {
	if r.greylist == nil {
		return 0
	}
	if d := r.greylist.Check(client, sender, recipient); !d.Pass {
		return max(d.RetryAfter, time.Second)
	}
	return 0
}

func logOr(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

