package dkim

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Signature is what a DKIM-Signature or an ARC-Message-Signature says.
type Signature struct {
	Raw       []byte // the field
	Tags      Tags
	Algorithm string // [RSA] or [Ed25519]
	Domain    string // d=, as lookup.Domain returns it
	Selector  string // s=, likewise
	Headers   []string
	Header    Canon
	Body      Canon
	BodyHash  []byte
	Value     []byte // b=
	Length    int64  // l=, -1 without it
	Expires   time.Time
}

// maxHeaders bounds the names in h=.
const maxHeaders = 500

// ErrAlgorithm is returned for an algorithm that is not, or no longer, one of
// DKIM's.
var ErrAlgorithm = errors.New("the algorithm is not one of today's")

// ParseSignature reads the tags that DKIM and ARC have in common. The Signature
// is returned with errors too, with all that was read.
func ParseSignature(f message.Field) (*Signature, error) {
	s := &Signature{Raw: f.Raw, Length: -1}
	_, value, _ := bytes.Cut(f.Raw, []byte(":"))
	var err error
	if s.Tags, err = ParseTags(string(value)); err != nil {
		return s, err
	}
	if err = s.ParseSigner(); err != nil {
		return s, err
	}
	if s.BodyHash, err = s.Tags.Base64("bh"); err != nil {
		return s, err
	}
	c, _ := s.Tags.Get("c")
	if s.Header, s.Body, err = parseCanon(c); err != nil {
		return s, err
	}
	h, err := s.Tags.Need("h")
	if err != nil {
		return s, err
	}
	if s.Headers = list(h); len(s.Headers) > maxHeaders {
		return s, errors.New("tag h names too many fields")
	}
	if !has(s.Headers, "From") {
		return s, errors.New("the field From is not signed") // RFC 6376 section 5.4
	}
	if l, ok := s.Tags.Get("l"); ok {
		if s.Length, err = number("l", l); err != nil {
			return s, err
		}
	}
	if q, ok := s.Tags.Get("q"); ok && !has(list(q), "dns/txt") && !has(list(q), "dns") {
		return s, fmt.Errorf("keys are in %.40q only", q)
	}
	return s, s.parseTimes()
}

// ParseSigner reads the tags that an ARC-Seal has too: s, d, a and b.
func (s *Signature) ParseSigner() error {
	d, err := s.Tags.Need("d")
	if err != nil {
		return err
	}
	if s.Domain, err = lookup.Domain(d); err != nil {
		return err
	}
	selector, err := s.Tags.Need("s")
	if err != nil {
		return err
	}
	if s.Selector, err = lookup.Domain(selector); err != nil {
		return err
	}
	a, err := s.Tags.Need("a")
	if err != nil {
		return err
	}
	if s.Algorithm = strings.ToLower(a); s.Algorithm != RSA && s.Algorithm != Ed25519 {
		s.Algorithm = ""
		return fmt.Errorf("%w: %.40q", ErrAlgorithm, a)
	}
	s.Value, err = s.Tags.Base64("b")
	return err
}

func (s *Signature) parseTimes() error {
	x, ok := s.Tags.Get("x")
	if !ok {
		return nil
	}
	expires, err := number("x", x)
	if err != nil {
		return err
	}
	if t, ok := s.Tags.Get("t"); ok {
		made, err := number("t", t)
		if err != nil {
			return err
		}
		if expires <= made {
			return errors.New("it expires before it was made") // RFC 6376 section 3.5
		}
	}
	s.Expires = time.Unix(expires, 0)
	return nil
}

// number reads a number of at most 12 digits, which is all that times need (RFC
// 6376 section 3.5) and all that a body can have.
func number(tag, value string) (int64, error) {
	if len(value) > 12 {
		return 0, fmt.Errorf("tag %s is too large", tag)
	}
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("tag %s is no number", tag)
	}
	return int64(n), nil
}
