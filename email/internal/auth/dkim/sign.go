package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

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
// the message. The body, with CRLF at the ends of its lines, is read once for all
// of them, in constant memory; header and body are hashed relaxed. The time in t=
// is that of the system's clock.
//
// All fields of today's messages that a reader or a program sees are signed,
// and as often once more, so that none can be added later (RFC 6376 section
// 8.15). A message that has so many of them that no line could name them, or a
// body with more than 32,768 line ends in a row, is an error.
func Sign(ctx context.Context, h message.Header, body io.Reader, signers ...Signer) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fields := NewHasher(h)
	if fields.Count("from") != 1 {
		return nil, errors.New("a message without exactly one field From cannot be signed")
	}
	names := signedFields(fields)
	if n := len(strings.Join(names, ":")); n > maxNames {
		return nil, errors.New("a message with so many fields to sign cannot be signed")
	}
	var to []io.Writer
	var started []*dkim.Signer
	defer func() {
		for _, s := range started { // in vain, but its goroutine has to end
			_ = s.Close()
		}
	}()
	for _, signer := range signers {
		s, err := signer.start(names)
		if err != nil {
			return nil, fmt.Errorf("signing for %s: %w", signer.Domain, err)
		}
		started, to = append(started, s), append(to, s)
	}
	all := io.MultiWriter(to...)
	if _, err := all.Write(headerToSign(h, names)); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.MultiWriter(&emptyLines{}, all), body); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	var out []byte
	for i, s := range started {
		if err := s.Close(); err != nil {
			return nil, fmt.Errorf("signing for %s: %w", signers[i].Domain, err)
		}
		out = append(out, s.Signature()...)
	}
	return out, nil
}

func (s Signer) start(names []string) (*dkim.Signer, error) {
	domain, selector, _, err := s.names()
	if err != nil {
		return nil, err
	}
	return dkim.NewSigner(&dkim.SignOptions{
		Domain: domain, Selector: selector, Signer: s.Key, HeaderKeys: names,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	})
}

// names checks the signer, and returns its names as they are looked up and its
// algorithm.
func (s Signer) names() (domain, selector, algorithm string, err error) {
	if domain, err = lookup.Domain(s.Domain); err != nil {
		return "", "", "", err
	}
	if selector, err = lookup.Domain(s.Selector); err != nil {
		return "", "", "", err
	}
	switch key := s.Key.Public().(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return "", "", "", ErrWeakKey
		}
		return domain, selector, RSA, nil
	case ed25519.PublicKey:
		return domain, selector, Ed25519, nil
	}
	return "", "", "", errors.New("the key is neither RSA nor Ed25519")
}

// maxNames bounds h=, which is one line, so that it stays below the 998 bytes of
// RFC 5322 section 2.1.1. A message by RFC 5322 section 3.6 needs up to 370.
const maxNames = 900

// headerToSign returns the fields that are signed, in canonical form, and an empty
// line. Canonical fields have one line each: the library puts folded ones
// together in time by the square of their lines.
func headerToSign(h message.Header, names []string) []byte {
	var out []byte
	for _, f := range h {
		if has(names, f.Name) {
			out = Relaxed.appendHeader(out, f.Raw)
		}
	}
	return append(out, "\r\n"...)
}

// emptyLines ends a body with too many line ends in a row: the library keeps
// them in memory, as they may be the last.
type emptyLines struct{ n int }

const maxEmptyLines = 32 << 10

func (e *emptyLines) Write(p []byte) (int, error) {
	for _, c := range p {
		switch c {
		case '\n':
			if e.n++; e.n > maxEmptyLines {
				return 0, errors.New("there are too many empty lines in a row")
			}
		case ' ', '\t', '\r':
		default:
			e.n = 0
		}
	}
	return len(p), nil
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
	return names
}
