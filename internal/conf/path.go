package conf

import "strconv"

// path is where a value stands. Paths are linked upwards, so that walking a
// configuration costs no strings until something is wrong. Nil is the root.
type path struct {
	up    *path
	kind  stepKind
	name  string // of a field or key
	index int    // of an element
}

type stepKind uint8

const (
	fieldStep stepKind = iota
	keyStep
	indexStep
)

func (p *path) field(name string) *path { return &path{up: p, kind: fieldStep, name: name} }
func (p *path) key(name string) *path   { return &path{up: p, kind: keyStep, name: name} }
func (p *path) element(i int) *path     { return &path{up: p, kind: indexStep, index: i} }

// String writes the path as in routes[3].match.headers["X-A"].
func (p *path) String() string { return string(p.append(nil)) }

// append adds the path to b. It recurses, because a list of the steps would
// move each of them to the heap, also of all the fields that nothing is wrong
// with.
func (p *path) append(b []byte) []byte {
	if p == nil {
		return b
	}
	b = p.up.append(b)
	switch {
	case p.kind == indexStep:
		b = append(b, '[')
		b = strconv.AppendInt(b, int64(p.index), 10)
		return append(b, ']')
	case p.kind == fieldStep && plainName(p.name):
		if len(b) > 0 {
			b = append(b, '.')
		}
		return append(b, p.name...)
	}
	b = append(b, '[')
	b = append(b, shortQuote(p.name)...)
	return append(b, ']')
}

// plainName tells names that can stand in a path without quotes. Unknown
// fields can have any name.
func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
		digit := c >= '0' && c <= '9' || c == '-'
		if !letter && (i == 0 || !digit) {
			return false
		}
	}
	return s != "" && len(s) <= maxShown
}

// maxShown is how much of a value an error shows, in characters.
const maxShown = 60

func shortQuote(s string) string {
	if len(s) > maxShown {
		if runes := []rune(s[:min(len(s), 4*maxShown+4)]); len(runes) > maxShown {
			return strconv.Quote(string(runes[:maxShown])) + "..."
		}
	}
	return strconv.Quote(s)
}
