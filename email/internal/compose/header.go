package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-message/textproto"
)

// preferredLine is how long a line should be at most, in characters (RFC 5322
// section 2.1.1, RFC 2047 section 2).
const preferredLine = 76

// header makes a header section of fields in this order.
func header(fields []field) textproto.Header {
	var h textproto.Header
	for _, f := range slices.Backward(fields) { // each goes in front of the others
		h.AddRaw(fold(f))
	}
	return h
}

// fold writes a field. Lines are broken at spaces where they are too long, but
// none is left with spaces only: that would end the header section for some
// readers. A value that was broken already stays so.
func fold(f field) []byte {
	b := append(make([]byte, 0, len(f.name)+len(f.value)+16), f.name...)
	b = append(b, ':')
	if strings.Contains(f.value, "\r\n") {
		return append(append(append(b, ' '), f.value...), "\r\n"...)
	}
	line := len(b)
	for i, word := range strings.Split(f.value, " ") {
		if i > 0 && word != "" && line+1+len(word) > preferredLine {
			b, line = append(b, "\r\n"...), 0
		}
		b = append(append(b, ' '), word...)
		line += 1 + len(word)
	}
	return append(b, "\r\n"...)
}

// withParams writes a value with parameters (RFC 2045 section 5.1), each on a line
// of its own.
func withParams(value string, params map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		value += ";\r\n " + param(name, params[name])
	}
	return value
}

// param writes a parameter as a token, in quotes, or by RFC 2231 section 4, if it is
// not ASCII or has characters that some readers take for more than themselves.
func param(name, value string) string {
	if isASCII(value) && !strings.ContainsAny(value, "\\\"'%") && !strings.Contains(value, "=?") {
		if value != "" && !strings.ContainsFunc(value, func(r rune) bool { return !isAlphanumeric(byte(r)) && !strings.ContainsRune("-._+", r) }) {
			return name + "=" + value
		}
		return name + `="` + value + `"`
	}
	var b strings.Builder
	b.WriteString(name + "*=utf-8''")
	for i := range len(value) {
		if c := value[i]; isAlphanumeric(c) || strings.IndexByte("-._", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func addressList(list []mailbox) string {
	all := make([]string, len(list))
	for i, m := range list {
		all[i] = m.addr.String()
		if m.name != "" {
			all[i] = phrase(m.name) + " <" + all[i] + ">"
		}
	}
	return strings.Join(all, ", ")
}
