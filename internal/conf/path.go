package conf

import (
	"strconv"
	"strings"
)

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
func (p *path) String() string {
	var steps []*path
	for ; p != nil; p = p.up {
		steps = append(steps, p)
	}
	var b strings.Builder
	for i := len(steps) - 1; i >= 0; i-- {
		steps[i].appendTo(&b)
	}
	return b.String()
}

func (p *path) appendTo(b *strings.Builder) {
	switch {
	case p.kind == indexStep:
		b.WriteString("[" + strconv.Itoa(p.index) + "]")
	case p.kind == fieldStep && plainName(p.name):
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(p.name)
	default:
		b.WriteString("[" + shortQuote(p.name) + "]")
	}
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
