package certs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

func window(start, end time.Time) acme.RenewalInfo {
	var info acme.RenewalInfo
	info.SuggestedWindow.Start, info.SuggestedWindow.End = start, end
	return info
}

func TestRenewalTime(t *testing.T) {
	const day = 24 * time.Hour
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		what           string
		life           time.Duration
		info           acme.RenewalInfo
		earliest, most time.Duration // after start
	}{
		{"a third left", 90 * day, acme.RenewalInfo{}, 60 * day, 60 * day},
		{"half of a short one", 6 * day, acme.RenewalInfo{}, 3 * day, 3 * day},
		{"as suggested", 90 * day, window(start.Add(10*day), start.Add(11*day)), 10 * day, 11 * day},
		{"suggested too late", 90 * day, window(start.Add(200*day), start.Add(300*day)), 81 * day, 81 * day},
		{"suggested until the end", 90 * day, window(start.Add(80*day), start.Add(90*day)), 80 * day, 81 * day},
		{"at once", 90 * day, window(start.Add(-2*day), start.Add(-day)), -2 * day, -day},
	} {
		pair := testPair(t, start, test.life, "example.com")
		for range 100 {
			if after := renewalTime(pair, test.info).Sub(start); after < test.earliest || after > test.most {
				t.Fatalf("%s: after %v, want %v to %v", test.what, after, test.earliest, test.most)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, test := range []struct {
		failures int
		wish     time.Duration
		want     time.Duration
	}{{1, 0, time.Minute}, {2, 0, 2 * time.Minute}, {5, 0, 16 * time.Minute}, {100, 0, MaxRetryInterval}, {1 << 30, 0, MaxRetryInterval}, {1, 24 * time.Hour, 24 * time.Hour}, {3, time.Second, 4 * time.Minute}} {
		for range 50 {
			if d := backoff(time.Minute, test.failures, test.wish); d < test.want || d > test.want+test.want/10 {
				t.Errorf("after %d failures, %v wished for: %v", test.failures, test.wish, d)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "-5": 0, "soon": 0, "99999999999999999999": 0, "2147483647": maxRetryAfter,
		"Thu, 01 Jan 2026 01:00:00 GMT": time.Hour, "Thu, 01 Jan 2025 01:00:00 GMT": 0, "Thu, 01 Jan 2099 01:00:00 GMT": maxRetryAfter,
	} {
		if d := retryAfter(text, now); d != want {
			t.Errorf("%q: %v, want %v", text, d, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Thu, 01 Jan 2026 01:00:00 GMT")
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s, time.Now()); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %v", s, d)
		}
	})
}

func TestErrorText(t *testing.T) {
	if s := errorText(errors.New("no\x1b[31m\r\nway\xff\u202e, ünïcode")); s != "no [31m  way? , ünïcode" {
		t.Errorf("%q", s)
	}
	if s := errorText(errors.New(strings.Repeat("ü", 5000))); len(s) > maxErrorText+10 {
		t.Errorf("%d bytes", len(s))
	}
}

func TestBucket(t *testing.T) {
	var b bucket
	now := time.Now()
	for i := range 10 {
		if !b.take(now, 10) {
			t.Fatalf("the %dth at once", i+1)
		}
	}
	if b.take(now, 10) || b.take(now.Add(5*time.Second), 10) {
		t.Error("more than ten at once")
	}
	if !b.take(now.Add(7*time.Second), 10) || b.take(now.Add(7*time.Second), 10) {
		t.Error("not one more after some six seconds")
	}
	if !b.take(now.Add(time.Hour), 10) {
		t.Error("an hour later")
	}
}

// A certificate that is as good as expired when it comes is no reason to order
// the next one at once.
func TestRestAfterShortLife(t *testing.T) {
	m := newManager(t, Config{RetryInterval: time.Minute})
	c := m.newManaged("example.com", false)
	now := time.Now()
	for _, life := range []time.Duration{time.Second, -time.Hour} {
		c.use(testPair(t, now, life, "example.com"), acme.RenewalInfo{}, now)
		if next := c.nextRenewal(); next.Before(now.Add(time.Minute)) {
			t.Errorf("%v: renewed after %v", life, next.Sub(now))
		}
	}
}
