package auth

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/arc"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/iprev"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/auth/spf"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/together"
)

// Resolver asks DNS. *net.Resolver is one.
type Resolver = lookup.Resolver

// Checker checks messages. It may be used by several goroutines.
type Checker struct {
	// Resolver asks DNS; by default that of the system.
	Resolver Resolver
	// Hostname names this server in what it writes (authserv-id, RFC 8601 section
	// 2.5).
	Hostname string
	// Timeout is for what DNS is asked about one message; default 20 s (RFC 7208
	// section 4.6.4). What has not answered by then is a temporary error. Which
	// domains align can be asked only when the rest has answered, and has the same
	// time again.
	Timeout time.Duration
	// Now is the clock, by default time.Now.
	Now func() time.Time
}

// Request is a message and how it came.
type Request struct {
	ClientIP netip.Addr
	Helo     string
	// MailFrom is "local@domain", or empty for the null sender.
	MailFrom string
	// Header is all of the header section.
	Header message.Header
	// Body is what follows the empty line after the header section; it is read
	// once, from its start to its end, and only if there is a signature. Nil is
	// an empty one.
	Body *io.SectionReader
}

// Result is what the checks found.
type Result struct {
	SPF   spf.Result
	DKIM  []dkim.Verification // one for each signature, the first 8 of them
	ARC   arc.Result
	DMARC dmarc.Result
	IPRev iprev.Result

	hostname string
	clientIP netip.Addr
}

// Check runs all checks. What goes wrong in one is in its result.
func (c *Checker) Check(ctx context.Context, q Request) Result {
	timeout, now, resolver := c.Timeout, time.Now, c.Resolver
	if timeout <= 0 {
		timeout = 20 * time.Second
	}
	if c.Now != nil {
		now = c.Now
	}
	if resolver == nil {
		resolver = &net.Resolver{}
	}
	checks, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	r := Result{hostname: c.Hostname, clientIP: q.ClientIP.Unmap().WithZone("")}
	var author dmarc.Discovery
	var wg together.Group
	// The sender chooses which names SPF and DKIM wait for, so DMARC does not wait
	// for them.
	beside(&wg, resolver, func(resolver Resolver) { author = dmarc.Discover(checks, resolver, q.Header) })
	beside(&wg, resolver, func(resolver Resolver) {
		r.SPF = spf.Check(checks, resolver, spf.Request{
			IP: q.ClientIP, Helo: q.Helo, MailFrom: q.MailFrom, Hostname: c.Hostname, Now: now(),
		})
	})
	beside(&wg, resolver, func(resolver Resolver) { r.IPRev = iprev.Check(checks, resolver, q.ClientIP) })
	r.checkSignatures(checks, q, dkim.NewKeys(resolver), now())
	wg.Wait()
	ids := r.identifiers()
	if ids.SPF != "" || len(ids.DKIM) > 0 { // or there is nothing to ask
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	r.DMARC = author.Evaluate(ctx, resolver, ids)
	return r
}

// beside runs a check beside others that wait for DNS, too. With answers that are
// remembered there is nothing to wait for, and to begin a goroutine would take
// longer than the check.
func beside(wg *together.Group, resolver Resolver, check func(Resolver)) {
	if cache, ok := resolver.(*lookup.Cache); ok {
		known, missed := cache.Known()
		if check(known); !missed() {
			return
		}
	}
	wg.Go(func() { check(resolver) })
}

func (r *Result) checkSignatures(ctx context.Context, q Request, keys *dkim.Keys, now time.Time) {
	body := dkim.NewBody(strings.NewReader(""))
	if q.Body != nil { // our own position in it
		body = dkim.NewBody(io.NewSectionReader(q.Body, 0, q.Body.Size()))
	}
	signatures, chain := dkim.Parse(q.Header, body), arc.Parse(q.Header, body)
	header := dkim.NewHasher(q.Header)
	r.DKIM = signatures.Verify(ctx, header, body, keys, now)
	r.ARC = chain.Verify(ctx, header, body, keys)
}

// identifiers are the domains for which SPF and DKIM vouch.
func (r *Result) identifiers() dmarc.Identifiers {
	var ids dmarc.Identifiers
	if r.SPF.Code == spf.Pass {
		ids.SPF = r.SPF.Domain
	}
	for _, d := range r.DKIM {
		if d.Result == dkim.Pass {
			ids.DKIM = append(ids.DKIM, d.Domain)
		}
	}
	return ids
}

// Temporary reports whether DNS did not answer a question that mattered for
// DMARC: at another try the message may pass.
func (r *Result) Temporary() bool {
	if r.DMARC.Code == dmarc.TempError {
		return true
	}
	if r.DMARC.Code != dmarc.Fail {
		return false
	}
	if r.SPF.Code == spf.TempError && couldAlign(r.SPF.Domain, r.DMARC) {
		return true
	}
	for _, d := range r.DKIM {
		if d.Result == dkim.TempError && couldAlign(d.Domain, r.DMARC) {
			return true
		}
	}
	return false
}

func couldAlign(domain string, d dmarc.Result) bool {
	return lookup.Within(strings.ToLower(domain), d.Organization)
}
