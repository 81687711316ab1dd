package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/dcrouter/dcrouter/email/internal/auth/lookup"
)

// The algorithms that signatures are made with (RFC 6376 section 3.3, RFC
// 8463). SHA-1 is no longer one (RFC 8301).
const (
	RSA     = "rsa-sha256"
	Ed25519 = "ed25519-sha256"
)

// Sizes of RSA keys in bits: RFC 8301 section 3.2, and a bound on the work that
// a stranger's key can make.
const minRSABits, maxRSABits = 1024, 8192

// Errors about keys.
var (
	ErrNoKey   = errors.New("there is no key")
	ErrRevoked = errors.New("the key is revoked")
	ErrWeakKey = errors.New("the key is of less than 1024 bits or more than 8192")
	ErrForged  = errors.New("the signature does not match")
)

// Key is a public key as it is published (RFC 6376 section 3.6.1).
type Key struct {
	public crypto.PublicKey
	// Testing is the flag y: a signature that does not hold is no reason to
	// treat a message other than an unsigned one.
	Testing bool
	// Strict is the flag s: the domain of i= has to be that of d=.
	Strict bool
}

// Bits returns the size of an RSA key, and 0 for others.
func (k *Key) Bits() int {
	if key, ok := k.public.(*rsa.PublicKey); ok {
		return key.N.BitLen()
	}
	return 0
}

// Verify checks a signature over a SHA-256 hash.
func (k *Key) Verify(hash, signature []byte) error {
	switch key := k.public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return ErrWeakKey
		}
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, hash, signature) == nil {
			return nil
		}
	case ed25519.PublicKey:
		if ed25519.Verify(key, hash, signature) {
			return nil
		}
	}
	return ErrForged
}

// parseKey reads a record for an algorithm. A record that is not for it gives
// ErrNoKey.
func parseKey(record, algorithm string) (*Key, error) {
	tags, err := ParseTags(record)
	if err != nil {
		return nil, err
	}
	for i, tag := range tags {
		if tag.Name == "v" && (i > 0 || tag.Value != "DKIM1") {
			return nil, ErrNoKey
		}
	}
	kind, ok := tags.Get("k")
	if !ok {
		kind = "rsa"
	}
	if kind+"-sha256" != algorithm {
		return nil, ErrNoKey
	}
	if hashes, ok := tags.Get("h"); ok && !has(list(hashes), "sha256") {
		return nil, ErrNoKey
	}
	if services, ok := tags.Get("s"); ok && !has(list(services), "*") && !has(list(services), "email") {
		return nil, ErrNoKey
	}
	p, ok := tags.Get("p")
	if !ok {
		return nil, ErrNoKey
	}
	if p == "" {
		return nil, ErrRevoked
	}
	data, err := tags.Base64("p")
	if err != nil {
		return nil, err
	}
	flags, _ := tags.Get("t")
	key := &Key{Testing: has(list(flags), "y"), Strict: has(list(flags), "s")}
	if algorithm == Ed25519 {
		if len(data) != ed25519.PublicKeySize {
			return nil, errors.New("the key is no Ed25519 key")
		}
		key.public = ed25519.PublicKey(data)
		return key, nil
	}
	// The RFC says RSAPublicKey; its examples and all the world, SubjectPublicKeyInfo.
	public, err := x509.ParsePKIXPublicKey(data)
	if err != nil {
		if public, err = x509.ParsePKCS1PublicKey(data); err != nil {
			return nil, errors.New("the key is no RSA key")
		}
	}
	if _, ok := public.(*rsa.PublicKey); !ok {
		return nil, errors.New("the key is no RSA key")
	}
	key.public = public
	return key, nil
}

// maxKeyRecords bounds what is looked at; RFC 6376 section 3.6.2.2 wants one.
const maxKeyRecords = 10

// Keys looks keys up, each name once. It is for one message, and for several
// goroutines.
type Keys struct {
	resolver lookup.Resolver

	mu      sync.Mutex
	records map[string]*keyRecords
}

type keyRecords struct {
	once sync.Once
	txt  []string
	err  error
}

// NewKeys returns Keys that ask a resolver.
func NewKeys(r lookup.Resolver) *Keys {
	return &Keys{resolver: r, records: map[string]*keyRecords{}}
}

// Lookup returns the key of a selector and domain, as lookup.Domain returns
// them, for an algorithm. A [TemporaryError] is one of DNS.
func (k *Keys) Lookup(ctx context.Context, selector, domain, algorithm string) (*Key, error) {
	name := selector + "._domainkey." + domain
	k.mu.Lock()
	entry := k.records[name]
	if entry == nil {
		entry = &keyRecords{}
		k.records[name] = entry
	}
	k.mu.Unlock()
	entry.once.Do(func() { entry.txt, entry.err = lookup.TXT(ctx, k.resolver, name) })
	if entry.err != nil {
		return nil, TemporaryError{entry.err}
	}
	result := ErrNoKey
	for _, record := range entry.txt[:min(len(entry.txt), maxKeyRecords)] {
		key, err := parseKey(record, algorithm)
		if err == nil {
			return key, nil
		}
		if result == ErrNoKey {
			result = err
		}
	}
	return nil, fmt.Errorf("%w (%s)", result, name)
}

// TemporaryError is what may be gone at another try: DNS did not answer.
type TemporaryError struct{ Err error }

func (e TemporaryError) Error() string { return "DNS: " + e.Err.Error() }

// Unwrap returns the error of the resolver.
func (e TemporaryError) Unwrap() error { return e.Err }
