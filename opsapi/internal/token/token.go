// Package token makes and checks the JSON Web Tokens of the operations API (RFC
// 7519), signed with Ed25519 (RFC 8037).
//
// There is one kind of token, made and read here alone. So its header is a
// constant that is compared as bytes: there is no choice of algorithms to get
// wrong (RFC 8725 section 3.1), and a library would be more code than this.
package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// MaxLength bounds a token, in bytes.
const MaxLength = 2048

// ErrInvalid is returned for everything that is no token of ours, or one whose
// time is over. It says no more than that to whoever sent it.
var ErrInvalid = errors.New("the token is invalid or has expired")

// Names of who issues tokens and for what (RFC 8725 section 3.8).
const (
	issuer   = "dcrouter"
	audience = "opsapi"
)

// Claims are what a token says.
type Claims struct {
	Subject string // who has signed in
	Session string // the id of his session
	Epoch   uint64 // of his account, when he signed in
	Issued  time.Time
	Expires time.Time
}

// wire is the payload of a token.
type wire struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	Session  string `json:"sid"`
	Epoch    uint64 `json:"epoch"`
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// header is {"alg":"EdDSA","typ":"JWT"}.
const header = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9"

// Sign makes a token.
func Sign(key ed25519.PrivateKey, c Claims) (string, error) {
	payload, err := json.Marshal(wire{issuer, audience, c.Subject, c.Session, c.Epoch, c.Issued.Unix(), c.Expires.Unix()})
	if err != nil {
		return "", err
	}
	signed := header + "." + base64.RawURLEncoding.EncodeToString(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed))), nil
}

// Verify reads a token that Sign has made with the key and whose time is not
// over. Any other is ErrInvalid.
func Verify(key ed25519.PublicKey, text string, now time.Time) (Claims, error) {
	if len(text) > MaxLength {
		return Claims{}, ErrInvalid
	}
	at := strings.LastIndexByte(text, '.')
	if at < 0 {
		return Claims{}, ErrInvalid
	}
	payload, ok := strings.CutPrefix(text[:at], header+".")
	encoding := base64.RawURLEncoding.Strict()
	signature, err := encoding.DecodeString(text[at+1:])
	if !ok || err != nil || !ed25519.Verify(key, []byte(text[:at]), signature) {
		return Claims{}, ErrInvalid
	}
	data, err := encoding.DecodeString(payload)
	if err != nil {
		return Claims{}, ErrInvalid
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil || w.Issuer != issuer || w.Audience != audience {
		return Claims{}, ErrInvalid
	}
	c := Claims{Subject: w.Subject, Session: w.Session, Epoch: w.Epoch, Issued: time.Unix(w.Issued, 0), Expires: time.Unix(w.Expires, 0)}
	if !now.Before(c.Expires) {
		return Claims{}, ErrInvalid
	}
	return c, nil
}
