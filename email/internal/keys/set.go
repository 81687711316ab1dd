package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"time"
)

const (
	// grace is how long the record of a key stays that does not sign any more:
	// mail waits in queues for up to five days (RFC 5321 section 4.5.4.1), and is
	// read by those who verify it themselves some time after that.
	grace = 7 * 24 * time.Hour
	// memory is how long a record says that the key is revoked.
	memory = 30 * 24 * time.Hour
	// minHold is how long a new record waits at least until its key takes the place
	// of another: for the name servers that copy the zone, and for those who share
	// the storage.
	minHold = time.Hour
)

// Config says what keys a domain is to have.
type Config struct {
	// Selector is the name of the first keys; later ones have a suffix.
	Selector string
	// Bits is the size of RSA keys.
	Bits int
	// Rotate replaces keys when they have signed for Interval.
	Rotate   bool
	Interval time.Duration
	// TTL is that of the records.
	TTL time.Duration
	// Internal is set if [Options.Publish] puts the records into DNS. Otherwise
	// others do, and [Options.Seen] finds out.
	Internal bool
}

func (c *Config) hold() time.Duration { return max(c.TTL, minHold) }

// set is the keys of a domain. It is changed as a copy.
type set []key

// newest returns the key of an algorithm that is in one of these states, or nil.
func (s set) newest(algorithm string, states ...State) *key {
	for i := range slices.Backward(s) {
		if s[i].algorithm == algorithm && slices.Contains(states, s[i].state) {
			return &s[i]
		}
	}
	return nil
}

// lacking lists the algorithms that a new key is to be made for.
func (s set) lacking(now time.Time, c *Config, rotate bool) []string {
	var list []string
	for _, algorithm := range []string{RSA, Ed25519} {
		if s.newest(algorithm, Pending, Published) != nil {
			continue
		}
		k := s.newest(algorithm, Active)
		if k == nil || rotate || k.base != c.Selector || algorithm == RSA && k.bits != c.Bits || c.Rotate && !now.Before(k.since.Add(c.Interval)) {
			list = append(list, algorithm)
		}
	}
	return list
}

// make adds a key for each of these algorithms.
func (s *set) make(algorithms []string, now time.Time, c *Config, generate func(int) (*rsa.PrivateKey, error)) error {
	stem := s.stem(algorithms, now, c.Selector)
	var made set
	for _, algorithm := range algorithms {
		k := key{selector: name(stem, algorithm), algorithm: algorithm, base: c.Selector, bits: c.Bits, state: Pending, created: now, since: now}
		var err error
		if algorithm == RSA {
			k.private, err = generate(c.Bits)
		} else {
			_, k.private, err = ed25519.GenerateKey(rand.Reader)
		}
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		made = append(made, k)
	}
	*s = append(*s, made...)
	return nil
}

// name is the selector of a key. Keys have one each, as some verifiers look at
// the first record of a name only.
func name(stem, algorithm string) string {
	if algorithm == RSA {
		return stem
	}
	return stem + "-" + algorithm
}

// stem returns what the selectors of new keys begin with: the configured
// selector, and if it was used before, the date behind it.
func (s set) stem(algorithms []string, now time.Time, selector string) string {
	date := now.UTC().Format("20060102")
	for i := 0; ; i++ {
		stem := selector
		switch {
		case i == 1:
			stem = selector + "-" + date
		case i > 1:
			stem = fmt.Sprintf("%s-%s-%d", selector, date, i)
		}
		taken := slices.ContainsFunc(s, func(k key) bool {
			return slices.ContainsFunc(algorithms, func(a string) bool {
				return k.selector == name(stem, a) || i == 0 && k.algorithm == a && k.base == selector
			})
		})
		if !taken {
			return stem
		}
	}
}

// MaxSelector is how long the last label of a selector may be, in characters:
// the longest suffix fits behind it (RFC 1035 section 2.3.4).
const MaxSelector = 63 - len("-20060102-99-ed25519")

// age brings keys to the states that are due, and reports whether any was.
func (s *set) age(now time.Time, c *Config) (changed bool) {
	for i := range *s {
		k := &(*s)[i]
		switch {
		case k.state == Published && (s.newest(k.algorithm, Active) == nil || !now.Before(k.since.Add(c.hold()))):
			if old := s.newest(k.algorithm, Active); old != nil {
				old.enter(Retiring, now)
			}
			k.enter(Active, now)
		case k.state == Retiring && !now.Before(k.since.Add(grace)):
			k.enter(Revoked, now)
			k.private = nil
		default:
			continue
		}
		changed = true
	}
	n := len(*s)
	*s = slices.DeleteFunc(*s, func(k key) bool { return k.state == Revoked && !now.Before(k.since.Add(memory)) })
	return changed || len(*s) != n
}

func (k *key) enter(state State, now time.Time) { k.state, k.since = state, now }

// seen notes that the records of these selectors are in DNS.
func (s *set) seen(selectors []string, now time.Time) (changed bool) {
	for i := range *s {
		if k := &(*s)[i]; k.state == Pending && slices.Contains(selectors, k.selector) {
			k.enter(Published, now)
			changed = true
		}
	}
	return changed
}

// next is when the keys are to be looked at again, at the latest at limit.
func (s set) next(c *Config, limit time.Time) time.Time {
	for i := range s {
		k := &s[i]
		at := limit
		switch {
		case k.state == Published:
			at = k.since.Add(c.hold())
		case k.state == Active && c.Rotate && s.newest(k.algorithm, Pending, Published) == nil:
			at = k.since.Add(c.Interval)
		case k.state == Retiring:
			at = k.since.Add(grace)
		case k.state == Revoked:
			at = k.since.Add(memory)
		}
		if at.Before(limit) {
			limit = at
		}
	}
	return limit
}
