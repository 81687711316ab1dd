package proxy

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// canonicalHost is the one way in which this package reads a host name, be it
// from a TLS server name, a Host header, an :authority or a configuration:
// without port, in lower case, without trailing dot, internationalised names
// as A-labels, addresses in their shortest form and without brackets. It
// reports false for what is not a host. Nothing else may compare hosts.
func canonicalHost(s string) (string, bool) {
	if n := plainHost(s); n > 0 && validPortSuffix(s[n:]) {
		return s[:n], true
	}
	if len(s) > maxHostBytes {
		return "", false
	}
	host := s
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 || !validPortSuffix(host[end+1:]) {
			return "", false
		}
		return canonicalIPv6(host[1:end])
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPortSuffix(host[i:]) {
			return "", false
		}
		host = host[:i]
	}
	if host == "." {
		return "", false
	}
	host = strings.TrimSuffix(host, ".")

	lower := true
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		case 'A' <= c && c <= 'Z':
			lower = false
		case c >= 0x80:
			if !utf8.ValidString(host) {
				return "", false
			}
			ascii, err := idna.Lookup.ToASCII(host)
			if err != nil {
				return "", false
			}
			return ascii, validHostLength(ascii)
		default:
			return "", false
		}
	}
	if !lower {
		host = strings.ToLower(host)
	}
	return host, validHostLength(host)
}

// plainHost returns the length of the host that s begins with, if that is in
// canonical form already, as most are.
func plainHost(s string) int {
	n, label := 0, 0
	for n < len(s) && n <= 253 {
		switch c := s[n]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			label++
		case c == '.' && label > 0 && label <= 63:
			label = 0
		case c == ':' && label > 0 && label <= 63:
			return n
		default:
			return 0
		}
		n++
	}
	if n > 253 || label == 0 || label > 63 {
		return 0
	}
	return n
}

// maxHostBytes is more than any name of 253 bytes has before it is turned into
// A-labels, and bounds the work of doing so.
const maxHostBytes = 1024

// canonicalIPv6 reads an IPv6 address. Zones are for the machine they are on.
func canonicalIPv6(s string) (string, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", false
	}
	return addr.Unmap().String(), true
}

// configuredHost reads a host in a configuration, where there is no port, and
// an IPv6 address needs no brackets.
func configuredHost(s string) (string, bool) {
	if strings.Contains(s, ":") {
		if host, ok := canonicalIPv6(s); ok {
			return host, true
		}
	}
	host, ok := canonicalHost(s)
	if !ok || host == "" || strings.Contains(s, ":") && !strings.HasSuffix(s, "]") {
		return "", false
	}
	// What ends in a number is meant as an address (RFC 3986 section 3.2.2), and
	// a mistake in it would be looked up as a name.
	for i := len(host) - 1; i >= 0 && host[i] != '.'; i-- {
		if host[i] < '0' || host[i] > '9' {
			return host, true
		}
	}
	_, err := netip.ParseAddr(host)
	return host, err == nil
}

// validHostLength checks the lengths of RFC 1035 section 2.3.4 and that no
// label is empty. The empty host is valid: a request may come without one.
func validHostLength(host string) bool {
	if host == "" {
		return true
	}
	if len(host) > 253 {
		return false
	}
	label := 0
	for i := 0; i < len(host); i++ {
		if host[i] != '.' {
			label++
			continue
		}
		if label == 0 || label > 63 {
			return false
		}
		label = 0
	}
	return label > 0 && label <= 63
}

// validPortSuffix accepts "" and ":" with up to five digits (RFC 3986 allows
// the port to be empty).
func validPortSuffix(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) > 6 {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// domainPattern reads a domain of a Match: an exact name (kind exactDomain),
// a wildcard for one label (wildDomain, whose name is what follows "*."), or
// "*" (anyDomain).
func domainPattern(s string) (kind domainKind, name string, ok bool) {
	if s == "*" {
		return anyDomain, "", true
	}
	kind = exactDomain
	if rest, wild := strings.CutPrefix(s, "*."); wild {
		kind, s = wildDomain, rest
	}
	name, ok = configuredHost(s)
	return kind, name, ok
}

// domain is a domain pattern that has been read.
type domain struct {
	kind domainKind
	name string
}

// domains reads the domains of a Match. It reports false if one is not a domain.
func (m *Match) domains() ([]domain, bool) {
	if len(m.Domains) == 0 {
		return nil, true
	}
	list := make([]domain, len(m.Domains))
	for i, s := range m.Domains {
		kind, name, ok := domainPattern(s)
		if !ok {
			return nil, false
		}
		list[i] = domain{kind, name}
	}
	return list, true
}

// domainKind orders domain patterns from the least to the most specific.
type domainKind int

const (
	anyDomain domainKind = iota
	wildDomain
	exactDomain
)
