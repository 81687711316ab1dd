// Package arc verifies and extends Authenticated Received Chains (RFC 8617):
// what each server on the way says about the authentication of a message, sealed
// so that the next can believe it where it believes the server.
package arc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// MaxSets is how many sets a chain may have (RFC 8617 section 4.2.1).
const MaxSets = 50

// Status is the state of a chain (RFC 8617 section 4.4).
type Status string

// The states.
const (
	None Status = "none"
	Pass Status = "pass"
	Fail Status = "fail"
)

// Result is what became of a chain.
type Result struct {
	Status Status
	// Sets is the number of the newest set, 0 without a chain.
	Sets int
	// Sealers are the domains that sealed the sets, as A-labels in lower case,
	// the first of them at 0. All have to be trusted for what the first says to
	// be; they are only there if the chain passes.
	Sealers []string
	// Results is what the first set says about the message as it entered the
	// chain, as in the field, without "i=1;".
	Results string
	// Err says why the status is fail. A dkim.TemporaryError is one of DNS; at
	// another try the chain may pass.
	Err error

	ended bool // the newest seal says fail: nothing may be added
}

// Chain is a chain as it was read, not yet verified.
type Chain struct {
	sets   []set // number 1 at 0
	newest int
	ams    *dkim.Signature
	ended  bool
	err    error
}

// A set has one field of each kind (RFC 8617 section 4.2).
type set struct {
	results, signature, seal message.Field
	parsed                   *dkim.Signature // the seal
}

func (s *set) field(name string) *message.Field {
	switch {
	case strings.EqualFold(name, "ARC-Authentication-Results"):
		return &s.results
	case strings.EqualFold(name, "ARC-Message-Signature"):
		return &s.signature
	case strings.EqualFold(name, "ARC-Seal"):
		return &s.seal
	}
	return nil
}

// Parse reads the chain in a header section, and tells the body what its newest
// signature wants of it.
func Parse(h message.Header, b *dkim.Body) *Chain {
	c := &Chain{}
	if c.err = c.collect(h); c.err != nil || c.newest == 0 {
		return c
	}
	for i := range c.sets {
		if err := c.checkSet(i + 1); err != nil {
			c.err = fmt.Errorf("set %d: %w", i+1, err)
			return c
		}
	}
	last := c.sets[c.newest-1]
	if cv, _ := last.parsed.Tags.Get("cv"); cv == "fail" {
		c.ended, c.err = true, fmt.Errorf("set %d says that the chain had failed", c.newest)
		return c
	}
	if c.ams, c.err = dkim.ParseSignature(last.signature); c.err != nil {
		return c
	}
	for _, name := range c.ams.Headers {
		if strings.EqualFold(name, "ARC-Seal") { // RFC 8617 section 4.1.2
			c.err = errors.New("the message signature covers a seal")
			return c
		}
	}
	b.Want(c.ams.Body, c.ams.Length)
	return c
}

// collect sorts the fields into sets, without gaps.
func (c *Chain) collect(h message.Header) error {
	var first error
	for _, f := range h {
		if (&set{}).field(f.Name) == nil {
			continue
		}
		i, err := instance(f)
		if err != nil {
			first = errors.Join(first, fmt.Errorf("%s: %w", f.Name, err))
			continue
		}
		c.newest = max(c.newest, i)
		for len(c.sets) < i {
			c.sets = append(c.sets, set{})
		}
		at := c.sets[i-1].field(f.Name)
		if at.Raw != nil {
			first = errors.Join(first, fmt.Errorf("set %d has two fields %s", i, f.Name))
		}
		*at = f
	}
	return first
}

// instance reads a field's i=, which comes first in an ARC-Authentication-Results.
func instance(f message.Field) (int, error) {
	_, value, _ := bytes.Cut(f.Raw, []byte(":"))
	if strings.EqualFold(f.Name, "ARC-Authentication-Results") {
		value, _, _ = bytes.Cut(value, []byte(";"))
	}
	tags, err := dkim.ParseTags(string(value))
	if err != nil {
		return 0, err
	}
	i, _ := tags.Get("i")
	n, err := strconv.Atoi(i)
	if err != nil || n < 1 || n > MaxSets {
		return 0, fmt.Errorf("instance %.20q is not one of 1 to %d", i, MaxSets)
	}
	return n, nil
}

func (c *Chain) checkSet(i int) error {
	s := &c.sets[i-1]
	if s.results.Raw == nil || s.signature.Raw == nil || s.seal.Raw == nil {
		return errors.New("it is not complete")
	}
	_, value, _ := bytes.Cut(s.seal.Raw, []byte(":"))
	seal := &dkim.Signature{Raw: s.seal.Raw}
	s.parsed = seal
	var err error
	if seal.Tags, err = dkim.ParseTags(string(value)); err != nil {
		return err
	}
	for _, name := range []string{"h", "bh", "c"} { // RFC 8617 section 4.1.3
		if _, ok := seal.Tags.Get(name); ok {
			return fmt.Errorf("the seal has a tag %s", name)
		}
	}
	cv, _ := seal.Tags.Get("cv")
	switch {
	case i == 1 && cv == "none", i > 1 && cv == "pass", i == c.newest && cv == "fail":
	default:
		return fmt.Errorf("the seal says %.20q of the chain before", cv)
	}
	return seal.ParseSigner()
}

// Verify verifies the newest signature and all seals (RFC 8617 section 5.2).
func (c *Chain) Verify(ctx context.Context, h *dkim.Hasher, b *dkim.Body, keys *dkim.Keys) Result {
	r := Result{Status: None, Sets: c.newest, Err: c.err, ended: c.ended}
	if c.newest == 0 && c.err == nil {
		return r
	}
	if r.Err == nil {
		r.Err = c.verify(ctx, h, b, keys)
	}
	if r.Err != nil {
		r.Status = Fail
		return r
	}
	r.Status = Pass
	for _, s := range c.sets {
		r.Sealers = append(r.Sealers, s.parsed.Domain)
	}
	_, results, _ := strings.Cut(c.sets[0].results.Value(), ";")
	r.Results = strings.TrimSpace(results)
	return r
}

func (c *Chain) verify(ctx context.Context, h *dkim.Hasher, b *dkim.Body, keys *dkim.Keys) error {
	key, err := keys.Lookup(ctx, c.ams.Selector, c.ams.Domain, c.ams.Algorithm)
	if err == nil {
		err = c.ams.VerifyWith(h, b, key)
	}
	if err != nil {
		return fmt.Errorf("message signature %d: %w", c.newest, err)
	}
	for i := c.newest; i > 0; i-- {
		seal := c.sets[i-1].parsed
		key, err := keys.Lookup(ctx, seal.Selector, seal.Domain, seal.Algorithm)
		if err == nil {
			err = key.Verify(sealed(c.sets[:i]), seal.Value)
		}
		if err != nil {
			return fmt.Errorf("seal %d: %w", i, err)
		}
	}
	return nil
}

// sealed is the hash that the last set's seal signs (RFC 8617 section 5.1.1).
func sealed(sets []set) []byte {
	var fields [][]byte
	for _, s := range sets {
		fields = append(fields, s.results.Raw, s.signature.Raw, s.seal.Raw)
	}
	return dkim.SumFields(dkim.Relaxed, fields...)
}
