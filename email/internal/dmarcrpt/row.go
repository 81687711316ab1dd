package dmarcrpt

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth"
	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/auth/dmarc"
	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// Message is a message that DMARC was evaluated for.
type Message struct {
	// SourceIP is the client that it came from.
	SourceIP netip.Addr
	// MailFrom is the sender in the envelope, empty for the null sender.
	MailFrom string
	// Auth is what the checks found.
	Auth *auth.Result
	// Applied is what was done with the message for its failing DMARC.
	Applied dmarc.Policy
	// Reasons say why that is not what the policy asks for, if it is not. That
	// the domain is only testing (t=y) need not be said, and where nothing is,
	// it is a local policy.
	Reasons []Reason
}

// ReasonType is a reason not to do as a policy says (RFC 9990 section 3.1.6).
type ReasonType string

// The reasons.
const (
	LocalPolicy      ReasonType = "local_policy"
	MailingList      ReasonType = "mailing_list"
	TrustedForwarder ReasonType = "trusted_forwarder"
	Other            ReasonType = "other"

	policyTestMode ReasonType = "policy_test_mode"
)

// Reason is why a policy was overridden.
type Reason struct {
	Type ReasonType
	// Comment is for people, in one line; it is cut at 200 bytes.
	Comment string
}

// A row is what messages have in common that are counted together. All text in
// it is short, in lower case but for comments, and without control characters.
type row struct {
	Source       netip.Addr `json:"source"`
	Disposition  string     `json:"disposition"`
	DKIM         bool       `json:"dkim"` // aligned
	SPF          bool       `json:"spf"`  // aligned
	Reasons      string     `json:"reasons,omitempty"`
	HeaderFrom   string     `json:"headerFrom"`
	EnvelopeFrom string     `json:"envelopeFrom,omitempty"`
	SPFDomain    string     `json:"spfDomain,omitempty"`
	SPFResult    string     `json:"spfResult"`
	Signatures   string     `json:"signatures,omitempty"`
}

// Lists in a row are lines, to keep it comparable: "type comment" for reasons,
// "domain selector result" for signatures.

// size is roughly what a row takes in memory.
func (r *row) size() int {
	return 320 + len(r.Reasons) + len(r.HeaderFrom) + len(r.EnvelopeFrom) + len(r.SPFDomain) + len(r.Signatures)
}

func newRow(m Message) row {
	d := &m.Auth.DMARC
	r := row{
		Source: m.SourceIP.Unmap().WithZone(""), HeaderFrom: d.Domain,
		DKIM: d.DKIMAligned, SPF: d.SPFAligned,
		SPFDomain: name(m.Auth.SPF.Domain), SPFResult: string(m.Auth.SPF.Code),
		Signatures: signatures(m.Auth),
	}
	if at := strings.LastIndexByte(m.MailFrom, '@'); at >= 0 {
		r.EnvelopeFrom = name(m.MailFrom[at+1:])
	}
	r.Disposition, r.Reasons = disposition(m)
	return r
}

// disposition returns what was done, and why if that is not what was asked for.
func disposition(m Message) (string, string) {
	d := &m.Auth.DMARC
	if d.Code != dmarc.Fail {
		if d.Requested == dmarc.None {
			return "none", ""
		}
		return "pass", ""
	}
	applied := m.Applied
	if applied != dmarc.Quarantine && applied != dmarc.Reject {
		applied = dmarc.None
	}
	if applied == d.Requested {
		return string(applied), ""
	}
	reasons := m.Reasons
	if len(reasons) == 0 {
		reasons = []Reason{{Type: LocalPolicy}}
		if d.Record != nil && d.Record.Testing && applied == d.Policy {
			reasons[0].Type = policyTestMode
		}
	}
	var lines []string
	for _, r := range reasons[:min(len(reasons), 5)] {
		switch r.Type {
		case LocalPolicy, MailingList, TrustedForwarder, policyTestMode:
		default:
			r.Type = Other
		}
		lines = append(lines, strings.TrimSpace(string(r.Type)+" "+printable(r.Comment, 200)))
	}
	return string(applied), strings.Join(lines, "\n")
}

// signatures lists those of a message in the order of RFC 9990 section 3.1.3:
// those that count for DMARC, others that pass, the rest.
func signatures(a *auth.Result) string {
	type signature struct {
		rank int
		line string
	}
	var list []signature
	for _, v := range a.DKIM {
		if v.Domain == "" || v.Selector == "" {
			continue // not even that could be read
		}
		rank := 3
		switch {
		case v.Result != dkim.Pass:
		case v.Domain == a.DMARC.Domain:
			rank = 0
		case v.Domain == a.DMARC.DKIMDomain, lookup.Within(v.Domain, a.DMARC.Organization):
			rank = 1
		default:
			rank = 2
		}
		list = append(list, signature{rank, name(v.Domain) + " " + name(v.Selector) + " " + string(v.Result)})
	}
	slices.SortFunc(list, func(a, b signature) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.line, b.line))
	})
	list = slices.Compact(list)
	var lines []string
	for _, s := range list {
		lines = append(lines, s.line)
	}
	return strings.Join(lines, "\n")
}

// name is a domain name, or what is in its place, such as a client's HELO.
func name(s string) string {
	if domain, err := lookup.Domain(s); err == nil {
		return domain
	}
	return strings.ReplaceAll(printable(s, 253), " ", "?")
}

// printable cuts text and replaces all but printable ASCII.
func printable(s string, limit int) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s[:min(len(s), limit)])
}
