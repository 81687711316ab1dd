// Package bounceaddr makes envelope senders that tell, when a bounce comes to
// them, whose bounce it is, and that nobody else can make: VERP for messages of
// our own, SRS for those that are forwarded for others.
//
//	verp, err := bounceaddr.NewVERP(bounceaddr.Config{Secrets: [][]byte{secret}})
//	sender, err := verp.Encode(id, 0, "example.com") // bounce+<id>.<tag>@example.com
//	...
//	bounce, err := verp.Decode(recipient) // of a message with the null sender
//
// The secrets may be shared between VERP and SRS: what one has signed means
// nothing to the other.
package bounceaddr

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotOurs is returned for an address that does not have the form of those
	// made here. Most addresses are such.
	ErrNotOurs = errors.New("not an address for bounces")
	// ErrForged is returned for an address that looks like one of ours and is not
	// signed with any of the secrets.
	ErrForged = errors.New("the address for bounces is forged, or its secret has gone")
	// ErrExpired is returned for an address that was made too long ago.
	ErrExpired = errors.New("the address for bounces has expired")
	// ErrTooLong is returned when what has to be in an address does not fit. The
	// message keeps the sender that it has.
	ErrTooLong = errors.New("the address for bounces would be too long")
)

const (
	// maxLocal bounds a local part (RFC 5321 section 4.5.3.1.1), in octets.
	maxLocal = 64
	// minSecret is short enough for what postsrsd makes (18 bytes in base64).
	minSecret = 16
	day       = 24 * time.Hour
)

// Config of [NewVERP] and [NewSRS].
type Config struct {
	// Secrets sign addresses. The first signs those that are made, all are good
	// for those that come back: to change the secret, put the new one in front,
	// and drop the old one MaxAge later. Each has 16 bytes at least. Required.
	Secrets [][]byte
	// MaxAge is how long an address is good for, rounded up to whole days, and up
	// to a day longer: addresses tell the day only. Default 14 days for VERP, 21
	// for SRS.
	MaxAge time.Duration
	// HashLength is how many characters of the hash SRS addresses have, and need to
	// be taken back, 4 to 27. Default 10. With 4, as libsrs2 and postsrsd have by
	// default, one is found by a million attempts, and then takes anybody's mail.
	HashLength int
	// Now is the clock. Nil means [time.Now].
	Now func() time.Time
}

// withDefaults checks the configuration; its errors do not show a secret.
func (c Config) withDefaults(maxAge, most time.Duration) (Config, error) {
	if len(c.Secrets) == 0 {
		return c, errors.New("bounceaddr: no secret")
	}
	for i, s := range c.Secrets {
		if len(s) < minSecret {
			return c, fmt.Errorf("bounceaddr: secret %d has %d bytes, less than %d", i, len(s), minSecret)
		}
	}
	switch {
	case c.MaxAge == 0:
		c.MaxAge = maxAge
	case c.MaxAge < 0 || c.MaxAge > most:
		return c, fmt.Errorf("bounceaddr: a maximum age of %v, not of 0 to %v", c.MaxAge, most)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// days is the maximum age in whole days.
func (c Config) days() int { return int((c.MaxAge + day - 1) / day) }

// today counts days since 1970.
func (c Config) today() int { return int(c.Now().Unix() / int64(day/time.Second)) }

// expired says whether an address of a day is too old, or from the future: clocks
// differ by a day at most. Both days are counted modulo a period.
func (c Config) expired(made, period int) bool {
	age := (c.today() - made) % period
	if age < 0 {
		age += period
	}
	return age > c.days() && age != period-1
}
