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

// Seal returns a set of three raw fields to be put in front of a message that is
// passed on, as it goes out. Chain is what the verification of the message gave
// as it came in, and results what this server found, from the name of the
// server on, folded or not: the value of its Authentication-Results field.
//
// A chain that could not be verified because DNS did not answer is not sealed:
// the error is that one, and at another try the chain may pass.
func Seal(ctx context.Context, h message.Header, body *dkim.Body, now time.Time, chain Result, results []byte, signer dkim.Signer) ([]byte, error) {
	var temporary dkim.TemporaryError
	if errors.As(chain.Err, &temporary) {
		return nil, temporary
	}
	i := chain.Sets + 1
	if chain.ended || i > MaxSets {
		return nil, ErrEnded
	}
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
	if chain.Status == Pass {
		c := &Chain{}
		if err := c.collect(h); err != nil || c.newest != chain.Sets {
			return nil, errors.New("sealing: the header has another chain than was verified")
		}
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
