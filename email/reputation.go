package email

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/dnsbl"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// Reputation is what is known of an address.
type Reputation struct {
	Addr netip.Addr `json:"ip"`
	// Blocked says that Score has reached the threshold, or that the address is on
	// [IPReputation.BlockList].
	Blocked bool `json:"blocked"`
	// Score is the share of the lists that know the address: 0 is none, 1 all.
	Score float64 `json:"score"`
	// Reason says in one line why the address is blocked, or why it was not asked
	// about. Otherwise it is "".
	Reason string `json:"reason,omitempty"`
	// Listings has the lists that know the address.
	Listings []ReputationListing `json:"listings,omitempty"`
	// Failures has the lists that did not answer, by name, and why.
	Failures map[string]string `json:"failures,omitempty"`
	// Checked is when the lists were asked, Expires until when their answers count.
	Checked time.Time `json:"checked"`
	Expires time.Time `json:"expires"`
	// Cached says that the answers were known before.
	Cached bool `json:"cached"`
}

// ReputationListing is what one list says of an address.
type ReputationListing struct {
	// Provider is the list as the configuration names it, Zone its domain.
	Provider string `json:"provider"`
	Zone     string `json:"zone"`
	// Codes are the addresses that it has answered with. What they mean is said by
	// the list.
	Codes []netip.Addr `json:"codes"`
	// Text is its reason, in printable ASCII.
	Text string `json:"text,omitempty"`
}

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
	o.setDefaults()
	return newReputation(&cfg, &o)
}

func newReputation(cfg *IPReputation, o *options) (*ReputationChecker, error) {
	c := dnsbl.Config{
		Resolver: o.resolver, Threshold: cfg.Threshold, Timeout: cfg.Timeout, CacheTimeout: cfg.CacheTimeout,
		Store: o.store, Log: o.log, Now: o.now,
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
	res, err := c.c.Check(ctx, addr)
	rep := Reputation{Addr: res.Addr, Blocked: res.Blocked, Score: res.Score, Reason: res.Reason, Failures: res.Failures,
		Checked: res.Checked, Expires: res.Expires, Cached: res.Cached}
	for _, l := range res.Listings {
		rep.Listings = append(rep.Listings, ReputationListing(l))
	}
	return rep, err
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
