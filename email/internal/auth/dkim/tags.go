package dkim

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// A Tag is one "name=value" of a list (RFC 6376 section 3.2).
type Tag struct {
	Name string
	// Value has no white space around it; what is inside of it is kept.
	Value string
}

// Tags is a list of tags in the order in which they were written.
type Tags []Tag

// maxTags bounds a list; RFC 6376 knows 14 tags.
const maxTags = 64

// ParseTags reads a list of tags. A tag that occurs twice makes all of it
// invalid (RFC 6376 section 3.2).
func ParseTags(list string) (Tags, error) {
	var tags Tags
	list = strings.TrimSuffix(strings.TrimRight(list, whiteSpace), ";")
	for spec := range strings.SplitSeq(list, ";") {
		name, value, ok := strings.Cut(spec, "=")
		name = trim(name)
		if !ok || !isTagName(name) {
			return nil, fmt.Errorf("%.40q is no tag", spec)
		}
		if _, twice := tags.Get(name); twice {
			return nil, fmt.Errorf("tag %.40q occurs twice", name)
		}
		if len(tags) == maxTags {
			return nil, errors.New("there are too many tags")
		}
		tags = append(tags, Tag{name, trim(value)})
	}
	return tags, nil
}

// Get returns a tag's value and whether it is there.
func (t Tags) Get(name string) (string, bool) {
	for _, tag := range t {
		if tag.Name == name {
			return tag.Value, true
		}
	}
	return "", false
}

// Need returns a tag's value, and an error if it is missing or empty.
func (t Tags) Need(name string) (string, error) {
	value, ok := t.Get(name)
	if !ok || value == "" {
		return "", fmt.Errorf("tag %s is missing", name)
	}
	return value, nil
}

// Base64 returns the bytes of a tag that has to be there, in which white space
// may be anywhere (RFC 6376 section 2.10).
func (t Tags) Base64(name string) ([]byte, error) {
	value, err := t.Need(name)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(noSpace(value))
	if err != nil {
		return nil, fmt.Errorf("tag %s is no base64", name)
	}
	return data, nil
}

// list returns the parts of a value that colons part, without white space.
func list(value string) []string {
	parts := strings.Split(value, ":")
	for i := range parts {
		parts[i] = trim(parts[i])
	}
	return parts
}

func has(parts []string, word string) bool {
	for _, p := range parts {
		if strings.EqualFold(p, word) {
			return true
		}
	}
	return false
}

const whiteSpace = " \t\r\n"

func trim(s string) string { return strings.Trim(s, whiteSpace) }

func noSpace(s string) string {
	if !strings.ContainsAny(s, whiteSpace) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(whiteSpace, r) {
			return -1
		}
		return r
	}, s)
}

func isTagName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c >= '0' && c <= '9' || c == '_'):
		default:
			return false
		}
	}
	return s != ""
}

// withoutSignature returns a raw field without the value of its tag b and the
// white space around that (RFC 6376 section 3.7). Other tags stay as they are,
// also where their value holds a "b=".
func withoutSignature(raw []byte) []byte {
	start := bytes.IndexByte(raw, ':') + 1
	for start < len(raw) {
		end := len(raw)
		if i := bytes.IndexByte(raw[start:], ';'); i >= 0 {
			end = start + i
		}
		if name, _, ok := bytes.Cut(raw[start:end], []byte("=")); ok && string(bytes.Trim(name, whiteSpace)) == "b" {
			value := start + len(name) + 1
			return append(bytes.Clone(raw[:value]), raw[end:]...)
		}
		start = end + 1
	}
	return raw
}
