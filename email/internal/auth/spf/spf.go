package spf

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// Code is the outcome of a check (RFC 7208 section 2.6).
type Code string

// The outcomes.
const (
	None      Code = "none"
	Neutral   Code = "neutral"
	Pass      Code = "pass"
	Fail      Code = "fail"
	SoftFail  Code = "softfail"
	TempError Code = "temperror"
	PermError Code = "permerror"
)

// Scope says which name was checked.
type Scope string

// The names: that of MAIL FROM, or of HELO if MAIL FROM was empty.
const (
	MailFrom Scope = "mfrom"
	Helo     Scope = "helo"
)

// Limits of RFC 7208 section 4.6.4.
const (
	maxTerms = 10 // that ask DNS
	maxVoid  = 2  // that get no answer
	maxNames = 10 // of an MX or PTR answer
)

// Errors about a record that asks for too much.
var (
	ErrTooManyLookups = errors.New("more than 10 terms ask DNS")
	ErrTooManyVoid    = errors.New("more than 2 lookups found nothing")
	ErrTooManyMX      = errors.New("more than 10 MX records")
	ErrSeveralRecords = errors.New("there is more than one record")
	ErrNoRecord       = errors.New("there is no record")
)

// Request is what is known of a session.
type Request struct {
	IP       netip.Addr
	Helo     string
	MailFrom string    // "local@domain", or empty for the null sender
	Hostname string    // of this server, for explanations
	Now      time.Time // likewise
}

// Result is what became of a check.
type Result struct {
	Code   Code
	Scope  Scope
	Domain string // that was checked, as an A-label if it is a name at all
	// Explanation is what the domain says about a fail, or empty: printable
	// ASCII, at most 400 bytes, from a stranger.
	Explanation string
	// Err says why, if the code is none, temperror or permerror.
	Err error
}

// Check checks the name in MAIL FROM, or that in HELO if it is empty.
func Check(ctx context.Context, r lookup.Resolver, q Request) Result {
	e := &evaluation{ctx: ctx, resolver: r, Request: q}
	e.IP = q.IP.Unmap().WithZone("")
	result := Result{Scope: MailFrom}
	at := strings.LastIndexByte(q.MailFrom, '@')
	e.local, e.senderDomain = q.MailFrom[:max(at, 0)], q.MailFrom[at+1:]
	if q.MailFrom == "" {
		result.Scope, e.senderDomain = Helo, q.Helo
	}
	if e.local == "" {
		e.local = "postmaster" // RFC 7208 section 4.3
	}
	result.Domain = e.senderDomain
	name, err := lookup.Domain(e.senderDomain)
	if err != nil || !strings.Contains(name, ".") {
		if err == nil {
			err = errors.New("the name has one label only")
		}
		result.Code, result.Err = None, err
		return result
	}
	result.Domain, e.senderDomain = name, name
	var exp *explanation
	result.Code, exp, result.Err = e.check(name)
	if result.Code == Fail && exp != nil {
		result.Explanation = e.explain(exp)
	}
	return result
}

// An evaluation is check_host() with what it may still spend.
type evaluation struct {
	Request
	ctx                 context.Context
	resolver            lookup.Resolver
	local, senderDomain string
	terms, void         int
	names               []string // of IP, validated
	namesKnown          bool
}

// An explanation is the text that a domain names, in its own context.
type explanation struct {
	spec   macros
	domain string
}

// check is check_host() (RFC 7208 section 4).
func (e *evaluation) check(domain string) (Code, *explanation, error) {
	if err := checkName(domain); err != nil {
		return None, nil, err
	}
	list, err := lookup.TXT(e.ctx, e.resolver, domain)
	if err != nil {
		return TempError, nil, err
	}
	var text string
	found := 0
	for _, txt := range list {
		if version, _, _ := strings.Cut(txt, " "); strings.EqualFold(version, "v=spf1") {
			text, found = txt, found+1
		}
	}
	switch {
	case found == 0:
		return None, nil, ErrNoRecord
	case found > 1:
		return PermError, nil, ErrSeveralRecords
	}
	record, err := parse(text)
	if err != nil {
		return PermError, nil, err
	}
	for _, m := range record.mechanisms {
		match, code, err := e.match(m, domain)
		if code != "" {
			return code, nil, err
		}
		if match {
			if record.exp == nil {
				return m.qualifier, nil, nil
			}
			return m.qualifier, &explanation{record.exp, domain}, nil
		}
	}
	if record.redirect == nil {
		return Neutral, nil, nil
	}
	if err := e.countTerm(); err != nil {
		return PermError, nil, err
	}
	code, exp, err := e.check(e.target(record.redirect, domain))
	if code == None {
		code = PermError // section 6.1
	}
	return code, exp, err
}

func (e *evaluation) countTerm() error {
	if e.terms++; e.terms > maxTerms {
		return ErrTooManyLookups
	}
	return nil
}

// countVoid looks at what a lookup gave: nothing at all counts.
func (e *evaluation) countVoid(n int, err error) error {
	if n == 0 && (err == nil || lookup.NotFound(err)) {
		if e.void++; e.void > maxVoid {
			return ErrTooManyVoid
		}
	}
	return nil
}
