package glob

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Fold returns s such that two texts that differ only in case become equal, by
// Unicode's simple case folding. ASCII letters become lower case.
func Fold(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return foldFrom(s, i)
		}
	}
	return s
}

// foldFrom folds s, of which the first n bytes need no folding.
func foldFrom(s string, n int) string {
	var b strings.Builder
	b.Grow(len(s))
	b.WriteString(s[:n])
	for n < len(s) {
		r, size := utf8.DecodeRuneInString(s[n:])
		if r == utf8.RuneError && size == 1 {
			b.WriteByte(s[n])
		} else {
			b.WriteRune(foldRune(r))
		}
		n += size
	}
	return b.String()
}

// foldRune returns the least of the characters that r equals but for case, or
// if that is an ASCII letter its lower case.
func foldRune(r rune) rune {
	if r >= utf8.RuneSelf {
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			if other < r {
				r = other
				break // the orbit goes upwards and wraps to its least
			}
		}
	}
	if 'A' <= r && r <= 'Z' {
		r += 'a' - 'A'
	}
	return r
}
