package keys

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// State is where a key is in its life.
type State string

// The states, in the order in which a key goes through them.
const (
	Pending   State = "pending"
	Published State = "published"
	Active    State = "active"
	Retiring  State = "retiring"
	Revoked   State = "revoked"
)

// The algorithms, as k= in a record names them.
const (
	RSA     = "rsa"
	Ed25519 = "ed25519"
)

// Key is what there is to know about a key, without its private part.
type Key struct {
	// Selector is its name: the record is at Selector._domainkey.Domain.
	Selector string
	// Algorithm is [RSA] or [Ed25519].
	Algorithm string
	// Bits is the size of an RSA key, and 0 for others.
	Bits int
	// State lasts since Since.
	State          State
	Created, Since time.Time
	// Record is the text of the TXT record (RFC 6376 section 3.6.1).
	Record string
}

// key is a key as it is kept. Copies of it share what does not change.
type key struct {
	selector, algorithm string
	base                string // the selector and size that were configured when it was made
	bits                int
	state               State
	created, since      time.Time
	private             crypto.Signer // nil once it is revoked
}

func (k *key) public() Key {
	out := Key{Selector: k.selector, Algorithm: k.algorithm, State: k.state, Created: k.created, Since: k.since, Record: k.record()}
	if private, ok := k.private.(*rsa.PrivateKey); ok {
		out.Bits = private.N.BitLen()
	}
	return out
}

// record is the text of the TXT record.
func (k *key) record() string {
	text := "v=DKIM1; k=" + k.algorithm + "; p="
	if k.private == nil {
		return text // RFC 6376 section 3.6.1: it has been revoked
	}
	if public, ok := k.private.Public().(ed25519.PublicKey); ok {
		return text + base64.StdEncoding.EncodeToString(public) // RFC 8463 section 4.2
	}
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return text // an RSA key, which always has a form
	}
	return text + base64.StdEncoding.EncodeToString(der)
}

// generateRSA makes an RSA key, which takes seconds on a slow machine.
func generateRSA(bits int) (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, bits) }

// encode writes a private key as PEM.
func encode(private crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// decode reads a private key from PEM: PKCS #8, or PKCS #1 for RSA. Its errors
// say nothing of the content.
func decode(text []byte) (private crypto.Signer, algorithm string, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, "", errors.New("it is no PEM file")
	}
	var parsed any
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, "", fmt.Errorf("there is %.40q in the PEM file, not a private key", block.Type)
	}
	if err != nil {
		return nil, "", errors.New("the private key cannot be read")
	}
	switch private := parsed.(type) {
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minBits || bits > maxBits {
			return nil, "", fmt.Errorf("an RSA key of %d bits is none for DKIM: %d to %d", bits, minBits, maxBits)
		}
		return private, RSA, nil
	case ed25519.PrivateKey:
		return private, Ed25519, nil
	}
	return nil, "", errors.New("the private key is neither RSA nor Ed25519")
}

// Sizes of RSA keys (RFC 8301 section 3.2). Records with greater ones do not fit
// into a DNS response over UDP.
const minBits, maxBits = 1024, 4096
