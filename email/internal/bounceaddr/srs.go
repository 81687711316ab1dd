package bounceaddr

import (
	"crypto/hmac"
	"crypto/sha1" // in an HMAC, where it is as good as ever
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

const (
	// srsHash is how many characters of a hash are enough that nobody finds one by
	// trying: an address of ours takes anybody's mail to whom it names. Letters count
	// in any case, so that each is worth 5 bits.
	srsHash = 10
	maxHash = 27 // all of it
	// srsPeriod is after how many days a time stamp of two characters comes again.
	srsPeriod = 1 << 10
	srsDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// SRS rewrites the senders of messages that are forwarded, so that SPF allows us
// to send them and bounces come back through us (Sender Rewriting Scheme, as of
// libsrs2 and postsrsd, with which it can share secrets). Its methods can be
// called at the same time.
type SRS struct {
	cfg    Config
	domain string
}

// NewSRS checks the configuration. Domain is what rewritten addresses are in.
func NewSRS(domain string, cfg Config) (*SRS, error) {
	cfg, err := cfg.withDefaults(21*day, (srsPeriod/2)*day)
	if err != nil {
		return nil, err
	}
	if domain, err = addr.ParseDomain(domain); err != nil {
		return nil, fmt.Errorf("bounceaddr: the domain %q for SRS: %w", domain, err)
	}
	switch {
	case cfg.HashLength == 0:
		cfg.HashLength = srsHash
	case cfg.HashLength < 4 || cfg.HashLength > maxHash:
		return nil, fmt.Errorf("bounceaddr: a hash of %d characters, not of 4 to %d", cfg.HashLength, maxHash)
	}
	return &SRS{cfg: cfg, domain: domain}, nil
}

// Forward rewrites the sender of a message. The null sender and addresses in the
// SRS domain itself stay as they are. With [ErrTooLong], or another error for
// what is no address, the message has to go out with the sender that it has.
func (s *SRS) Forward(sender string) (string, error) {
	if sender == "" {
		return "", nil
	}
	a, err := addr.Parse(sender)
	if err != nil {
		return "", fmt.Errorf("bounceaddr: %w", err)
	}
	if a.Domain == s.domain {
		return sender, nil
	}
	secret := s.cfg.Secrets[0]
	local := ""
	kind, rest := srsKind(a.Local)
	_, host, opaque, isSRS1 := cutSRS1(rest)
	if isSRS1 {
		_, err := original("SRS0"+opaque, host)
		isSRS1 = err == nil // or else we could not undo it
	}
	switch {
	case kind == 1 && isSRS1:
		// The address of the first forwarder stays, and we take the place of the one
		// before us: bounces need not go through all of them.
		local = s.srs1(secret, host, opaque)
	case kind == 0 && strings.Count(rest[1:], "=") >= 3: // hash=stamp=domain=local
		local = s.srs1(secret, a.Domain, rest)
	default:
		local = s.srs0(secret, a)
	}
	rewritten := addr.Address{Local: local, Domain: s.domain}
	address := rewritten.String()
	if len(address)-len(s.domain)-1 > maxLocal {
		return "", ErrTooLong
	}
	if _, err := addr.Parse(address); err != nil {
		return "", ErrTooLong
	}
	return address, nil
}

// Reverse gives the address that a bounce has to be sent on to: the sender of an
// SRS0 address, or for SRS1 the SRS0 address of the forwarder before us. The error
// is [ErrNotOurs], [ErrForged] or [ErrExpired].
func (s *SRS) Reverse(address string) (string, error) {
	a, err := addr.Parse(address)
	if err != nil || a.Domain != s.domain {
		return "", ErrNotOurs
	}
	switch kind, rest := srsKind(a.Local); kind {
	case 0:
		hash, rest, ok1 := strings.Cut(rest[1:], "=")
		stamp, rest, ok2 := strings.Cut(rest, "=")
		domain, local, ok3 := strings.Cut(rest, "=")
		made, ok4 := parseStamp(stamp)
		if !ok1 || !ok2 || !ok3 || !ok4 || local == "" {
			return "", ErrNotOurs
		}
		if !s.signed(hash, stamp, domain, local) {
			return "", ErrForged
		}
		if s.cfg.expired(made, srsPeriod) {
			return "", ErrExpired
		}
		return original(local, domain)
	case 1:
		hash, host, opaque, ok := cutSRS1(rest)
		if !ok {
			return "", ErrNotOurs
		}
		if !s.signed(hash, host, opaque) {
			return "", ErrForged
		}
		return original("SRS0"+opaque, host)
	}
	return "", ErrNotOurs
}

// original puts an address together. What is signed came from an address, so
// there is no error but by a secret that others have too.
func original(local, domain string) (string, error) {
	a, err := addr.Parse(addr.Address{Local: local, Domain: domain}.String())
	if err != nil {
		return "", ErrForged
	}
	return a.String(), nil
}

func (s *SRS) srs0(secret []byte, a addr.Address) string {
	day := s.cfg.today() % srsPeriod
	stamp := srsDigits[day>>5:day>>5+1] + srsDigits[day&31:day&31+1]
	return "SRS0=" + srsMAC(secret, s.cfg.HashLength, stamp, a.Domain, a.Local) + "=" + stamp + "=" + a.Domain + "=" + a.Local
}

// srs1 makes an address of the forwarder's host and what follows SRS0 in its
// local part, with the separator.
func (s *SRS) srs1(secret []byte, host, opaque string) string {
	return "SRS1=" + srsMAC(secret, s.cfg.HashLength, host, opaque) + "=" + host + "=" + opaque
}

// srsKind returns 0 or 1 for SRS0 and SRS1 with what follows that, from its
// separator on, or -1.
func srsKind(local string) (kind int, rest string) {
	if len(local) < 6 || !strings.EqualFold(local[:3], "SRS") || !isSeparator(local[4]) {
		return -1, ""
	}
	switch local[3] {
	case '0':
		return 0, local[4:]
	case '1':
		return 1, local[4:]
	}
	return -1, ""
}

func isSeparator(c byte) bool { return c == '=' || c == '+' || c == '-' }

// cutSRS1 takes apart what follows SRS1. Opaque begins with the separator that
// the first forwarder has behind SRS0.
func cutSRS1(rest string) (hash, host, opaque string, ok bool) {
	if rest == "" {
		return "", "", "", false
	}
	hash, rest, ok = strings.Cut(rest[1:], "=")
	if !ok {
		return "", "", "", false
	}
	host, opaque, ok = strings.Cut(rest, "=")
	if !ok || hash == "" || host == "" || opaque == "" || !isSeparator(opaque[0]) {
		return "", "", "", false
	}
	return hash, host, opaque, true
}

func (s *SRS) signed(hash string, parts ...string) bool {
	if len(hash) < s.cfg.HashLength || len(hash) > maxHash {
		return false
	}
	// Letters of any case: some servers on the way change them.
	given := []byte(strings.ToLower(hash))
	found := 0
	for _, secret := range s.cfg.Secrets {
		found |= subtle.ConstantTimeCompare(given, []byte(strings.ToLower(srsMAC(secret, len(hash), parts...))))
	}
	return found == 1
}

// srsMAC is n characters of base64 of an HMAC over the parts in lower case.
func srsMAC(secret []byte, n int, parts ...string) string {
	mac := hmac.New(sha1.New, secret)
	for _, p := range parts {
		mac.Write([]byte(asciiLower(p)))
	}
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil))[:n]
}

// asciiLower leaves alone what is not ASCII, as libsrs2 does.
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// parseStamp reads the day modulo srsPeriod.
func parseStamp(s string) (int, bool) {
	if len(s) != 2 {
		return 0, false
	}
	hi := strings.IndexByte(srsDigits, asciiUpper(s[0]))
	lo := strings.IndexByte(srsDigits, asciiUpper(s[1]))
	return hi<<5 | lo, hi >= 0 && lo >= 0
}

func asciiUpper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}
