package tlspolicy

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/email/internal/tlsrpt"
)

// Policy is how mail to one destination is protected. It is meant for one
// attempt, and safe for concurrent use.
type Policy struct {
	policies   *Policies
	domain     string // normalised, but for a literal
	literal    bool
	secure     bool
	demand     Demand
	rule       RuleMode
	sts        *stsPolicy
	stsFailure *stsFailure

	mu    sync.Mutex
	hosts map[string]expectation // by name, of those that were asked about
}

// expectation is what a host's connection is compared to in a report.
type expectation struct {
	policy tlsrpt.Policy
	// failure says that the policy is not met whatever the connection is like.
	failure tlsrpt.Failure
	reason  string
}

// Requirement is how to connect to a host.
type Requirement struct {
	// Mode is one of [smtpc.Opportunistic], [smtpc.StartTLS] and [smtpc.NoTLS].
	Mode smtpc.TLSMode
	// Config is for [smtpc.Config]; it may be nil.
	Config *tls.Config
	// ServerName is for [smtpc.Config] too: the name that the server is asked
	// for, and in most cases verified against.
	ServerName string
	// Source says where this comes from: "opportunistic", "config", "requiretls",
	// "dane" or "mta-sts".
	Source string
	// Key tells requirements apart: a connection to a host that was made under
	// one may be used under another with the same key.
	Key string
	// Refuse says that the host must not be used, and why: a temporary error,
	// or with [Require] one that may be permanent. Nothing else is set then but
	// Source.
	Refuse *smtpc.Error
}

