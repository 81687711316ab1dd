package dkim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/together"
)

// Result is the outcome of a check, in the words of RFC 8601 section 2.7.1.
type Result string

// The outcomes for a signature; a message without one has none.
const (
	Pass      Result = "pass"
	Fail      Result = "fail"      // the body or header is not what was signed
	Policy    Result = "policy"    // it holds, but is not accepted: weak, or covers too little
	TempError Result = "temperror" // DNS did not answer
	PermError Result = "permerror" // it is malformed, expired, or has no key
)

// Verification is what became of a signature.
type Verification struct {
	Result Result
	// Domain and Selector say whose signature it is: d= and s=, as A-labels in
	// lower case. They are empty if they could not be read.
	Domain, Selector string
	// Identity is i=, "@" and the domain by default.
	Identity string
	// Algorithm is [RSA] or [Ed25519], or empty.
	Algorithm string
	// Bits is the size of an RSA key.
	Bits int
	// Value is b=, without white space, to tell signatures apart.
	Value string
	// Testing says that the signer is only trying: a signature that does not
	// hold must do no harm (RFC 6376 section 3.6.1, t=y).
	Testing bool
	// Err says why the result is not pass.
	Err error
}

// MaxSignatures is how many signatures of a message are looked at, from the top.
const MaxSignatures = 8

// Checks are the signatures of a message, read but not yet verified.
type Checks []check

type check struct {
	*Signature
	err error // of reading it
}

// Parse reads the signatures of a header section, [MaxSignatures] of them, and
// tells the body what they want of it.
func Parse(h message.Header, b *Body) Checks {
	var checks Checks
	for _, f := range h {
		if len(checks) == MaxSignatures {
			break
		}
		if !strings.EqualFold(f.Name, "DKIM-Signature") {
			continue
		}
		s, err := ParseSignature(f)
		if err == nil {
			err = s.checkDKIM()
		}
		if err == nil {
			b.Want(s.Body, s.Length)
		}
		checks = append(checks, check{s, err})
	}
	return checks
}

// checkDKIM checks what ARC has not: v and i.
func (s *Signature) checkDKIM() error {
	if v, _ := s.Tags.Get("v"); v != "1" {
		return errors.New("tag v is not 1")
	}
	domain, err := s.identityDomain()
	if err == nil && !lookup.Within(domain, s.Domain) {
		err = errors.New("the identity is outside of the domain")
	}
	return err
}

func (s *Signature) identity() string {
	if i, ok := s.Tags.Get("i"); ok {
		return i
	}
	return "@" + s.Domain
}

func (s *Signature) identityDomain() (string, error) {
	i := s.identity()
	at := strings.LastIndexByte(i, '@')
	if at < 0 {
		return "", errors.New("the identity has no domain")
	}
	return lookup.Domain(i[at+1:])
}

// Verify verifies all signatures. Keys are asked for at the same time.
func (c Checks) Verify(ctx context.Context, h *Hasher, b *Body, keys *Keys, now time.Time) []Verification {
	results := make([]Verification, len(c))
	found, errs := make([]*Key, len(c)), make([]error, len(c))
	var wg together.Group
	for i, s := range c {
		if errs[i] = s.err; s.err == nil {
			wg.Go(func() { found[i], errs[i] = keys.Lookup(ctx, s.Selector, s.Domain, s.Algorithm) })
		}
	}
	for _, s := range c {
		if s.err == nil {
			_, _, _ = b.Sum(s.Body, s.Length) // meanwhile
			break
		}
	}
	wg.Wait()
	for i, s := range c {
		v := Verification{Domain: s.Domain, Selector: s.Selector, Algorithm: s.Algorithm, Identity: s.identity()}
		value, _ := s.Tags.Get("b")
		v.Value = noSpace(value)
		if v.Err = errs[i]; v.Err == nil {
			v.Bits, v.Testing = found[i].Bits(), found[i].Testing
			v.Err = s.verify(h, b, found[i], now)
		}
		v.Result = resultOf(v.Err)
		results[i] = v
	}
	return results
}

// policyError is about a signature that is right but not accepted.
type policyError string

func (e policyError) Error() string { return string(e) }

func resultOf(err error) Result {
	var policy policyError
	var temporary TemporaryError
	switch {
	case err == nil:
		return Pass
	case errors.As(err, &policy), errors.Is(err, ErrWeakKey), errors.Is(err, ErrAlgorithm):
		return Policy
	case errors.As(err, &temporary):
		return TempError
	case errors.Is(err, ErrForged), errors.Is(err, ErrBody):
		return Fail
	}
	return PermError
}

// ErrBody is returned if the body is not what was signed.
var ErrBody = errors.New("the body hash does not match")

func (s *Signature) verify(h *Hasher, b *Body, key *Key, now time.Time) error {
	if domain, _ := s.identityDomain(); key.Strict && domain != s.Domain {
		return errors.New("the key is not for identities below its domain")
	}
	if !s.Expires.IsZero() && now.After(s.Expires) {
		return fmt.Errorf("it expired on %s", s.Expires.UTC().Format(time.RFC3339))
	}
	return s.VerifyWith(h, b, key)
}

// VerifyWith verifies the signature with a key: body, header, and that they
// cover what a reader sees.
func (s *Signature) VerifyWith(h *Hasher, b *Body, key *Key) error {
	sum, total, err := b.Sum(s.Body, s.Length)
	if err != nil {
		return TemporaryError{err}
	}
	if s.Length > total {
		return fmt.Errorf("%w: it is shorter than l=", ErrBody)
	}
	if !bytes.Equal(sum, s.BodyHash) {
		return ErrBody
	}
	if err := key.Verify(h.Sum(s.Header, s.Headers, s.Raw), s.Value); err != nil {
		return err
	}
	if s.Length >= 0 && s.Length < total {
		return policyError(fmt.Sprintf("%d bytes of the body are not signed", total-s.Length))
	}
	signed := 0
	for _, name := range s.Headers {
		if strings.EqualFold(name, "From") {
			signed++
		}
	}
	if h.Count("from") > signed {
		return policyError("a field From is not signed")
	}
	return nil
}
