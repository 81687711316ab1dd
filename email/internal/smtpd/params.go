package smtpd

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// vetParams looks at the parameters of MAIL and RCPT (RFC 5321 section 4.1.2):
// well-formed, and none twice, of which go-smtp would take one. SIZE and AUTH of
// MAIL are the guard's; it returns the others, for go-smtp.
func (g *guard) vetParams(verb, s string) (rest string, refusal *Reply) {
	malformed := newReply(501, 5, 5, 4, "Malformed parameter")
	if s == "" {
		return "", nil
	}
	if s[0] != ' ' {
		return "", malformed
	}
	var seen []string
	for param := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ' ' }) {
		keyword, value, hasValue := strings.Cut(param, "=")
		keyword = strings.ToUpper(keyword)
		if !isKeyword(keyword) || hasValue && !isValue(value) {
			return "", malformed
		}
		for _, k := range seen {
			if k == keyword {
				return "", newReply(501, 5, 5, 4, "A parameter is there twice")
			}
		}
		if seen = append(seen, keyword); len(seen) > maxParams {
			return "", malformed
		}
		switch {
		case keyword == "SIZE" && verb == "MAIL":
			if g.path.size, refusal = parseSize(value); refusal != nil {
				return "", refusal
			}
			continue
		case keyword == "AUTH" && verb == "MAIL":
			// Who has submitted the message to begin with. It may be taken
			// for "<>", and nothing is to be believed here (RFC 4954 section 5).
			if value == "" {
				return "", malformed
			}
			continue
		case keyword == "SMTPUTF8" || keyword == "REQUIRETLS":
			if hasValue {
				return "", malformed
			}
		}
		rest += " " + param
	}
	return rest, nil
}

const maxParams = 16

// parseSize reads up to 20 digits (RFC 1870 section 4).
func parseSize(s string) (int64, *Reply) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && len(s) <= 20 && s != "" && strings.Trim(s, "0123456789") == "" || n > 1<<62 {
		return 1 << 62, nil // more than anyone takes
	}
	if err != nil {
		return 0, newReply(501, 5, 5, 4, "Malformed SIZE")
	}
	return int64(n), nil
}

func isKeyword(s string) bool {
	for i, c := range []byte(s) {
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// isValue takes UTF-8, as ORCPT may have it (RFC 6533 section 3), but no space of
// any kind: go-smtp would begin another parameter there.
func isValue(s string) bool {
	for _, r := range s {
		if r == '=' || r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r) {
			return false
		}
	}
	return s != ""
}
