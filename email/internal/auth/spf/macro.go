package spf

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// macros is a macro-string (RFC 7208 section 7.1), read. It is never nil.
type macros []macro

// A macro is a literal text, or a letter with transformers.
type macro struct {
	literal    string
	letter     byte // in lower case, 0 for a literal
	keep       int  // labels at the right, 0 for all
	reverse    bool
	delimiters string
	escape     bool // the letter is in upper case
}

// parseDomainSpec reads a macro-string that ends like a domain: in a macro, or
// in a top label, which is not of digits alone.
func parseDomainSpec(s string) (macros, error) {
	list, err := parseMacros(s, false)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("the domain is missing")
	}
	if end := list[len(list)-1]; end.letter == 0 {
		// "%%", "%_" and "%-" are macros too, but no name has a "%" or space.
		dot := strings.LastIndexByte(strings.TrimSuffix(s, "."), '.')
		if dot < 0 || !isTopLabel(strings.TrimSuffix(s, ".")[dot+1:]) {
			return nil, fmt.Errorf("%q does not end in a top-level domain", short(s))
		}
	}
	return list, nil
}

func isTopLabel(s string) bool {
	digits := true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-':
			digits = false
		default:
			return false
		}
	}
	return s != "" && !digits && s[0] != '-' && s[len(s)-1] != '-'
}

// parseMacros reads a macro-string, or the text of an explanation, which may
// have spaces and the letters c, r and t.
func parseMacros(s string, text bool) (macros, error) {
	list := macros{}
	for s != "" {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return append(list, macro{literal: s}), nil
		}
		if i > 0 {
			list, s = append(list, macro{literal: s[:i]}), s[i:]
		}
		if len(s) < 2 {
			return nil, errors.New("it ends in %")
		}
		switch s[1] {
		case '%':
			list = append(list, macro{literal: "%"})
		case '_':
			list = append(list, macro{literal: " "})
		case '-':
			list = append(list, macro{literal: "%20"})
		case '{':
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return nil, errors.New("a macro does not end")
			}
			m, err := parseMacro(s[2:end], text)
			if err != nil {
				return nil, err
			}
			list, s = append(list, m), s[end+1:]
			continue
		default:
			return nil, fmt.Errorf("%%%q is no macro", s[1])
		}
		s = s[2:]
	}
	return list, nil
}

func parseMacro(s string, text bool) (macro, error) {
	bad := fmt.Errorf("%q is no macro", short(s))
	if s == "" {
		return macro{}, bad
	}
	m := macro{letter: s[0] | 0x20, escape: s[0] < 'a'}
	if letters := "slodiphvcrt"; !strings.Contains(letters, string(rune(m.letter))) || !text && strings.Contains("crt", string(rune(m.letter))) {
		return macro{}, bad
	}
	s = s[1:]
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits > 0 {
		n, err := strconv.ParseUint(s[:digits], 10, 32)
		if err != nil || n == 0 {
			return macro{}, bad
		}
		m.keep, s = int(min(n, 128)), s[digits:]
	}
	if s != "" && s[0]|0x20 == 'r' {
		m.reverse, s = true, s[1:]
	}
	if strings.Trim(s, ".-+,/_=") != "" {
		return macro{}, bad
	}
	m.delimiters = s
	return m, nil
}

// maxName is RFC 1035 section 2.3.4 in characters.
const maxName = 253

// checkName checks what is asked of DNS: labels of 1 to 63 bytes, more than one
// of them, not too many (RFC 7208 section 4.3).
func checkName(name string) error {
	name = strings.TrimSuffix(name, ".")
	labels := strings.Split(name, ".")
	if len(name) > maxName || len(labels) < 2 {
		return errors.New("it is no domain name")
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return errors.New("it is no domain name")
		}
	}
	return nil
}

// target is the name that a domain-spec stands for, cut at the left if it is too
// long (RFC 7208 section 7.3), without a final dot.
func (e *evaluation) target(spec macros, domain string) string {
	name := strings.TrimSuffix(e.expand(spec, domain), ".")
	for len(name) > maxName {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return ""
		}
		name = rest
	}
	return name
}

// maxExpanded bounds a text: 450 bytes of macros could stand for far more.
const maxExpanded = 2048

func (e *evaluation) expand(list macros, domain string) string {
	var out strings.Builder
	for _, m := range list {
		text := m.literal
		if m.letter != 0 {
			text = m.transform(e.value(m.letter, domain))
		}
		if out.Len()+len(text) > maxExpanded {
			return ""
		}
		out.WriteString(text)
	}
	return out.String()
}

func (m macro) transform(text string) string {
	if m.keep > 0 || m.reverse || m.delimiters != "" {
		delimiters := m.delimiters
		if delimiters == "" {
			delimiters = "."
		}
		parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(delimiters, r) })
		if m.reverse {
			slices.Reverse(parts)
		}
		if m.keep > 0 && m.keep < len(parts) {
			parts = parts[len(parts)-m.keep:]
		}
		text = strings.Join(parts, ".")
	}
	if !m.escape {
		return text
	}
	var out strings.Builder
	for i := range len(text) { // all but "unreserved" of RFC 3986
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// value is what a letter stands for (RFC 7208 section 7.2).
func (e *evaluation) value(letter byte, domain string) string {
	switch letter {
	case 's':
		return e.local + "@" + e.senderDomain
	case 'l':
		return e.local
	case 'o':
		return e.senderDomain
	case 'd':
		return domain
	case 'i':
		return dotted(e.IP.AsSlice())
	case 'p':
		return e.clientName(domain)
	case 'v':
		if e.IP.Is4() {
			return "in-addr"
		}
		return "ip6"
	case 'h':
		return e.Helo
	case 'c':
		return e.IP.String()
	case 'r':
		if e.Hostname == "" {
			return "unknown"
		}
		return e.Hostname
	default: // t
		return strconv.FormatInt(e.Now.Unix(), 10)
	}
}

// dotted is an address in the form of in-addr.arpa or ip6.arpa, forwards.
func dotted(ip []byte) string {
	var parts []string
	for _, b := range ip {
		if len(ip) == 4 {
			parts = append(parts, strconv.Itoa(int(b)))
		} else {
			parts = append(parts, strconv.FormatInt(int64(b>>4), 16), strconv.FormatInt(int64(b&15), 16))
		}
	}
	return strings.Join(parts, ".")
}

// clientName is the name of the client for %{p}: best the domain itself or one
// below it.
func (e *evaluation) clientName(domain string) string {
	names, _ := e.clientNames()
	best := "unknown"
	for i, name := range names {
		if name == domain {
			return name
		}
		if below := lookup.Within(name, domain); below && !lookup.Within(best, domain) || i == 0 {
			best = name
		}
	}
	return best
}

// maxExplanation bounds what is passed on to a client.
const maxExplanation = 400

// explain returns the explanation that a domain gives, or "" (RFC 7208 section
// 6.2): whatever is wrong with it, the result stays.
func (e *evaluation) explain(x *explanation) string {
	name := e.target(x.spec, x.domain)
	if checkName(name) != nil {
		return ""
	}
	list, err := lookup.TXT(e.ctx, e.resolver, name)
	if err != nil || len(list) != 1 {
		return ""
	}
	text, err := parseMacros(list[0], true)
	if err != nil {
		return ""
	}
	out := e.expand(text, x.domain)
	for i := range len(out) {
		if out[i] < ' ' || out[i] > '~' {
			return ""
		}
	}
	return out[:min(len(out), maxExplanation)]
}
