package tlspolicy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// RuleMode is what a rule demands.
type RuleMode string

// What a rule may demand.
const (
	RuleNone          RuleMode = "none"          // no TLS
	RuleOpportunistic RuleMode = "opportunistic" // TLS if there is any, whatever the domain's own policy says
	RuleStartTLS      RuleMode = "starttls"      // TLS with a certificate for the MX host's name
	RuleDANE          RuleMode = "dane"          // TLS verified by DANE
)

// Rule sets how mail to some domains is protected.
type Rule struct {
	// Domain is the recipients': "example.com", ".example.com" for all below
	// it, or "*" for all. The closest rule counts.
	Domain string
	Mode   RuleMode
}

// rules are by domain as in Rule, normalised.
type rules map[string]RuleMode

// compile reports all mistakes at once, each with its place.
func compile(list []Rule) (rules, error) {
	out := rules{}
	var errs []error
	for i, r := range list {
		key, err := ruleKey(r.Domain)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("rules[%d].domain: %w", i, err))
			continue
		case out[key] != "":
			errs = append(errs, fmt.Errorf("rules[%d].domain: there is another rule for %q", i, r.Domain))
		}
		switch r.Mode {
		case RuleNone, RuleOpportunistic, RuleStartTLS, RuleDANE:
			out[key] = r.Mode
		default:
			errs = append(errs, fmt.Errorf("rules[%d].mode: %q is not one of none, opportunistic, starttls, dane", i, r.Mode))
		}
	}
	return out, errors.Join(errs...)
}

func ruleKey(pattern string) (string, error) {
	if pattern == "*" {
		return pattern, nil
	}
	rest, below := strings.CutPrefix(pattern, ".")
	domain, err := lookup.Domain(rest)
	if below {
		domain = "." + domain
	}
	return domain, err
}

// find returns the mode for a domain, "" without a rule.
func (r rules) find(domain string) RuleMode {
	if mode := r[domain]; mode != "" {
		return mode
	}
	for rest := domain; ; {
		dot := strings.IndexByte(rest, '.')
		if dot < 0 {
			return r["*"]
		}
		if mode := r[rest[dot:]]; mode != "" {
			return mode
		}
		rest = rest[dot+1:]
	}
}
