package message

import (
	"slices"
	"strconv"
	"strings"
)

// parseValue reads a value with parameters, as that of Content-Type (RFC 2045
// section 5.1), in whatever shape real mailers give it: unquoted values with
// spaces, raw 8-bit text, encoded words where RFC 2231 wants its own. Of repeated
// parameters the first counts, and ok is false.
func parseValue(s string) (value string, params map[string]string, ok bool) {
	value, rest := cutAt(s, ';')
	value = strings.ToLower(strings.TrimSpace(stripComment(value)))
	list := splitParams(rest)
	params = make(map[string]string, len(list))
	ok = true
	for _, p := range list {
		if _, known := params[p.name]; known {
			ok = false
			continue
		}
		params[p.name] = p.value
	}
	return value, params, ok
}

// addNames adds the file names of a field: of the parameter, and of its forms
// with "*", which some clients prefer and others do not know.
func (p *Part) addNames(value, name string) {
	_, rest := cutAt(value, ';')
	for _, param := range splitParams(rest) {
		if param.name != name {
			continue
		}
		file := param.value
		if i := strings.LastIndexAny(file, `/\`); i >= 0 {
			file = file[i+1:]
		}
		if file != "" && len(p.Names) < maxNames && !slices.Contains(p.Names, file) {
			p.Names = append(p.Names, file)
		}
	}
}

// maxNames bounds [Part.Names]; there are four ways to give one.
const maxNames = 8

type param struct{ name, value string }

// A piece is a part of a parameter by RFC 2231 section 3.
type piece struct {
	n       int
	value   string
	percent bool
}

// splitParams reads parameters: first those of RFC 2231, which are meant to be
// preferred, then the plain ones, each in the order in which they come.
func splitParams(s string) []param {
	var plain, order []param
	pieces := map[string][]piece{}
	for s != "" {
		var item string
		item, s = cutAt(s, ';')
		key, value, found := strings.Cut(item, "=")
		if !found {
			continue
		}
		key = strings.ToLower(strings.TrimSpace(key))
		value = unquote(value)
		name, n, percent := sectionOf(key)
		if name == "" {
			if key != "boundary" { // which is bytes, not text
				value = DecodeHeader(value)
			}
			plain = append(plain, param{key, value})
			continue
		}
		if pieces[name] == nil {
			order = append(order, param{name: name})
		}
		pieces[name] = append(pieces[name], piece{n, value, percent})
	}
	for i, p := range order {
		order[i].value = joinSections(pieces[p.name])
	}
	return append(order, plain...)
}

// sectionOf takes "name*", "name*1" and "name*1*" apart. The name is "" for a
// plain parameter.
func sectionOf(key string) (name string, n int, percent bool) {
	name, rest, found := strings.Cut(key, "*")
	if !found {
		return "", 0, false
	}
	if rest == "" {
		return name, 0, true
	}
	digits, percent := strings.CutSuffix(rest, "*")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 {
		return "", 0, false
	}
	return name, n, percent
}

// joinSections puts the pieces of a parameter together and decodes them.
func joinSections(list []piece) string {
	slices.SortStableFunc(list, func(a, b piece) int { return a.n - b.n })
	var text []byte
	charset, encoded := "", false
	for i, s := range list {
		if !s.percent {
			text = append(text, s.value...)
			continue
		}
		value := s.value
		if parts := strings.SplitN(value, "'", 3); i == 0 && len(parts) == 3 {
			charset, value = parts[0], parts[2]
		}
		text = append(text, unescapePercent(value)...)
		encoded = true
	}
	if !encoded {
		return DecodeHeader(string(text))
	}
	if charset == "" && strings.Contains(string(text), "=?") {
		return DecodeHeader(string(text))
	}
	return clean(decodeCharset(charset, text))
}

func unescapePercent(s string) []byte {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return b
}

// cutAt cuts at the first sep outside of quotes.
func cutAt(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			// A quote that nobody closes begins no string.
			quoted = !quoted && strings.IndexByte(s[i+1:], '"') >= 0
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// unquote takes the value of a parameter out of its quotes. A backslash escapes
// quotes and itself only: what else it stands before are paths of Windows.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, `"`) {
		return strings.TrimSpace(stripComment(s))
	}
	var b strings.Builder
	for i := 1; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
			i++
		}
		b.WriteByte(s[i])
	}
	return strings.TrimSpace(b.String())
}

// stripComment cuts a comment off, as in "text/plain (the usual)".
func stripComment(s string) string {
	for i := range len(s) {
		if s[i] == '(' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') && strings.HasSuffix(strings.TrimSpace(s), ")") {
			return s[:i]
		}
	}
	return s
}

func isToken(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?=`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}
