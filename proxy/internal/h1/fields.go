package h1

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// Field is one line of a header or trailer section. Its name is in canonical
// form, as in http.Header.
type Field struct{ Name, Value string }

// Fields are the lines of a header section, in any order.
type Fields []Field

// Get returns the first value of a field.
func (f Fields) Get(name string) string {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field of this name.
func (f Fields) Has(name string) bool {
	return slices.ContainsFunc(f, func(line Field) bool { return line.Name == name })
}

// Values returns all values of a field.
func (f Fields) Values(name string) []string {
	var values []string
	for i := range f {
		if f[i].Name == name {
			values = append(values, f[i].Value)
		}
	}
	return values
}

// Join returns all values of a field as one, RFC 9110 section 5.3.
func (f Fields) Join(name string) string {
	values := f.Values(name)
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values, ", ")
}

// Add appends a line.
func (f Fields) Add(name, value string) Fields { return append(f, Field{name, value}) }

// Set replaces all lines of this name by one.
func (f Fields) Set(name, value string) Fields { return f.Del(name).Add(name, value) }

// Del removes all lines of this name. It works in place.
func (f Fields) Del(name string) Fields {
	return slices.DeleteFunc(f, func(line Field) bool { return line.Name == name })
}

// Sort orders the lines by name; those of one name stay as they are. A header
// section has few lines, so the simplest way is also the fastest.
func (f Fields) Sort() {
	for i := 1; i < len(f); i++ {
		for j := i; j > 0 && f[j].Name < f[j-1].Name; j-- {
			f[j], f[j-1] = f[j-1], f[j]
		}
	}
}

// HasToken reports whether a comma-separated list has a token, whatever its
// case.
func HasToken(list, token string) bool {
	if strings.EqualFold(list, token) {
		return true
	}
	for part := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(trim(part), token) {
			return true
		}
	}
	return false
}

// Valid reports whether the lines can be written without becoming others.
func (f Fields) Valid() bool {
	for i := range f {
		if !isToken(f[i].Name) || !isFieldValue(f[i].Value) {
			return false
		}
	}
	return true
}

// IsToken checks RFC 9110 section 5.6.2: names, methods.
func IsToken(s string) bool { return isToken(s) }

// Append writes the lines to b.
func (f Fields) Append(b []byte) []byte {
	for i := range f {
		b = AppendField(b, f[i].Name, f[i].Value)
	}
	return b
}

// AppendField writes one line to b.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// FromHeader appends the lines of h, sorted.
func (f Fields) FromHeader(h http.Header) Fields {
	for name, values := range h {
		for _, value := range values {
			f = append(f, Field{name, value})
		}
	}
	slices.SortStableFunc(f, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// Header returns the lines as net/http has them.
func (f Fields) Header() http.Header {
	h := make(http.Header, len(f))
	values := make([]string, len(f)) // one allocation for all of them
	for i := range f {
		name := f[i].Name
		if prior := h[name]; prior != nil {
			h[name] = append(prior, f[i].Value)
			continue
		}
		values[i] = f[i].Value
		h[name] = values[i : i+1 : i+1]
	}
	return h
}

// parseFields reads the lines of a header section up to its empty line, which
// ends s. A limit on their number bounds what they cost beyond their bytes.
func parseFields(fields Fields, s string, lenient bool) (Fields, error) {
	for {
		line, rest, ok := cutLine(s, lenient)
		if !ok {
			return fields, malformed("a header line does not end in CRLF")
		}
		if line == "" {
			if rest != "" {
				return fields, malformed("bytes after the head")
			}
			return fields, nil
		}
		if len(fields) == maxFields {
			return fields, malformed("too many header lines")
		}
		s = rest
		colon := strings.IndexByte(line, ':')
		if colon <= 0 {
			return fields, malformed("a header line without a name") // or a fold
		}
		name, value := line[:colon], trim(line[colon+1:])
		if !isToken(name) {
			return fields, malformed("a header name with characters that none may have")
		}
		if !isFieldValue(value) {
			return fields, malformed("a header value with control characters")
		}
		fields = append(fields, Field{textproto.CanonicalMIMEHeaderKey(name), value})
	}
}

// maxFields bounds the lines of a header section.
const maxFields = 256

// cutLine takes a line off s. Only a lenient reader takes a bare LF for its
// end.
func cutLine(s string, lenient bool) (line, rest string, ok bool) {
	i := strings.IndexByte(s, '\n')
	if i < 0 {
		return "", "", false
	}
	if i > 0 && s[i-1] == '\r' {
		return s[:i-1], s[i+1:], true
	}
	return s[:i], s[i+1:], lenient
}

// trim removes optional white space, RFC 9110 section 5.6.3.
func trim(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// isToken checks RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// isFieldValue checks RFC 9110 section 5.5: no control characters but tabs.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
