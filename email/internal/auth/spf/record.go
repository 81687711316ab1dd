package spf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A record is a policy as it is published, checked as a whole before any of it
// is used (RFC 7208 section 4.6).
type record struct {
	mechanisms    []mechanism
	redirect, exp macros
}

type mechanism struct {
	qualifier    Code
	kind         string // all, include, a, mx, ptr, ip4, ip6, exists
	domain       macros // nil for the domain itself
	network      netip.Prefix
	bits4, bits6 int
}

func parse(text string) (record, error) {
	var r record
	terms := strings.Split(text, " ")
	for _, term := range terms[1:] {
		if term == "" {
			continue
		}
		for i := range len(term) {
			if term[i] <= ' ' || term[i] > '~' {
				return r, fmt.Errorf("%q has a byte that is not printable ASCII", short(term))
			}
		}
		var err error
		if name, value, ok := modifier(term); ok {
			err = r.addModifier(name, value)
		} else {
			err = r.addMechanism(term)
		}
		if err != nil {
			return r, fmt.Errorf("%q: %w", short(term), err)
		}
	}
	return r, nil
}

func short(s string) string { return s[:min(len(s), 60)] }

// modifier tells a modifier from a mechanism: name "=" value.
func modifier(term string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(term, "=")
	for i := range len(name) {
		switch c := name[i] | 0x20; {
		case c >= 'a' && c <= 'z':
		case i > 0 && (name[i] >= '0' && name[i] <= '9' || name[i] == '-' || name[i] == '_' || name[i] == '.'):
		default:
			return "", "", false
		}
	}
	return strings.ToLower(name), value, ok && name != ""
}

func (r *record) addModifier(name, value string) error {
	var to *macros
	switch name {
	case "redirect":
		to = &r.redirect
	case "exp":
		to = &r.exp
	default:
		_, err := parseMacros(value, false) // section 6: ignored, but in the same syntax
		return err
	}
	if *to != nil {
		return fmt.Errorf("there is more than one %s", name)
	}
	spec, err := parseDomainSpec(value)
	*to = spec
	return err
}

func (r *record) addMechanism(term string) error {
	m := mechanism{qualifier: Pass, bits4: 32, bits6: 128}
	switch term[0] {
	case '+':
		term = term[1:]
	case '-':
		m.qualifier, term = Fail, term[1:]
	case '~':
		m.qualifier, term = SoftFail, term[1:]
	case '?':
		m.qualifier, term = Neutral, term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	m.kind = strings.ToLower(term[:end])
	rest := term[end:]
	var err error
	switch m.kind {
	case "all":
		err = nothing(rest)
	case "include", "exists":
		if !strings.HasPrefix(rest, ":") {
			return fmt.Errorf("it names no domain")
		}
		m.domain, err = parseDomainSpec(rest[1:])
	case "ptr":
		if rest != "" {
			err = m.optionalDomain(rest)
		}
	case "a", "mx":
		if rest, err = m.lengths(rest); err == nil && rest != "" {
			err = m.optionalDomain(rest)
		}
	case "ip4", "ip6":
		err = m.ip(rest)
	default:
		return fmt.Errorf("there is no such mechanism")
	}
	r.mechanisms = append(r.mechanisms, m)
	return err
}

func nothing(rest string) error {
	if rest != "" {
		return fmt.Errorf("nothing may follow")
	}
	return nil
}

func (m *mechanism) optionalDomain(rest string) (err error) {
	if rest[0] != ':' {
		return fmt.Errorf("a colon is missing")
	}
	m.domain, err = parseDomainSpec(rest[1:])
	return err
}

// lengths takes the prefix lengths from the end: "/24", "//64" or "/24//64".
func (m *mechanism) lengths(rest string) (string, error) {
	domain, tail, err := cutLength(rest, "//", 128, &m.bits6)
	if err != nil {
		return "", err
	}
	domain, _, err = cutLength(domain, "/", 32, &m.bits4)
	if err == nil && tail && strings.HasSuffix(domain, "/") {
		err = fmt.Errorf("the prefix length is malformed")
	}
	return domain, err
}

func cutLength(s, separator string, most int, to *int) (string, bool, error) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, false, nil
	}
	digits := s[i+len(separator):]
	for j := range len(digits) {
		if digits[j] < '0' || digits[j] > '9' {
			return s, false, nil // part of the domain
		}
	}
	n, err := prefixLength(digits, most)
	*to = n
	return s[:i], true, err
}

func prefixLength(digits string, most int) (int, error) {
	n, err := strconv.ParseUint(digits, 10, 8)
	if err != nil || int(n) > most || len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%q is no prefix length", short(digits))
	}
	return int(n), nil
}

func (m *mechanism) ip(rest string) error {
	if !strings.HasPrefix(rest, ":") {
		return fmt.Errorf("it names no network")
	}
	text, length, ok := strings.Cut(rest[1:], "/")
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" || ip.Is4() != (m.kind == "ip4") {
		return fmt.Errorf("%q is no address for it", short(text))
	}
	bits := ip.BitLen()
	if ok {
		if bits, err = prefixLength(length, bits); err != nil {
			return err
		}
	}
	m.network = netip.PrefixFrom(ip, bits)
	return nil
}