// Host returns how to connect to one of the destination's hosts. host is a name
// in lower case without a final dot. It may look up TLSA records.
func (p *Policy) Host(ctx context.Context, host string) Requirement {
	r, e := p.decide(ctx, host)
	if r.Refuse == nil && r.ServerName == "" {
		r.ServerName = host
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts == nil {
		p.hosts = map[string]expectation{}
	}
	p.hosts[host] = e
	return r
}

func (p *Policy) decide(ctx context.Context, host string) (Requirement, expectation) {
	if p.demand == Require {
		return p.strict(ctx, host)
	}
	switch p.rule {
	case RuleNone:
		return Requirement{Mode: smtpc.NoTLS, Source: "config", Key: "none"}, expectation{}
	case RuleOpportunistic:
		return p.opportunistic("config"), expectation{}
	case RuleStartTLS:
		return p.webPKI("config"), expectation{}
	case RuleDANE:
		r, e, found := p.dane(ctx, host)
		if !found || r.Refuse == nil && r.Key == keyUnverified {
			r = refuse("config", smtpc.Temporary, "4.7.5", "the configuration demands DANE, and the host has no usable TLSA records", nil)
		}
		return r, e
	}
	if p.demand == Optional {
		return p.opportunistic("opportunistic"), expectation{}
	}
	if r, e, found := p.dane(ctx, host); found {
		return r, e
	}
	e := p.expectSTS(host)
	switch {
	case p.sts == nil || p.sts.Mode == stsNone:
		return p.opportunistic("opportunistic"), e
	case p.sts.Mode == stsTesting: // reported, not insisted on
		return p.opportunistic("opportunistic"), e
	case !p.sts.allows(host):
		return p.refuseSTS(host), e
	}
	return p.webPKI("mta-sts"), e
}

// strict is for REQUIRETLS (RFC 8689 section 4.2.1): the host's name has to be
// known for sure, by DNSSEC or MTA-STS, and its certificate has to be verified.
func (p *Policy) strict(ctx context.Context, host string) (Requirement, expectation) {
	r, e, found := p.dane(ctx, host)
	if found && (r.Refuse != nil || r.Key != keyUnverified) {
		return r, e
	}
	e = p.expectSTS(host)
	if e.failure == "" && p.sts == nil && !p.secure {
		e = expectation{} // that the message asks for more is nothing to report
	}
	switch {
	case p.sts != nil && p.sts.Mode != stsNone:
		if !p.sts.allows(host) {
			return p.refuseSTS(host), e
		}
		return p.webPKI("mta-sts"), e
	case p.secure && !p.literal:
		return p.webPKI("requiretls"), e
	case p.stsFailure != nil:
		return refuse("requiretls", smtpc.Temporary, "4.7.5", "the message requires TLS, and the policy of the domain is not known for now", p.stsFailure.err), e
	}
	return refuse("requiretls", smtpc.Permanent, "5.7.30", "the message requires TLS, and neither DNSSEC nor MTA-STS vouch for the hosts of the domain", nil), e
}

// keyUnverified is the key of TLS with a server that could not be verified.
const keyUnverified = "unverified"

// dane returns the requirement of the host's TLSA records, and whether it has
// any.
func (p *Policy) dane(ctx context.Context, host string) (Requirement, expectation, bool) {
	if p.policies.dns == nil || !p.secure || p.literal {
		return Requirement{}, expectation{}, false
	}
	set, err := lookupTLSA(ctx, p.policies.dns, host)
	e := expectation{policy: tlsrpt.Policy{Type: tlsrpt.TLSA, Domain: set.base}}
	if set.base == "" {
		e.policy.Domain = host
	}
	if err != nil {
		if ctx.Err() == nil {
			e.failure, e.reason = tlsrpt.DNSSECInvalid, dnsErrorText(err)
		} else {
			e = expectation{} // says nothing about the domain
		}
		return refuse("dane", smtpc.Temporary, "4.7.5", "the TLSA records of the host cannot be looked up", err), e, true
	}
	if len(set.records) == 0 {
		return Requirement{}, expectation{}, false
	}
	for _, r := range set.records {
		e.policy.Lines = append(e.policy.Lines, r.String())
	}
	slices.Sort(e.policy.Lines)
	r := Requirement{Mode: smtpc.StartTLS, ServerName: set.base, Source: "dane", Config: &tls.Config{InsecureSkipVerify: true, RootCAs: p.policies.roots, Time: p.policies.now}}
	records := usable(set.records)
	if len(records) == 0 { // RFC 7672 section 2.1: TLS, with whomever
		r.Key = keyUnverified
		e.failure, e.reason = tlsrpt.TLSAInvalid, "no TLSA record is usable"
		return r, e, true
	}
	verifier := &daneVerifier{records: records, names: []string{set.base, host, p.domain}, now: p.policies.now}
	r.Config.VerifyConnection = verifier.verify
	r.Key = keyOf("dane", append([]string{set.base, host, p.domain}, e.policy.Lines...)...)
	return r, e, true
}

func (p *Policy) opportunistic(source string) Requirement {
	return Requirement{Mode: smtpc.Opportunistic, Config: p.config(), Source: source, Key: "opportunistic"}
}

// webPKI insists on a certificate for the host's name from an authority that we
// trust.
func (p *Policy) webPKI(source string) Requirement {
	return Requirement{Mode: smtpc.StartTLS, Config: p.config(), Source: source, Key: "webpki"}
}

func (p *Policy) config() *tls.Config {
	return &tls.Config{RootCAs: p.policies.roots, Time: p.policies.now}
}

// expectSTS is what a report says where there is no DANE.
func (p *Policy) expectSTS(host string) expectation {
	switch {
	case p.literal:
		return expectation{}
	case p.sts != nil && p.sts.Mode != stsNone:
		e := expectation{policy: tlsrpt.Policy{Type: tlsrpt.STS, Lines: p.sts.lines(), Domain: p.domain, MX: p.sts.MX}}
		if !p.sts.allows(host) {
			e.failure, e.reason = tlsrpt.ValidationFailure, "the policy does not list the MX host"
		}
		return e
	case p.stsFailure != nil && p.stsFailure.kind != "":
		return expectation{tlsrpt.Policy{Type: tlsrpt.STS, Domain: p.domain}, p.stsFailure.kind, p.stsFailure.err.Error()}
	}
	return expectation{policy: tlsrpt.Policy{Type: tlsrpt.NoPolicy, Domain: p.domain}}
}

func (p *Policy) refuseSTS(host string) Requirement {
	p.policies.sts.recheck(p.domain)
	return refuse("mta-sts", smtpc.Temporary, "4.7.5", fmt.Sprintf("the MTA-STS policy of the domain does not list the host %q", host), nil)
}

// refuse makes a requirement that the host is not used. The reply is what RFCs
// give for that; nobody has sent it.
func refuse(source string, status smtpc.Status, enhanced, text string, cause error) Requirement {
	code := 450
	if status == smtpc.Permanent {
		code = 550
	}
	err := errors.New("not asked of the server")
	if cause != nil {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return Requirement{Source: source, Refuse: &smtpc.Error{
		Phase: smtpc.PhaseTLS, Status: status, Err: err,
		Reply: smtpc.Reply{Code: code, Enhanced: enhanced, Lines: []string{text}},
	}}
}

func keyOf(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return kind + " " + hex.EncodeToString(sum[:16])
}
