package dkim

import (
	"bytes"
	"fmt"
	"strings"
)

// Canon is a way to see past what mail servers change on the way (RFC 6376
// section 3.4).
type Canon uint8

// The ways of RFC 6376; the zero value is its default.
const (
	Simple Canon = iota
	Relaxed
)

func (c Canon) String() string {
	if c == Relaxed {
		return "relaxed"
	}
	return "simple"
}

// parseCanon reads the tag c: "header/body", or "header" for a simple body.
func parseCanon(value string) (header, body Canon, err error) {
	h, b, _ := strings.Cut(value, "/")
	if header, err = canonOf(h, value); err != nil {
		return 0, 0, err
	}
	body, err = canonOf(b, value)
	return header, body, err
}

func canonOf(word, value string) (Canon, error) {
	switch strings.ToLower(trim(word)) {
	case "simple", "":
		return Simple, nil
	case "relaxed":
		return Relaxed, nil
	}
	return 0, fmt.Errorf("canonicalization %.40q is not known", value)
}

// appendHeader appends a raw field as it is hashed, with CRLF at its end.
func (c Canon) appendHeader(dst, raw []byte) []byte {
	raw = bytes.TrimSuffix(raw, []byte("\r\n"))
	if c == Simple {
		return append(append(dst, raw...), "\r\n"...)
	}
	name, value, _ := bytes.Cut(raw, []byte(":"))
	for _, b := range bytes.TrimRight(name, " \t") {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		dst = append(dst, b)
	}
	dst = append(dst, ':')
	start, space := len(dst), false
	for _, b := range value {
		switch b {
		case ' ', '\t', '\r', '\n': // unfolded: what follows a line end is white space
			space = true
		default:
			if space && len(dst) > start {
				dst = append(dst, ' ')
			}
			dst, space = append(dst, b), false
		}
	}
	return append(dst, "\r\n"...)
}
