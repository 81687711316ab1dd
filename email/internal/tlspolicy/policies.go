package tlspolicy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
	"github.com/dcrouter/dcrouter/storage"
)

// Config says what policies there are.
type Config struct {
	// Rules are ours for some domains, and come before those of the domains.
	Rules []Rule
	// Resolver looks up the records of MTA-STS. Required.
	Resolver lookup.Resolver
	// DNS looks up those of DANE. Nil means that there is no DANE.
	DNS DNS
	// Roots are what certificates of MX hosts and policy hosts are verified
	// with; nil means the system's.
	Roots *x509.CertPool
	// Dialer connects to policy hosts, "mta-sts.example.net:443". Nil means a
	// [net.Dialer].
	Dialer Dialer
	// Store keeps MTA-STS policies below "email/mta-sts". Nil means that they
	// are forgotten at the end, which weakens them: only who knows a policy
	// from before is safe from an attacker who hides it.
	Store *storage.Store
	// Report is told of each session, for TLSRPT: [tlsrpt.Reporter.Add]. It
	// must not block. Nil means nobody.
	Report func(tlsrpt.Session)
	// MaxDomains bounds the domains with a policy of MTA-STS that are
	// remembered, and apart from them those without; default 10,000.
	MaxDomains int
	// Log is told of policies that cannot be fetched or stored. Nil means
	// nobody.
	Log *slog.Logger
	// Now is the clock; default [time.Now].
	Now func() time.Time
}

// Policies knows the policies of domains. Make one with [Open]. It is safe for
// concurrent use.
type Policies struct {
	rules  rules
	dns    DNS
	roots  *x509.CertPool
	report func(tlsrpt.Session)
	now    func() time.Time
	sts    *stsCache
}

// CheckRules returns what is wrong with rules, all mistakes at once, each with
// its place.
func CheckRules(list []Rule) error {
	_, err := compile(list)
	return err
}

// Open reads what is stored, and begins to keep policies fresh.
func Open(ctx context.Context, cfg Config) (*Policies, error) {
	rules, err := compile(cfg.Rules)
	if err != nil {
		return nil, err
	}
	if cfg.Resolver == nil {
		return nil, errors.New("tlspolicy: there is no resolver")
	}
	if cfg.MaxDomains <= 0 {
		cfg.MaxDomains = 10_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Policies{rules: rules, dns: cfg.DNS, roots: cfg.Roots, report: cfg.Report, now: cfg.Now, sts: &stsCache{
		resolver: cfg.Resolver,
		client:   newFetcher(cfg.Roots, cfg.Dialer, cfg.Now),
		store:    cfg.Store,
		log:      cfg.Log,
		now:      cfg.Now,
		max:      cfg.MaxDomains,
	}}
	if err := p.sts.start(ctx); err != nil {
		return nil, fmt.Errorf("the MTA-STS policies cannot be read: %w", err)
	}
	return p, nil
}

// Close ends fetches under way. Nothing may be asked after it.
func (p *Policies) Close() { p.sts.close() }

// Destination is where mail goes.
type Destination struct {
	// Domain is that of the recipients, in any form.
	Domain string
	// Secure says that its MX records, or that it has none, were validated by
	// DNSSEC.
	Secure bool
}

// Demand is what a message itself asks for.
type Demand int

const (
	// Default leaves it to the policies.
	Default Demand = iota
	// Require is REQUIRETLS: nothing but TLS with a verified server. That the
	// server knows REQUIRETLS too is for the client to see to.
	Require
	// Optional is the header field "TLS-Required: No" (RFC 8689 section 3):
	// the policies of domains are passed over, not the rules of ours. Reports
	// about TLS have to get through where TLS fails.
	Optional
)

// For returns the policy for mail to a destination. It may have to fetch it,
// which takes a minute at most. An error is temporary: ctx has ended.
func (p *Policies) For(ctx context.Context, d Destination, demand Demand) (*Policy, error) {
	policy := &Policy{policies: p, domain: d.Domain, secure: d.Secure, demand: demand}
	domain, err := lookup.Domain(d.Domain)
	if err != nil { // an address literal: nobody publishes anything for it
		policy.literal = true
		domain = d.Domain
	} else {
		policy.domain = domain
	}
	policy.rule = p.rules.find(domain)
	asksDomain := demand == Require || demand == Default && policy.rule == ""
	if asksDomain && !policy.literal {
		if policy.sts, policy.stsFailure, err = p.sts.get(ctx, domain); err != nil {
			return nil, fmt.Errorf("the MTA-STS policy of %q is not known yet: %w", domain, err)
		}
	}
	return policy, nil
}
