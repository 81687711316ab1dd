package tlspolicy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// stsMode is the mode of an MTA-STS policy (RFC 8461 section 5).
type stsMode string

const (
	stsEnforce stsMode = "enforce"
	stsTesting stsMode = "testing"
	stsNone    stsMode = "none"
)

// maxSTSAge is the longest that a policy may be kept (RFC 8461 section 3.2).
const maxSTSAge = 31557600 * time.Second

// maxSTSHosts bounds the patterns of a policy.
const maxSTSHosts = 1000

// stsPolicy is a policy as its domain publishes it.
type stsPolicy struct {
	Mode   stsMode       `json:"mode"`
	MX     []string      `json:"mx,omitempty"` // host names or "*.domain", in lower case
	MaxAge time.Duration `json:"max_age"`
}

// lines is the policy's text, for reports.
func (p *stsPolicy) lines() []string {
	lines := []string{"version: STSv1", "mode: " + string(p.Mode)}
	for _, mx := range p.MX {
		lines = append(lines, "mx: "+mx)
	}
	return append(lines, fmt.Sprintf("max_age: %d", int64(p.MaxAge/time.Second)))
}

// allows reports whether a host, in lower case and without a final dot, may
// have the domain's mail (RFC 8461 section 4.1). A wildcard stands for one label.
func (p *stsPolicy) allows(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		if rest, ok := strings.CutPrefix(pattern, "*."); ok {
			return parent == rest
		}
		return host == pattern
	})
}

// errNoRecord says that a domain has no MTA-STS record.
var errNoRecord = errors.New("there is no MTA-STS record")

// stsRecord finds the id among the TXT records of _mta-sts.DOMAIN (RFC 8461
// section 3.1).
func stsRecord(txts []string) (id string, err error) {
	txts = slices.DeleteFunc(slices.Clone(txts), func(s string) bool { // others are not about this
		version, _, _ := strings.Cut(s, ";")
		return strings.TrimRight(version, " \t") != "v=STSv1"
	})
	switch len(txts) {
	case 0:
		return "", errNoRecord
	case 1:
	default:
		return "", fmt.Errorf("there are %d MTA-STS records", len(txts))
	}
	for i, field := range strings.Split(txts[0], ";")[1:] {
		field = strings.Trim(field, " \t")
		if field == "" && i > 0 {
			continue // after the last ";"
		}
		name, value, ok := strings.Cut(field, "=")
		if !ok || !isFieldName(name) {
			return "", fmt.Errorf("the field %.50q of the MTA-STS record is none", field)
		}
		if name != "id" || id != "" { // of doubled fields the first counts
			continue
		}
		if len(value) == 0 || len(value) > 32 || strings.ContainsFunc(value, func(r rune) bool { return !isAlphanumeric(r) }) {
			return "", fmt.Errorf("the id %.50q of the MTA-STS record is not made of 1 to 32 letters and digits", value)
		}
		id = value
	}
	if id == "" {
		return "", errors.New("the MTA-STS record has no id")
	}
	return id, nil
}

// parseSTS reads a policy (RFC 8461 section 3.2). Unknown fields are passed over,
// and of doubled ones all but the first; anything else that is wrong makes it
// invalid.
func parseSTS(text string) (*stsPolicy, error) {
	seen := map[string]string{}
	p := &stsPolicy{}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimRight(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isFieldName(name) {
			return nil, fmt.Errorf("the line %.50q of the policy is no field", line)
		}
		value = strings.TrimLeft(value, " \t")
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("the field %s of the policy has control characters", name)
		}
		if _, doubled := seen[name]; doubled && name != "mx" {
			continue
		}
		seen[name] = value
		switch name {
		case "mx":
			pattern, err := stsPattern(value)
			if err != nil {
				return nil, err
			}
			if len(p.MX) == maxSTSHosts {
				return nil, fmt.Errorf("the policy has more than %d MX hosts", maxSTSHosts)
			}
			p.MX = append(p.MX, pattern)
		case "max_age":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil || len(value) > 10 || value[0] == '+' {
				return nil, fmt.Errorf("the max_age %.50q of the policy is no number of seconds", value)
			}
			p.MaxAge = time.Duration(min(n, uint64(maxSTSAge/time.Second))) * time.Second
		case "mode":
			p.Mode = stsMode(value)
		}
	}
	if seen["version"] != "STSv1" {
		return nil, fmt.Errorf("the version %.50q of the policy is not STSv1", seen["version"])
	}
	switch p.Mode {
	case stsEnforce, stsTesting:
		if len(p.MX) == 0 {
			return nil, errors.New("the policy has no mx")
		}
	case stsNone:
	default:
		return nil, fmt.Errorf("the mode %.50q of the policy is not one of enforce, testing, none", p.Mode)
	}
	if _, ok := seen["max_age"]; !ok {
		return nil, errors.New("the policy has no max_age")
	}
	return p, nil
}

func stsPattern(value string) (string, error) {
	rest, wild := strings.CutPrefix(value, "*.")
	domain, err := lookup.Domain(rest)
	if err != nil || strings.HasSuffix(rest, ".") || strings.ContainsFunc(rest, func(r rune) bool { return r >= 0x80 }) {
		return "", fmt.Errorf("the mx %.100q of the policy is no host name", value)
	}
	if wild {
		domain = "*." + domain
	}
	return domain, nil
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func isFieldName(s string) bool {
	if s == "" || len(s) > 32 || !isAlphanumeric(rune(s[0])) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isAlphanumeric(r) && r != '_' && r != '-' && r != '.' })
}
