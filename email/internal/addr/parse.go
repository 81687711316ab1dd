package addr

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// parseLocal reads a Local-part and says what comes behind it.
func parseLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		local, rest, err = parseQuoted(s)
	} else {
		end := strings.IndexByte(s, '@')
		if end < 0 {
			end = len(s)
		}
		local, rest = s[:end], s[end:]
		if !isDotString(local) {
			err = errors.New("invalid local part")
		}
	}
	switch {
	case err != nil:
		return "", "", err
	case local == "":
		return "", "", errors.New("the local part is empty")
	case !isText(local):
		return "", "", errors.New("invalid UTF-8 or a control character in the local part")
	}
	return local, rest, nil
}

// parseQuoted reads a Quoted-string.
func parseQuoted(s string) (local, rest string, err error) {
	plain := true // nothing to take away
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			plain = false
			i++
		case '"':
			local, rest = s[1:i], s[i+1:]
			if !plain {
				local = unquote(local)
			}
			return local, rest, nil
		}
	}
	return "", "", errors.New("a quote is not closed")
}

func unquote(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// isDotString knows what may stand unquoted: atoms with single dots between
// them (RFC 5321 section 4.1.2).
func isDotString(s string) bool {
	atom := false // in one
	for i := range len(s) {
		if s[i] != '.' && !isAtomText(s[i]) || s[i] == '.' && !atom {
			return false
		}
		atom = s[i] != '.'
	}
	return atom
}

// isAtomText is atext of RFC 5322 section 3.2.3, with what RFC 6531 section
// 3.3 adds.
func isAtomText(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c >= utf8.RuneSelf || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// isText refuses what could be taken for the end of a line or vanish from sight
// in a log.
func isText(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// ParseDomain reads a domain, in U-labels or A-labels, or an address literal
// (RFC 5321 section 4.1.3), and returns its canonical form.
func ParseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	if len(s) > 4*maxDomain { // U-labels can be longer than A-labels, but not so much
		return "", errors.New("the domain is too long")
	}
	if s = lower(s); !isASCII(s) || strings.Contains(s, "xn--") {
		ascii, err := idna.Lookup.ToASCII(s)
		if err != nil || !isText(s) { // idna takes what is no UTF-8
			return "", errors.New("invalid internationalized domain")
		}
		s = ascii
	}
	if len(s) > maxDomain {
		return "", errors.New("the domain is too long")
	}
	if !isDomain(s) {
		return "", errors.New("invalid domain")
	}
	return s, nil
}

// isDomain takes underscores, which RFC 5321 does not: hosts have such names,
// and send mail.
func isDomain(s string) bool {
	label := 0 // its length so far
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			label++
		case c == '-' && label > 0:
			label++
		case c == '.' && label > 0 && s[i-1] != '-':
			label = 0
			continue
		default:
			return false
		}
		if label > 63 {
			return false
		}
	}
	return label > 0 && s[len(s)-1] != '-'
}

// lower makes ASCII letters small; idna does the others.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func parseLiteral(s string) (string, error) {
	invalid := errors.New("invalid address literal")
	inside, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return "", invalid
	}
	const tag = "ipv6:"
	if len(inside) > len(tag) && strings.EqualFold(inside[:len(tag)], tag) {
		ip, err := netip.ParseAddr(inside[len(tag):])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", invalid
		}
		return "[IPv6:" + ip.String() + "]", nil
	}
	ip, err := netip.ParseAddr(inside)
	if err != nil || !ip.Is4() {
		return "", invalid
	}
	return "[" + ip.String() + "]", nil
}
