package certs

import (
	"fmt"
	"strings"
)

// errImpossible is why no challenge can be answered for a name as things are.
// Another configuration, or other routes, may change that.
type errImpossible struct{ text string }

func (e *errImpossible) Error() string { return e.text }

// choose returns a solver for a name: of those that are possible the first, and
// after failures the others in turn.
func (m *Manager) choose(name string, failures int) (solver, error) {
	var possible []solver
	var reasons []string
	for _, kind := range m.cfg.Challenges {
		s, reason := m.solver(kind, name)
		if s != nil {
			possible = append(possible, s)
		} else if reason != "" {
			reasons = append(reasons, kind+": "+reason)
		}
	}
	if len(possible) == 0 {
		if len(reasons) == 0 { // wildcards
			reasons = []string{"the configuration allows only " + strings.Join(m.cfg.Challenges, ", ")}
		}
		need := "a challenge that can be answered"
		if isWildcard(name) {
			need = "dns-01"
		}
		return nil, &errImpossible{fmt.Sprintf("%s needs %s: %s", name, need, strings.Join(reasons, "; "))}
	}
	return possible[failures%len(possible)], nil
}

// solver returns a solver of one type, or why there is none. A reason that goes
// without saying is empty.
func (m *Manager) solver(kind, name string) (solver, string) {
	switch {
	case kind != DNS01 && isWildcard(name): // RFC 8555 section 7.1.3
		return nil, ""
	case kind == DNS01 && m.opts.dns != nil && m.opts.dns.Authoritative(challengeName(name)):
		return &zoneSolver{dns: m.opts.dns}, ""
	case kind == DNS01 && m.opts.cloudflare != "":
		return m.cloudflareSolver(), ""
	case kind == DNS01:
		return nil, "the DNS server here is not the source of the name, and there is no Cloudflare token (dnsChallenge)"
	case m.opts.reachable == nil || !m.opts.reachable(kind):
		return nil, "no route listens on the port for it"
	case kind == TLSALPN01:
		return &alpnSolver{m.answers}, ""
	default:
		return &httpSolver{m.answers}, ""
	}
}

func isWildcard(name string) bool { return strings.HasPrefix(name, "*.") }

// challengeName is where the TXT records of DNS-01 are (RFC 8555 section 8.4).
func challengeName(name string) string { return "_acme-challenge." + strings.TrimPrefix(name, "*.") }
