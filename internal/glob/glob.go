// Package glob matches text against the patterns of configurations: a glob, in
// which * is any run of characters and ? is any one, or a regular expression
// (RE2) written /.../, or /.../i to disregard case.
//
// Matching takes time proportional to the text, whatever the pattern: there is
// no backtracking.
package glob

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxLength bounds a pattern, in bytes.
const maxLength = 1024

// Pattern is a compiled pattern, safe for concurrent use. The zero Pattern
// matches only the empty string.
type Pattern struct {
	text string
	fold bool
	re   *regexp.Regexp // nil for a glob

	// segments is the glob cut at its stars: the text must begin with the
	// first, end with the last and have the others between, in order.
	segments []segment
}

// segment is a piece of a glob without stars.
type segment struct {
	text string
	any  bool // text has ? in it
}

// Parse compiles s. A glob is compared with the whole text, and exactly; a
// regular expression is searched for.
func Parse(s string) (Pattern, error) { return parse(s, false) }

// ParseFold is Parse for a pattern that disregards case.
func ParseFold(s string) (Pattern, error) { return parse(s, true) }

// Compile takes s for a glob, also if it is written as Parse wants a regular
// expression. Any text is a glob.
func Compile(s string) Pattern { return compile(s, false) }

func parse(s string, fold bool) (Pattern, error) {
	if len(s) > maxLength {
		return Pattern{}, fmt.Errorf("a pattern of %d bytes is too long, the limit is %d", len(s), maxLength)
	}
	if !utf8.ValidString(s) {
		return Pattern{}, errors.New("a pattern that is not UTF-8")
	}
	if expr, flag, ok := cutRegexp(s); ok {
		return parseRegexp(s, expr, fold || flag)
	}
	return compile(s, fold), nil
}

func compile(s string, fold bool) Pattern {
	p := Pattern{text: s, fold: fold}
	body := s
	if fold {
		body = Fold(s)
	}
	for text := range strings.SplitSeq(body, "*") {
		p.segments = append(p.segments, segment{text, strings.Contains(text, "?")})
	}
	return p
}

// cutRegexp takes a regular expression out of its slashes.
func cutRegexp(s string) (expr string, fold, ok bool) {
	expr, ok = strings.CutPrefix(s, "/")
	if !ok {
		return "", false, false
	}
	if inner, ok := strings.CutSuffix(expr, "/i"); ok {
		return inner, true, true
	}
	expr, ok = strings.CutSuffix(expr, "/")
	return expr, false, ok
}

func parseRegexp(s, expr string, fold bool) (Pattern, error) {
	if expr == "" {
		return Pattern{}, errors.New("an empty regular expression")
	}
	// Compiled as it is first, for errors that show what was written.
	re, err := regexp.Compile(expr)
	if err == nil && fold {
		re, err = regexp.Compile("(?i)" + expr)
	}
	if err != nil {
		return Pattern{}, fmt.Errorf("not a regular expression: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return Pattern{text: s, fold: fold, re: re}, nil
}

// String returns the pattern as it was given to Parse.
func (p Pattern) String() string { return p.text }

// Literal returns the one text that p matches, if it matches only one. Of a
// pattern that disregards case it is the form that [Fold] gives.
func (p Pattern) Literal() (string, bool) {
	switch {
	case p.re != nil || len(p.segments) > 1:
		return "", false
	case len(p.segments) == 0:
		return "", true
	}
	return p.segments[0].text, !p.segments[0].any
}

// Match reports whether p matches s.
func (p Pattern) Match(s string) bool {
	if p.re != nil {
		return p.re.MatchString(s)
	}
	if len(p.segments) == 0 {
		return s == ""
	}
	if p.fold {
		s = Fold(s)
	}
	first, rest := p.segments[0], p.segments[1:]
	n, ok := first.prefix(s)
	if !ok {
		return false
	}
	s = s[n:]
	if len(rest) == 0 {
		return s == ""
	}
	// Taking each segment where it first fits leaves the most for those that
	// follow, so no other choice needs to be tried.
	last := len(rest) - 1
	for _, piece := range rest[:last] {
		n, ok := piece.find(s)
		if !ok {
			return false
		}
		s = s[n:]
	}
	return rest[last].suffix(s)
}

// prefix tells how much of s the segment takes if s begins with it.
func (g segment) prefix(s string) (int, bool) {
	if !g.any {
		return len(g.text), strings.HasPrefix(s, g.text)
	}
	at := 0
	for i := range len(g.text) {
		switch {
		case at == len(s):
			return 0, false
		case g.text[i] == '?':
			_, size := utf8.DecodeRuneInString(s[at:])
			at += size
		case g.text[i] != s[at]:
			return 0, false
		default:
			at++
		}
	}
	return at, true
}

// find returns where the first occurrence of the segment in s ends.
func (g segment) find(s string) (int, bool) {
	if !g.any {
		i := strings.Index(s, g.text)
		return i + len(g.text), i >= 0
	}
	for i := 0; i <= len(s); {
		if n, ok := g.prefix(s[i:]); ok {
			return i + n, true
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += max(size, 1)
	}
	return 0, false
}

// suffix reports whether s ends with the segment.
func (g segment) suffix(s string) bool {
	if !g.any {
		return strings.HasSuffix(s, g.text)
	}
	at := len(s)
	for range utf8.RuneCountInString(g.text) {
		_, size := utf8.DecodeLastRuneInString(s[:at])
		at -= size
	}
	n, ok := g.prefix(s[at:])
	return ok && at+n == len(s)
}
