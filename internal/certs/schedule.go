package certs

import (
	"math/rand/v2"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// renewalTime is when to renew a certificate: when the authority says (RFC 9773
// section 4.2), or when a third of its life is left, of short ones a half, as
// Let's Encrypt advises. Either way there is time left for attempts that fail.
func renewalTime(k *keyPair, info acme.RenewalInfo) time.Time {
	life := k.leaf().NotAfter.Sub(k.leaf().NotBefore)
	left := life / 3
	if life < 10*24*time.Hour {
		left = life / 2
	}
	at := k.leaf().NotAfter.Add(-left)
	if info.HasWindow() {
		at = info.SelectedTime
		if latest := k.leaf().NotAfter.Add(-life / 10); at.After(latest) {
			at = latest
		}
	}
	return at
}

// suggestionTime is when to ask the authority again about the renewal of a
// certificate (RFC 9773 section 4.3.1).
func suggestionTime(k *keyPair, info acme.RenewalInfo, now time.Time) time.Time {
	wait := 6 * time.Hour
	if info.RetryAfter != nil {
		wait = min(max(info.RetryAfter.Sub(now), time.Minute), 24*time.Hour)
	}
	life := k.leaf().NotAfter.Sub(k.leaf().NotBefore)
	return now.Add(min(wait, max(life/10, time.Minute)))
}

// backoff is the pause after failures in a row, the last of which came with a
// wish of the authority. It is spread by a tenth, so that what failed together
// does not try again together.
func backoff(first time.Duration, failures int, wish time.Duration) time.Duration {
	d := first
	for i := 1; i < failures && d < MaxRetryInterval; i++ {
		d *= 2
	}
	d = max(min(d, MaxRetryInterval), wish)
	return d + rand.N(d/10+1)
}
