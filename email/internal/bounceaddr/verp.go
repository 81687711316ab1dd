package bounceaddr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

const (
	verpPrefix = "bounce+"
	maxID      = 32
	maxIndex   = 1<<16 - 1
	// A tag is the day, the recipient's index, and a MAC of 88 bits: 15 bytes are
	// 24 characters without padding.
	macBytes  = 11
	tagBytes  = 2 + 2 + macBytes
	tagLength = tagBytes * 8 / 5
	// verpPeriod is after how many days the day begins anew, 179 years.
	verpPeriod = 1 << 16
)

// VERP makes a sender address for each recipient of a message (variable envelope
// return path). Its methods can be called at the same time.
type VERP struct{ cfg Config }

// NewVERP checks the configuration.
func NewVERP(cfg Config) (*VERP, error) {
	cfg, err := cfg.withDefaults(14*day, 10*365*day)
	return &VERP{cfg: cfg}, err
}

// Bounce is what an address says.
type Bounce struct {
	// ID is the message's.
	ID string
	// Recipient is the index of the recipient among those of the message, from 0.
	Recipient int
	// Domain is the address's.
	Domain string
	// Day is when the address was made, to the day.
	Day time.Time
}

// Encode makes an address for the bounces of a message to a recipient, in one of
// our domains. An ID has lower case letters, digits and '-', 32 at most, or else
// the error is [ErrTooLong] or another.
func (v *VERP) Encode(id string, recipient int, domain string) (string, error) {
	if len(id) > maxID || recipient > maxIndex {
		return "", ErrTooLong
	}
	if !isID(id) || recipient < 0 {
		return "", fmt.Errorf("bounceaddr: no message ID or recipient: %q, %d", id, recipient)
	}
	domain, err := addr.ParseDomain(domain)
	if err != nil {
		return "", fmt.Errorf("bounceaddr: the domain %q: %w", domain, err)
	}
	var tag [tagBytes]byte
	binary.BigEndian.PutUint16(tag[:], uint16(v.cfg.today()%verpPeriod))
	binary.BigEndian.PutUint16(tag[2:], uint16(recipient))
	copy(tag[4:], verpMAC(v.cfg.Secrets[0], id, domain, tag[:4]))
	address := verpPrefix + id + "." + strings.ToLower(base32.StdEncoding.EncodeToString(tag[:])) + "@" + domain
	if _, err := addr.Parse(address); err != nil {
		return "", ErrTooLong // because of the domain
	}
	return address, nil
}

// Decode reads an address that was made by Encode, in letters of any case. The
// error is [ErrNotOurs], [ErrForged] or [ErrExpired]; with the last the result is
// there too.
func (v *VERP) Decode(address string) (Bounce, error) {
	if len(address) < len(verpPrefix) || !strings.EqualFold(address[:len(verpPrefix)], verpPrefix) {
		return Bounce{}, ErrNotOurs
	}
	a, err := addr.Parse(address)
	if err != nil || !a.IsASCII() { // other letters become ours in lower case, as the Kelvin sign
		return Bounce{}, ErrNotOurs
	}
	id, encoded, ok := strings.Cut(strings.ToLower(a.Local[len(verpPrefix):]), ".")
	if !ok || len(id) > maxID || !isID(id) || len(encoded) != tagLength {
		return Bounce{}, ErrNotOurs
	}
	tag, err := base32.StdEncoding.DecodeString(strings.ToUpper(encoded))
	if err != nil {
		return Bounce{}, ErrNotOurs
	}
	if !v.signed(id, a.Domain, tag) {
		return Bounce{}, ErrForged
	}
	made := int(binary.BigEndian.Uint16(tag))
	age := (v.cfg.today() - made + verpPeriod) % verpPeriod
	if age == verpPeriod-1 {
		age = -1 // tomorrow
	}
	b := Bounce{ID: id, Recipient: int(binary.BigEndian.Uint16(tag[2:])), Domain: a.Domain, Day: time.Unix(0, 0).UTC().AddDate(0, 0, v.cfg.today()-age)}
	if v.cfg.expired(made, verpPeriod) {
		return b, ErrExpired
	}
	return b, nil
}

func (v *VERP) signed(id, domain string, tag []byte) bool {
	found := false
	for _, secret := range v.cfg.Secrets {
		if hmac.Equal(tag[4:], verpMAC(secret, id, domain, tag[:4])) {
			found = true
		}
	}
	return found
}

// verpMAC signs all that an address says. Neither id nor domain has a NUL.
func verpMAC(secret []byte, id, domain string, meta []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("verp\x00" + id + "\x00" + domain + "\x00"))
	mac.Write(meta)
	return mac.Sum(nil)[:macBytes]
}

func isID(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return s != ""
}
