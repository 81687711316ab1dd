// Package dmarc says whether the author that a message shows is who sent it, and
// what the author's domain asks to do otherwise: DMARC as of RFC 9989, with
// organizational domains found in DNS and not by a list of public suffixes.
//
// go-msgauth reads records as of RFC 7489: it knows no np, psd and t, and has no
// record where one tag is bad or p is missing, for which RFC 9989 has other rules.
package dmarc

import (
	"context"
	"errors"
	"slices"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Code is the outcome of a check.
type Code string

// The outcomes (RFC 9989 section 9.2 and RFC 8601 section 2.7).
const (
	NoPolicy  Code = "none" // the domain publishes no policy
	Pass      Code = "pass"
	Fail      Code = "fail"
	TempError Code = "temperror" // DNS did not answer
	PermError Code = "permerror" // there is not exactly one author domain
)

// Identifiers are the domains that were authenticated, as A-labels in lower case.
type Identifiers struct {
	SPF  string   // if SPF passed
	DKIM []string // of the signatures that passed
}

// Result is what became of a check.
type Result struct {
	Code Code
	// Domain is the author domain, as A-labels in lower case.
	Domain string
	// Organization is its organizational domain.
	Organization string
	// PolicyDomain is where the policy was found.
	PolicyDomain string
	// Requested is the policy for this domain: p, sp or np of the record.
	Requested Policy
	// Policy is what is to be done with this message: none if it passes; one step
	// below what is requested if the domain is testing (t=y). It is reject where
	// the author is not exactly one domain (Code permerror), as such a message
	// would go past the policy of the domain that it shows (RFC 9989 section
	// 11.5); DMARC itself knows no policy for it. Where DNS did not answer (Code
	// temperror) it is what is to be done at worst: reject if the policy itself is
	// not known, and none if the author's domain itself vouches for the message,
	// which then passes under any policy.
	Policy Policy
	// SPFAligned and DKIMAligned say what it passes by. DKIMDomain is the domain
	// of the signature.
	SPFAligned, DKIMAligned bool
	DKIMDomain              string
	// Record is the policy record, nil without one.
	Record *Record
	// Err says why, if the code is temperror or permerror.
	Err error
}

// Check evaluates DMARC for a message.
func Check(ctx context.Context, r lookup.Resolver, h message.Header, ids Identifiers) Result {
	return Discover(ctx, r, h).Evaluate(ctx, r, ids)
}

// Discovery is what DNS says of a message's author, whoever vouches for it.
type Discovery struct {
	result Result
	known  map[string]*Record
}

// Discover finds the author of a message and the policy of its domain (RFC 9989
// section 4.10). It needs no result of SPF and DKIM, so that who makes these wait
// does not keep it from the policy.
func Discover(ctx context.Context, r lookup.Resolver, h message.Header) Discovery {
	result := Result{Policy: None}
	var err error
	if result.Domain, err = Author(h); err != nil {
		result.Code, result.Policy, result.Err = PermError, Reject, err
		return Discovery{result: result}
	}
	w := walker{ctx: ctx, resolver: r, known: map[string]*Record{}}
	if err := result.discover(&w); err != nil {
		result.Code, result.Policy, result.Err = TempError, Reject, err
		if own := w.known[result.Domain]; own != nil { // applies whatever is above
			result.Policy = own.effective(own.Policy)
		}
	}
	return Discovery{result, w.known}
}

func (r *Result) discover(w *walker) error {
	steps, err := w.walk(r.Domain)
	if err != nil {
		return err
	}
	r.Organization = organizational(r.Domain, steps)
	found := r.policyRecord(steps)
	if found == nil || found.invalid {
		r.Code = NoPolicy
		return nil
	}
	r.Record, r.PolicyDomain = found.Record, found.domain
	r.Requested, err = r.requested(w)
	return err
}

// Evaluate says what the policy means for the message, once it is known who
// vouches for it.
func (d Discovery) Evaluate(ctx context.Context, resolver lookup.Resolver, ids Identifiers) Result {
	r := d.result
	switch r.Code {
	case "":
		r.compare(&walker{ctx: ctx, resolver: resolver, known: d.known}, ids)
	case TempError:
		if ids.SPF == r.Domain || slices.Contains(ids.DKIM, r.Domain) {
			r.Policy = None // it would pass under any
		}
	}
	return r
}

func (r *Result) compare(w *walker, ids Identifiers) {
	var pending, err error // an identifier that DNS keeps us from comparing
	if ids.SPF != "" {
		r.SPFAligned, err = r.aligned(w, ids.SPF, r.Record.StrictSPF)
		pending = errors.Join(pending, err)
	}
	for _, domain := range ids.DKIM {
		ok, err := r.aligned(w, domain, r.Record.StrictDKIM)
		pending = errors.Join(pending, err)
		if ok {
			r.DKIMAligned, r.DKIMDomain = true, domain
			break
		}
	}
	if r.SPFAligned || r.DKIMAligned {
		r.Code = Pass
		return
	}
	r.Code, r.Policy = Fail, r.Record.effective(r.Requested)
	if pending != nil {
		r.Code, r.Err = TempError, pending
	}
}

// policyRecord is the record that applies: of the author domain, else of its
// organization, else of the public suffix (RFC 9989 section 4.10.1).
func (r *Result) policyRecord(steps []step) *step {
	for _, domain := range []string{r.Domain, r.Organization} {
		for i := range steps {
			if steps[i].domain == domain {
				return &steps[i]
			}
		}
	}
	for i := range steps {
		if steps[i].PSD == "y" {
			return &steps[i]
		}
	}
	return nil
}

func (r *Result) requested(w *walker) (Policy, error) {
	record := r.Record
	if r.PolicyDomain == r.Domain {
		return record.Policy, nil
	}
	policy := record.Policy
	if record.Subdomains != "" {
		policy = record.Subdomains
	}
	if record.NonExistent != "" && record.NonExistent != policy {
		ok, err := w.exists(r.Domain)
		if err != nil {
			return "", err
		}
		if !ok {
			policy = record.NonExistent
		}
	}
	return policy, nil
}

// exists reports whether there is a domain. RFC 9989 section 3.2.13 asks whether
// DNS says NXDOMAIN, which a resolver of Go does not tell from "no such record";
// so it is whether there is a record that a domain with mail has, or a policy.
func (w *walker) exists(domain string) (bool, error) {
	mx, err := w.resolver.LookupMX(w.ctx, domain+".")
	if len(mx) > 0 || err != nil && !lookup.NotFound(err) {
		return len(mx) > 0, err
	}
	ips, err := w.resolver.LookupIPAddr(w.ctx, domain+".")
	if len(ips) > 0 || err != nil && !lookup.NotFound(err) {
		return len(ips) > 0, err
	}
	txt, err := lookup.TXT(w.ctx, w.resolver, domain)
	return len(txt) > 0, err
}

// aligned compares an authenticated domain with the author's (RFC 9989 section
// 4.4). An organizational domain is the domain or above it, so that no domain
// outside of the author's organization needs a walk.
func (r *Result) aligned(w *walker, domain string, strict bool) (bool, error) {
	switch {
	case domain == r.Domain:
		return true, nil
	case strict || !lookup.Within(domain, r.Organization):
		return false, nil
	}
	steps, err := w.walk(domain)
	return err == nil && organizational(domain, steps) == r.Organization, err
}

// effective is a policy of the record, a step below where it is only tested.
func (r *Record) effective(p Policy) Policy {
	switch {
	case !r.Testing:
		return p
	case p == Reject:
		return Quarantine
	}
	return None
}
