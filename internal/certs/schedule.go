package certs

import (
	"math/rand/v2"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// renewalTime is when to renew a certificate: at some time in the window that
// the authority suggests (RFC 9773 section 4.2), or when a third of its life is
// left, of short ones a half, as Let's Encrypt advises. Either way there is time
// left for attempts that fail.
func renewalTime(k *keyPair, info acme.RenewalInfo) time.Time {
	life := k.leaf().NotAfter.Sub(k.leaf().NotBefore)
	if info.HasWindow() {
		start, end := info.SuggestedWindow.Start, info.SuggestedWindow.End
		if latest := k.leaf().NotAfter.Add(-life / 10); end.After(latest) {
			end = latest
		}
		if start.After(end) {
			start = end
		}
		return start.Add(rand.N(end.Sub(start) + 1))
	}
	left := life / 3
	if life < 10*24*time.Hour {
		left = life / 2
	}
	return k.leaf().NotAfter.Add(-left)
}

// rest is for how long a new certificate is not renewed, whatever the authority
// suggests and the responder says: they could be wrong about each one.
func rest(k *keyPair) time.Duration {
	return min(time.Hour, k.leaf().NotAfter.Sub(k.leaf().NotBefore)/10)
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
