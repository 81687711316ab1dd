package dkim

import (
	"crypto/sha256"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Hasher makes the hashes of headers that are signed.
type Hasher struct {
	h      message.Header
	byName map[string][]int // positions by lower-case name, from top to bottom
	buf    []byte
}

// NewHasher returns the Hasher of a header section.
func NewHasher(h message.Header) *Hasher {
	byName := make(map[string][]int, len(h))
	for i, f := range h {
		name := strings.ToLower(f.Name)
		byName[name] = append(byName[name], i)
	}
	return &Hasher{h: h, byName: byName}
}

// Count returns how many fields of this name, in lower case, there are.
func (h *Hasher) Count(name string) int { return len(h.byName[name]) }

// Sum returns the SHA-256 hash over the fields that are named, each name taking
// the next one of its name from the bottom (RFC 6376 section 5.4.2), and over
// the raw field with the signature, without what is in its tag b.
func (h *Hasher) Sum(c Canon, names []string, signature []byte) []byte {
	sum := sha256.New()
	used := make(map[string]int, len(names))
	for _, name := range names {
		name = strings.ToLower(name)
		at := h.byName[name]
		if used[name] == len(at) {
			continue // signed as missing
		}
		used[name]++
		h.buf = c.appendHeader(h.buf[:0], h.h[at[len(at)-used[name]]].Raw)
		sum.Write(h.buf)
	}
	h.buf = c.appendHeader(h.buf[:0], withoutSignature(signature))
	sum.Write(h.buf[:len(h.buf)-len("\r\n")])
	return sum.Sum(nil)
}

// SumFields returns the SHA-256 hash over raw fields in the given order, the
// last of which has the signature.
func SumFields(c Canon, raw ...[]byte) []byte {
	sum := sha256.New()
	var buf []byte
	for i, field := range raw {
		if i == len(raw)-1 {
			buf = c.appendHeader(buf[:0], withoutSignature(field))
			buf = buf[:len(buf)-len("\r\n")]
		} else {
			buf = c.appendHeader(buf[:0], field)
		}
		sum.Write(buf)
	}
	return sum.Sum(nil)
}
