package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

// SignARC returns a raw ARC-Message-Signature field for a set's number (RFC 8617
// section 4.1.2).
func SignARC(h message.Header, body *Body, now time.Time, instance int, signer Signer) ([]byte, error) {
	sum, _, err := body.Sum(Relaxed, -1)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	hasher := NewHasher(h)
	names := signedFields(hasher)
	names = names[:min(len(names), maxHeaders)]
	for range hasher.Count("dkim-signature") {
		names = append(names, "DKIM-Signature")
	}
	tags, err := signer.Tags(now)
	if err != nil {
		return nil, err
	}
	tags = append([]string{"i=" + strconv.Itoa(instance)}, tags...)
	tags = append(tags, "c=relaxed/relaxed", "h="+strings.Join(names, ":"), "bh="+base64.StdEncoding.EncodeToString(sum))
	return signer.Finish("ARC-Message-Signature", tags, func(field []byte) []byte { return hasher.Sum(Relaxed, names, field) })
}

// Tags returns the tags a, d, s and t.
func (s Signer) Tags(now time.Time) ([]string, error) {
	domain, selector, algorithm, err := s.names()
	if err != nil {
		return nil, err
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
