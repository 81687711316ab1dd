package dnsserver

import (
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// DNSSEC is about signing a zone. A zone is signed with two keys, made when
// they are first needed and kept in storage: one for the other records, which
// is replaced by itself from time to time (the ZSK), and one for the keys (the
// KSK), which the zone above has to be told of as DS record.
//
// To turn signing off, have the DS records removed from the zone above first,
// and wait until they are forgotten: until then the zone would be taken for
// forged.
type DNSSEC struct {
	// Enabled turns signing on. The default nil means true where the section
	// is present.
	Enabled *bool `json:"enabled"`
	// Algorithm is that of new keys: "ecdsa-p256" (RFC 6605) or "ed25519" (RFC
	// 8080). A zone that has keys already stays with their algorithm. The
	// default "" means "ecdsa-p256".
	Algorithm string `json:"algorithm"`
	// Denial is how it is proven that something does not exist: "nsec" (RFC
	// 4034 section 4), with which everybody can list the names of the zone;
	// "nsec3" (RFC 5155, with no salt and no further iterations, as RFC 9276
	// wants it), which hides them from those who do not guess; or "compact"
	// (RFC 9824), which makes a proof for each question: small, and nothing to
	// list, but other servers cannot get such a zone by transfer. The default
	// "" means "nsec".
	Denial string `json:"denial"`
	// SignatureValidity is for how long signatures are good. Default 14 days.
	SignatureValidity time.Duration `json:"signatureValidity"`
	// Refresh is how long before its end a signature is replaced. It has to
	// leave time for the TTLs of the zone, for servers that copy it and for
	// mending what may be broken. Default half of SignatureValidity.
	Refresh time.Duration `json:"refresh"`
	// ZSKLifetime is how long a zone signing key is used before the next takes
	// its place. Default 90 days; a negative value means for ever.
	ZSKLifetime time.Duration `json:"zskLifetime"`
	// Propagation is how long it may take until all servers of the zone have
	// a change. Rollovers wait for it. Default 1h.
	Propagation time.Duration `json:"propagation"`
	// SignaturesPerSecond bounds the signatures that are made for questions
	// about this zone, where Denial is "compact": each zone has its own bound. What is beyond it is answered with SERVFAIL.
	// Default 2000.
	SignaturesPerSecond int `json:"signaturesPerSecond"`
}

const (
	algorithmECDSA   = "ecdsa-p256"
	algorithmEd25519 = "ed25519"

	denialNSEC    = "nsec"
	denialNSEC3   = "nsec3"
	denialCompact = "compact"

	day = 24 * time.Hour
)

// filled returns the settings with their defaults.
func (c DNSSEC) filled() DNSSEC {
	orDefault := func(at *time.Duration, otherwise time.Duration) {
		if *at == 0 {
			*at = otherwise
		}
	}
	if c.Algorithm == "" {
		c.Algorithm = algorithmECDSA
	}
	if c.Denial == "" {
		c.Denial = denialNSEC
	}
	orDefault(&c.SignatureValidity, 14*day)
	orDefault(&c.Refresh, c.SignatureValidity/2)
	orDefault(&c.ZSKLifetime, 90*day)
	orDefault(&c.Propagation, time.Hour)
	if c.SignaturesPerSecond == 0 {
		c.SignaturesPerSecond = 2000
	}
	return c
}

// minValidity leaves time for the TTL of the keys, and for replacing them.
const (
	minValidity = time.Hour
	maxValidity = 3650 * day // RFC 4034 section 3.1.5: times wrap after 68 years
)

func (c *DNSSEC) validate(check *conf.Checker) {
	if c == nil {
		return
	}
	full := c.filled()
	check.Field("algorithm").OneOf(full.Algorithm, algorithmECDSA, algorithmEd25519)
	check.Field("denial").OneOf(full.Denial, denialNSEC, denialNSEC3, denialCompact)
	if v := full.SignatureValidity; v < minValidity || v > maxValidity {
		check.Field("signatureValidity").Errorf("%v is not between %v and %v", v, minValidity, maxValidity)
	} else if r := full.Refresh; r < time.Minute || r > v-v/8 {
		check.Field("refresh").Errorf("%v is not between 1m and %v, seven eighths of signatureValidity", r, v-v/8)
	}
	if full.ZSKLifetime > 0 && full.ZSKLifetime < 4*(full.Propagation+keyTTL*time.Second) {
		check.Field("zskLifetime").Errorf("%v is too short: a rollover takes longer than the time for propagation and the TTL of the keys, so give at least %v",
			full.ZSKLifetime, 4*(full.Propagation+keyTTL*time.Second))
	}
	check.Field("propagation").Wait(full.Propagation)
	check.Field("signaturesPerSecond").NotNegative(full.SignaturesPerSecond)
}
