package compose

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// plain reports whether text means itself in a header field: ASCII that is not
// taken for an encoded word, and that folding and unfolding leave as it is.
func plain(s string) bool {
	return isASCII(s) && !strings.Contains(s, "=?") && !strings.Contains(s, "  ") &&
		strings.Trim(s, " ") == s && longestWord(s) < preferredLine
}

// unstructured writes text for a field such as Subject.
func unstructured(s string) string {
	if plain(s) {
		return s
	}
	return encodeWords(s)
}

// phrase writes a display name (RFC 5322 section 3.2.5).
func phrase(s string) string {
	switch {
	case !plain(s):
		return encodeWords(s)
	case strings.ContainsFunc(s, func(r rune) bool { return r != ' ' && !isAtom(byte(r)) }):
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}

func isAtom(c byte) bool {
	return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// encodeWords writes text as encoded words (RFC 2047), in the encoding that is
// shorter for it. They may stand in a phrase too, which allows the fewest
// characters (section 5).
func encodeWords(s string) string {
	const payload = 75 - len("=?utf-8?q??=")
	quoted := 0
	for i := range len(s) {
		quoted += len(encodeQ(s[i]))
	}
	encoding, encode, limit := "q", quoteWord, payload
	if quoted > base64.StdEncoding.EncodedLen(len(s)) {
		encoding, encode, limit = "b", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }, payload/4*4
	}
	var words []string
	for s != "" {
		// As many characters as fit into a word, each whole.
		n := 0
		for n < len(s) {
			_, size := utf8.DecodeRuneInString(s[n:])
			if len(encode(s[:n+size])) > limit {
				break
			}
			n += size
		}
		words = append(words, fmt.Sprintf("=?utf-8?%s?%s?=", encoding, encode(s[:n])))
		s = s[n:]
	}
	return strings.Join(words, " ")
}

func quoteWord(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString(encodeQ(s[i]))
	}
	return b.String()
}

func encodeQ(c byte) string {
	switch {
	case c == ' ':
		return "_"
	case isAlphanumeric(c), strings.IndexByte("!*+-/", c) >= 0:
		return string(rune(c))
	}
	return fmt.Sprintf("=%02X", c)
}
