package message

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	mailcharset "github.com/emersion/go-message/charset"
	textencoding "golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
)

// DecodeHeader returns the text of a header field's value for people and for
// comparison: encoded words (RFC 2047) decoded, also where they must not be, as
// within quotes, or where a character is split between two; raw 8-bit text taken
// as UTF-8 or else Windows-1252. The result is valid UTF-8 without line breaks and
// control characters, and at most a few times as long as s.
func DecodeHeader(s string) string {
	if !strings.Contains(s, "=?") {
		return clean(decodeCharset("", []byte(s)))
	}
	var out strings.Builder
	var charset string
	var text []byte // of words that may go on in the next
	flush := func() {
		if len(text) > 0 {
			out.WriteString(decodeCharset(charset, text))
			text = text[:0]
		}
	}
	for {
		start := strings.Index(s, "=?")
		if start < 0 {
			break
		}
		before := s[:start]
		word, size, ok := parseWord(s[start:])
		if !ok {
			flush()
			out.WriteString(decodeCharset("", []byte(s[:start+2])))
			s = s[start+2:]
			continue
		}
		// White space between two words is not shown (RFC 2047 section 6.2).
		afterWord := len(text) > 0 || charset != ""
		if !afterWord || strings.Trim(before, " \t\r\n") != "" {
			flush()
			out.WriteString(decodeCharset("", []byte(before)))
		} else if !strings.EqualFold(word.charset, charset) {
			flush()
		}
		charset = word.charset
		text = append(text, word.text...)
		s = s[start+size:]
	}
	flush()
	out.WriteString(decodeCharset("", []byte(s)))
	return clean(out.String())
}

type encodedWord struct {
	charset string
	text    []byte
}

// maxWord bounds an encoded word; RFC 2047 section 2 says 75, and mailers do not
// care.
const maxWord = 8 << 10

// parseWord reads the encoded word that s begins with, and its length.
func parseWord(s string) (w encodedWord, size int, ok bool) {
	s = s[:min(len(s), maxWord)]
	charset, rest, ok := strings.Cut(s[2:], "?")
	if !ok || !isToken(charset) {
		return w, 0, false
	}
	charset, _, _ = strings.Cut(charset, "*") // RFC 2231 section 5: a language
	if len(rest) < 2 || rest[1] != '?' {
		return w, 0, false
	}
	kind, rest := rest[0]|0x20, rest[2:]
	text, rest, ok := strings.Cut(rest, "?=")
	if !ok {
		return w, 0, false
	}
	w.charset = strings.ToLower(charset)
	if w.charset == "" {
		w.charset = "us-ascii"
	}
	switch kind {
	case 'b':
		d := base64Decoder{}
		w.text = d.finish(d.decode(nil, []byte(text)))
	case 'q':
		d := qpDecoder{}
		w.text = d.finish(d.decode(nil, []byte(strings.ReplaceAll(text, "_", " "))))
	default:
		return w, 0, false
	}
	return w, len(s) - len(rest), true
}

// decodeCharset turns text into valid UTF-8. Where the charset is unknown or
// wrong it shows what it can.
func decodeCharset(charset string, text []byte) string {
	charset = strings.ToLower(strings.TrimSpace(charset))
	switch charset {
	case "", "us-ascii", "ascii", "utf-8", "utf8", "unknown-8bit", "x-unknown":
		if utf8.Valid(text) {
			return string(text)
		}
		if charset == "utf-8" || charset == "utf8" {
			return strings.ToValidUTF8(string(text), "\uFFFD")
		}
		charset = "windows-1252"
	}
	if out, ok := toUTF8(charset, text); ok {
		return strings.ToValidUTF8(out, "\uFFFD")
	}
	if utf8.Valid(text) {
		return string(text)
	}
	out, _ := toUTF8("windows-1252", text)
	return strings.ToValidUTF8(out, "\uFFFD")
}

// toUTF8 decodes text as the Web does, and with it most mail clients: iso-8859-1
// is windows-1252 there. go-message may know what the Web has no name for (code
// pages of DOS and mainframes), no longer decodes (HZ), or takes for little-endian
// whatever its first bytes say (UTF-16).
func toUTF8(charset string, text []byte) (string, bool) {
	enc, err := htmlindex.Get(charset)
	if err == nil && enc != textencoding.Replacement && charset != "utf-16" {
		out, err := enc.NewDecoder().Bytes(text)
		return string(out), err == nil
	}
	r, err := mailcharset.Reader(charset, bytes.NewReader(text))
	if err != nil {
		return "", false
	}
	out, err := io.ReadAll(r)
	return string(out), err == nil && string(out) != "\uFFFD" // which is all that the Web shows of ISO-2022-KR
}

// clean takes out line breaks and control characters. Those that change the
// direction of text stay: a scanner wants to see them.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, s)
}
