// Package authres writes the header field Authentication-Results, and finds those
// that a stranger has written in our name (RFC 8601).
//
// The tests let go-msgauth read what is written here; what strangers have a word
// in is not for it. Writing, it does not escape a backslash, so that a reason of
// `\"; spf=pass` becomes a result of its own, and does not quote "[192.0.2.1]",
// the name of many clients, after which a strict reader has none of the results.
// Reading, it knows no comments and no quotes, in which a forged field may wrap
// our name.
package authres

import (
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// A Result is what one method found.
type Result struct {
	Method string // "spf"
	Value  string // "pass"
	Reason string // why, or empty
	Props  []Prop
}

// A Prop is a property that was checked: "smtp.mailfrom" of "example.com".
type Prop struct{ Name, Value string }

// Value returns what follows the field's name: the id of the server that
// authenticated, and the results, folded, without a line end after the last.
// Whatever does not fit into a token is quoted, and bytes that are not printable
// ASCII become "?".
func Value(id string, results []Result) []byte {
	out := []byte(tokenOrQuoted(id))
	if len(results) == 0 {
		return append(out, "; none"...)
	}
	for _, r := range results {
		line := len(r.Method) + 1 + len(r.Value) + 1
		out = append(out, ";\r\n\t"+r.Method+"="+r.Value...)
		add := func(text string) {
			if line+1+len(text) > 76 {
				out, line = append(out, "\r\n\t "...), 2
			} else {
				out, line = append(out, ' '), line+1
			}
			out, line = append(out, text...), line+len(text)
		}
		if r.Reason != "" {
			add("reason=" + quote(r.Reason))
		}
		for _, p := range r.Props {
			if p.Value != "" {
				add(p.Name + "=" + word(p.Value))
			}
		}
	}
	return out
}

// word returns a value as it is, if it is a token or an address of tokens, else
// quoted (RFC 8601 section 2.2).
func word(s string) string {
	if local, domain, ok := strings.Cut(s, "@"); ok && isToken(local) && isToken(domain) {
		return s
	}
	return tokenOrQuoted(s)
}

func tokenOrQuoted(s string) string {
	if isToken(s) {
		return s
	}
	return quote(s)
}

// isToken is "token" of RFC 2045 section 5.1.
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	return c > ' ' && c <= '~' && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

// maxQuoted keeps lines below the 998 bytes of RFC 5322 section 2.1.1.
const maxQuoted = 256

func quote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for i := range min(len(s), maxQuoted) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out.WriteByte('\\')
			out.WriteByte(c)
		case c < ' ' || c > '~':
			out.WriteByte('?')
		default:
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// A Range is a part of a message in bytes, from its start.
type Range struct{ Start, End int64 }

// Forged returns where in a message the fields Authentication-Results are that
// claim to be of this server, to leave them out (RFC 8601 section 5), and those
// of which cannot be said whose they are. The header is all of the message's
// header section.
func Forged(h message.Header, id string) []Range {
	id = canonical(id)
	var list []Range
	var at int64
	for _, f := range h {
		end := at + int64(len(f.Raw))
		if strings.EqualFold(f.Name, "Authentication-Results") {
			if server, ok := ServerID(f); !ok || canonical(server) == id {
				list = append(list, Range{at, end})
			}
		}
		at = end
	}
	return list
}

func canonical(id string) string {
	if name, err := lookup.Domain(id); err == nil {
		return name
	}
	return strings.ToLower(id)
}

// ServerID reads the id of the server from a field: a token or quoted string
// between comments (RFC 8601 section 2.2).
func ServerID(f message.Field) (id string, ok bool) {
	_, value, _ := strings.Cut(string(f.Raw), ":")
	value, ok = skipComments(value)
	if !ok || value == "" {
		return "", false
	}
	var out strings.Builder
	if value[0] != '"' {
		end := 0
		for end < len(value) && (isTokenByte(value[end]) || value[end] >= 0x80) {
			end++
		}
		out.WriteString(value[:end])
		value = value[end:]
	} else {
		i := 1
		for ; i < len(value) && value[i] != '"'; i++ {
			if value[i] == '\\' && i+1 < len(value) {
				i++
			}
			if c := value[i]; c != '\r' && c != '\n' {
				out.WriteByte(c)
			}
		}
		if i >= len(value) {
			return "", false
		}
		value = value[i+1:]
	}
	if value, ok = skipComments(value); !ok {
		return "", false
	}
	// A version may follow; then come the results.
	if version := len(value) - len(strings.TrimLeft(value, "0123456789")); version > 0 {
		if value, ok = skipComments(value[version:]); !ok {
			return "", false
		}
	}
	return out.String(), out.Len() > 0 && (value == "" || value[0] == ';')
}

// skipComments skips white space and comments, which may nest.
func skipComments(s string) (rest string, ok bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && depth > 0:
			i++
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth > 0, c == ' ', c == '\t', c == '\r', c == '\n':
		default:
			return s[i:], true
		}
	}
	return "", depth == 0
}
