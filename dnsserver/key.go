package dnsserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// keyState is where in its life a key is (RFC 7583). A key comes into being in
// the state publish, and is deleted at the end of retire.
type keyState string

const (
	// keyPublish: the key is in the zone, but not all who ask may know it yet.
	// A KSK signs the keys already; a ZSK nothing.
	keyPublish keyState = "publish"
	// keyReady: everybody knows the KSK, and the zone above may be told of it.
	keyReady keyState = "ready"
	// keyActive: the ZSK signs; the KSK has its DS record in the zone above.
	keyActive keyState = "active"
	// keyRetire: another key has taken over, but what others remember may still
	// need this one.
	keyRetire keyState = "retire"
)

const (
	keyTTL    = 3600 // of the DNSKEY records, in seconds
	flagsZSK  = 256  // RFC 4034 section 2.1.1
	flagsKSK  = 257
	dsTimeout = 48 * time.Hour // after which nobody remembers a DS record that was replaced
)

// key is a key with which a zone is signed. It is immutable; a change of its
// state makes another one.
type key struct {
	keyRecord
	tag    uint16
	dnskey string // record data
	signer crypto.Signer
}

// keyRecord is a key as it is in storage.
type keyRecord struct {
	KSK       bool      `json:"ksk"`
	Algorithm uint8     `json:"algorithm"` // RFC 8624
	State     keyState  `json:"state"`
	Created   time.Time `json:"created"`
	// Since is when all that the state waits for has begun: for publish, when
	// the key was first seen in the served zone; for a ZSK in retire, when none
	// of its signatures were left there. Until then it is zero.
	Since time.Time `json:"since,omitzero"`
	// MaxTTL is the longest TTL of what a ZSK has signed, in seconds.
	MaxTTL  uint32 `json:"maxTTL,omitempty"`
	Private []byte `json:"private"` // PKCS #8
}

// newKey makes a key.
func newKey(ksk bool, algorithm uint8, now time.Time) (*key, error) {
	var private crypto.Signer
	var err error
	switch algorithm {
	case dns.ED25519:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return keyRecord{KSK: ksk, Algorithm: algorithm, State: keyPublish, Created: now.UTC(), Private: der}.open()
}

// open makes a key of what is kept of it.
func (r keyRecord) open() (*key, error) {
	private, err := x509.ParsePKCS8PrivateKey(r.Private)
	if err != nil {
		return nil, errors.New("its private part cannot be read") // the cause might quote it
	}
	k := &key{keyRecord: r}
	var public []byte
	switch private := private.(type) {
	case *ecdsa.PrivateKey:
		point, err := private.PublicKey.Bytes()
		if err != nil || r.Algorithm != dns.ECDSAP256SHA256 || private.Curve != elliptic.P256() {
			return nil, errors.New("its private part is not of its algorithm")
		}
		k.signer, public = private, point[1:] // RFC 6605 section 4: no prefix
	case ed25519.PrivateKey:
		if r.Algorithm != dns.ED25519 {
			return nil, errors.New("its private part is not of its algorithm")
		}
		k.signer, public = private, private.Public().(ed25519.PublicKey)
	default:
		return nil, errors.New("its private part is of an unknown kind")
	}
	switch r.State {
	case keyPublish, keyReady, keyActive, keyRetire:
	default:
		return nil, fmt.Errorf("its state %.20q is none", r.State)
	}
	flags := uint16(flagsZSK)
	if r.KSK {
		flags = flagsKSK
	}
	data := binary.BigEndian.AppendUint16(nil, flags)
	data = append(data, 3, r.Algorithm) // RFC 4034 section 2.1.2
	k.dnskey = string(append(data, public...))
	k.tag = keyTag(k.dnskey)
	return k, nil
}

// keyTag is the number that signatures name a key by (RFC 4034 appendix B).
func keyTag(dnskey string) uint16 {
	sum := uint32(0)
	for i := range len(dnskey) {
		if i%2 == 0 {
			sum += uint32(dnskey[i]) << 8
		} else {
			sum += uint32(dnskey[i])
		}
	}
	return uint16(sum + sum>>16)
}

// with returns the key in another state.
func (k *key) with(state keyState, since time.Time) *key {
	next := *k
	next.State, next.Since = state, since.UTC()
	return &next
}

func (k *key) encode() ([]byte, error) { return json.Marshal(k.keyRecord) }

// ds is the data of the DS record of the key, by SHA-256 (RFC 4509).
func (k *key) ds(zone string) string {
	sum := sha256.Sum256([]byte(zone + k.dnskey))
	data := binary.BigEndian.AppendUint16(nil, k.tag)
	data = append(data, k.Algorithm, dns.SHA256)
	return string(append(data, sum[:]...))
}

// announced reports whether the zone above should have a DS record for the key.
func (k *key) announced() bool { return k.KSK && (k.State == keyReady || k.State == keyActive) }

// appendSignature appends the signature of a text.
func (k *key) appendSignature(dst, text []byte) ([]byte, error) {
	if private, ok := k.signer.(ed25519.PrivateKey); ok {
		return append(dst, ed25519.Sign(private, text)...), nil
	}
	sum := sha256.Sum256(text)
	der, err := k.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return appendRS(dst, der)
}

// appendRS appends both numbers of an ECDSA signature with 32 octets each (RFC
// 6605 section 4), of which X.509 makes a sequence of DER integers. They are
// too short for lengths of more than one octet.
func appendRS(dst, der []byte) ([]byte, error) {
	rest := der
	if len(rest) < 2 || rest[0] != 0x30 || int(rest[1]) != len(rest)-2 {
		return nil, errSignature
	}
	rest = rest[2:]
	for range 2 {
		if len(rest) < 2 || rest[0] != 0x02 || int(rest[1]) > len(rest)-2 {
			return nil, errSignature
		}
		number := rest[2 : 2+int(rest[1])]
		rest = rest[2+len(number):]
		for len(number) > 0 && number[0] == 0 {
			number = number[1:]
		}
		if len(number) > 32 {
			return nil, errSignature
		}
		var full [32]byte
		copy(full[32-len(number):], number)
		dst = append(dst, full[:]...)
	}
	return dst, nil
}

var errSignature = errors.New("the signature has an unknown form")
