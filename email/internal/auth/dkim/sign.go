package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// Signer is a key and the name under which it is published.
type Signer struct {
	// Domain is d=, Selector s=; the public key is at Selector._domainkey.Domain.
	Domain, Selector string
	// Key is an RSA key of 1024 bits or more, or an Ed25519 key.
	Key crypto.Signer
}

// Sign returns a raw DKIM-Signature field for each signer, to be put in front of
// the message. Header and body are hashed relaxed. The time is that of t=.
//
// All fields of today's messages that a reader or a program sees are signed,
// and as often once more, so that none can be added later (RFC 6376 section
// 8.15).
func Sign(ctx context.Context, h message.Header, body *Body, now time.Time, signers ...Signer) ([]byte, error) {
	sum, _, err := body.Sum(Relaxed, -1)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	hasher := NewHasher(h)
	if hasher.Count("from") != 1 {
		return nil, errors.New("a message without exactly one field From cannot be signed")
	}
	names := signedFields(hasher)
	var all []byte
	for _, signer := range signers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		field, err := signer.sign("DKIM-Signature", "v=1", names, sum, hasher, now)
		if err != nil {
			return nil, fmt.Errorf("signing for %s: %w", signer.Domain, err)
		}
		all = append(all, field...)
	}
	return all, nil
}

// SignARC returns a raw ARC-Message-Signature field for a set's number (RFC 8617
// section 4.1.2).
func SignARC(h message.Header, body *Body, now time.Time, instance int, signer Signer) ([]byte, error) {
	sum, _, err := body.Sum(Relaxed, -1)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	hasher := NewHasher(h)
	names := signedFields(hasher)
	for range hasher.Count("dkim-signature") {
		names = append(names, "DKIM-Signature")
	}
	return signer.sign("ARC-Message-Signature", "i="+strconv.Itoa(instance), names, sum, hasher, now)
}

// signedFields lists what is signed: RFC 6376 section 5.4.1, and the fields of
// lists and MIME that change what is shown or done.
func signedFields(h *Hasher) []string {
	var names []string
	for _, name := range []string{"From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type"} {
		for range h.Count(strings.ToLower(name)) + 1 {
			names = append(names, name)
		}
	}
	for _, name := range []string{
		"Sender", "In-Reply-To", "References", "Content-Transfer-Encoding", "Content-Disposition",
		"List-Id", "List-Post", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "Autocrypt",
	} {
		for range h.Count(strings.ToLower(name)) {
			names = append(names, name)
		}
	}
	return names[:min(len(names), maxHeaders)]
}

func (s Signer) sign(name, first string, names []string, bodyHash []byte, h *Hasher, now time.Time) ([]byte, error) {
	tags, err := s.Tags(now)
	if err != nil {
		return nil, err
	}
	tags = append([]string{first}, tags...)
	tags = append(tags, "c=relaxed/relaxed", "h="+strings.Join(names, ":"), "bh="+base64.StdEncoding.EncodeToString(bodyHash))
	return s.Finish(name, tags, func(field []byte) []byte { return h.Sum(Relaxed, names, field) })
}

// Tags returns the tags a, d, s and t.
func (s Signer) Tags(now time.Time) ([]string, error) {
	domain, err := lookup.Domain(s.Domain)
	if err != nil {
		return nil, err
	}
	selector, err := lookup.Domain(s.Selector)
	if err != nil {
		return nil, err
	}
	algorithm := RSA
	switch key := s.Key.Public().(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, ErrWeakKey
		}
	case ed25519.PublicKey:
		algorithm = Ed25519
	default:
		return nil, errors.New("the key is neither RSA nor Ed25519")
	}
	return []string{"a=" + algorithm, "d=" + domain, "s=" + selector, "t=" + strconv.FormatInt(now.Unix(), 10)}, nil
}

// Finish writes a field with the tags and the signature of what hash returns for
// it.
func (s Signer) Finish(name string, tags []string, hash func(field []byte) []byte) ([]byte, error) {
	field := Fold(name, append(tags, "b="))
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := s.Key.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0) // it signs the hash as a message (RFC 8463 section 3)
	}
	signature, err := s.Key.Sign(rand.Reader, hash(field), opts)
	if err != nil {
		return nil, err
	}
	return Fold(name, append(tags[:len(tags):len(tags)], "b="+base64.StdEncoding.EncodeToString(signature))), nil
}

// lineLength is where lines are folded (RFC 5322 section 2.1.1).
const lineLength = 76

// Fold writes a field of tags, folded between them and, in long ones, after
// colons and within base64.
func Fold(name string, tags []string) []byte {
	out := append([]byte(name), ':')
	line := len(out)
	add := func(word string, space bool) {
		if space && line+1+len(word) > lineLength || line+len(word) > lineLength {
			out, line = append(out, "\r\n\t"...), 1
		} else if space {
			out, line = append(out, ' '), line+1
		}
		out, line = append(out, word...), line+len(word)
	}
	for i, tag := range tags {
		if i < len(tags)-1 {
			tag += ";"
		}
		switch {
		case len(tag) < lineLength:
			add(tag, true)
		case strings.HasPrefix(tag, "h="):
			for j, word := range strings.SplitAfter(tag, ":") {
				add(word, j == 0)
			}
		default:
			for first := true; tag != ""; first = false {
				n := min(len(tag), lineLength-1)
				if room := lineLength - line - 1; room > 3 { // "bh=" in one piece
					n = min(len(tag), room)
				}
				add(tag[:n], first)
				tag = tag[n:]
			}
		}
	}
	return append(out, "\r\n"...)
}
