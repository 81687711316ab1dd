package dnsserver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// updateRule is an [UpdateRule] that has been read.
type updateRule struct {
	key      *tsigKey
	patterns []updatePattern
	types    []uint16 // empty: all
}

// updatePattern fits a name, or with below set all names under it.
type updatePattern struct {
	name  string // wire
	below bool
}

// newRules reads rules that have been checked.
func newRules(list []UpdateRule, zone string, keys keyring) []updateRule {
	var rules []updateRule
	for i := range list {
		r := updateRule{key: keys.named(list[i].Key)}
		for _, name := range list[i].Names {
			rest, below := strings.CutPrefix(name, "*.")
			if wire, err := wireName(rest); err == nil {
				r.patterns = append(r.patterns, updatePattern{wire, below})
			}
		}
		if len(list[i].Names) == 0 {
			r.patterns = []updatePattern{{zone, false}, {zone, true}}
		}
		for _, t := range list[i].Types {
			r.types = append(r.types, dns.StringToType[strings.ToUpper(t)])
		}
		rules = append(rules, r)
	}
	return rules
}

// fit returns how well a pattern fits a name, 0 for not at all.
func (p *updatePattern) fit(name string) int {
	labels := 1
	for i := 0; p.name[i] != 0; i += int(p.name[i]) + 1 {
		labels++
	}
	switch {
	case !p.below && name == p.name:
		return 2*labels + 1
	case p.below && name != p.name && isBelow(name, p.name):
		return 2 * (labels + 1) // the asterisk is a label
	}
	return 0
}

// allows reports whether a key may change records of a type at a name. The
// rules that fit the name best decide.
func allows(rules []updateRule, key *tsigKey, name string, rtype uint16) bool {
	best, allowed := 0, false
	for i := range rules {
		r := &rules[i]
		if r.key == nil || r.key != key {
			continue
		}
		for j := range r.patterns {
			fit := r.patterns[j].fit(name)
			if fit == 0 || fit < best {
				continue
			}
			if fit > best {
				best, allowed = fit, false
			}
			allowed = allowed || len(r.types) == 0 || slices.Contains(r.types, rtype)
		}
	}
	return allowed
}
