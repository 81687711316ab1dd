package arc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// ErrEnded is returned by [Seal] for a chain to which nothing may be added: its
// newest seal says that it failed (RFC 8617 section 5.1), or it is full.
var ErrEnded = errors.New("the ARC chain has ended")

// Sealable reports why nothing may be added to a chain; nil means that something
// may. It is [ErrEnded], or a dkim.TemporaryError where DNS did not answer, and
// what the next seal would say of the chain is not known.
func (r Result) Sealable() error {
	var temporary dkim.TemporaryError
	switch {
	case errors.As(r.Err, &temporary):
		return temporary
	case r.ended || r.Sets >= MaxSets:
		return ErrEnded
	}
	return nil
}

// Seal returns a set of three raw fields to be put in front of a message that is
// passed on, as it goes out. Chain is what the verification of the message gave
// as it came in, Status and Sets of it if it is [Result.Sealable], and results
// what this server found, from the name of the server on, folded or not: the
// value of its Authentication-Results field.
func Seal(ctx context.Context, h message.Header, body *dkim.Body, now time.Time, chain Result, results []byte, signer dkim.Signer) ([]byte, error) {
	if err := chain.Sealable(); err != nil {
		return nil, err
	}
	i := chain.Sets + 1
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	next := set{results: message.Field{
		Name: "ARC-Authentication-Results",
		Raw:  slices.Concat([]byte("ARC-Authentication-Results: i="+strconv.Itoa(i)+"; "), bytes.TrimSpace(results), []byte("\r\n")),
	}}
	var err error
	if next.signature.Raw, err = dkim.SignARC(h, body, now, i, signer); err != nil {
		return nil, fmt.Errorf("signing for ARC: %w", err)
	}
	tags, err := signer.Tags(now)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	// A seal on a chain that failed covers its own set alone (section 5.1.2).
	var sets []set
	c := &Chain{}
	if err := c.collect(h); c.newest != chain.Sets || err != nil && chain.Status != Fail {
		return nil, errors.New("sealing: the header has another chain than was verified")
	}
	if chain.Status == Pass {
		sets = c.sets
	}
	tags = append([]string{"i=" + strconv.Itoa(i)}, append(tags, "cv="+string(chain.Status))...)
	next.seal.Raw, err = signer.Finish("ARC-Seal", tags, func(field []byte) []byte {
		next.seal.Raw = field
		return sealed(append(sets[:len(sets):len(sets)], next))
	})
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return slices.Concat(next.seal.Raw, next.signature.Raw, next.results.Raw), nil
}
