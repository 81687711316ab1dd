package bounceaddr

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func secret(c string) []byte { return []byte(strings.Repeat(c, minSecret)) }

// A clock that tests set.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{now: time.Date(2026, 7, 4, 23, 59, 0, 0, time.UTC)} }

func (c *clock) config(secrets ...[]byte) Config {
	return Config{Secrets: secrets, Now: func() time.Time { return c.now }}
}

func newVERP(t testing.TB, c Config) *VERP {
	t.Helper()
	v, err := NewVERP(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const testID = "06gz1vknm3x2c4w8r5tj"

func TestVERP(t *testing.T) {
	c := newClock()
	v := newVERP(t, c.config(secret("a")))
	address, err := v.Encode(testID, 65535, "Mail.Example.com")
	if err != nil {
		t.Fatal(err)
	}
	local, _, _ := strings.Cut(address, "@")
	if len(local) > 64 || address != strings.ToLower(address) {
		t.Errorf("%q", address)
	}
	want := Bounce{ID: testID, Recipient: 65535, Domain: "mail.example.com", Day: time.Date(2026, 7, 4, 0, 0, 0, 0, time.UTC)}
	for _, a := range []string{address, strings.ToUpper(address), strings.Replace(address, "bounce", "Bounce", 1)} {
		if got, err := v.Decode(a); err != nil || got != want {
			t.Errorf("%s: %+v, %v", a, got, err)
		}
	}
	again, err := v.Encode(testID, 0, "mail.example.com")
	if err != nil || again == address {
		t.Error(again, err)
	}
}

// Whatever character is changed, the address is no good any more.
func TestVERPForged(t *testing.T) {
	c := newClock()
	v := newVERP(t, c.config(secret("a")))
	address, err := v.Encode(testID, 7, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	for i := range address {
		for _, b := range []byte("abz27.-@+") {
			if address[i] == b {
				continue
			}
			forged := address[:i] + string(b) + address[i+1:]
			if got, err := v.Decode(forged); !errors.Is(err, ErrForged) && !errors.Is(err, ErrNotOurs) {
				t.Errorf("%s: %+v, %v", forged, got, err)
			}
		}
	}
	if got, err := v.Decode(strings.Replace(address, "k", "\u212a", 1)); !errors.Is(err, ErrNotOurs) {
		t.Errorf("with a Kelvin sign for the k: %+v, %v", got, err)
	}
	if _, err := newVERP(t, c.config(secret("b"))).Decode(address); !errors.Is(err, ErrForged) {
		t.Error("with another secret:", err)
	}
	if _, err := v.Decode(strings.Replace(address, "example.com", "example.net", 1)); !errors.Is(err, ErrForged) {
		t.Error("in another domain:", err)
	}
	for _, a := range []string{"", "bounce", "bounce+", "bounce+@example.com", "bob@example.com", "bounce+x@example.com", "bounce+x.y@example.com", "bounce+" + testID + ".aaaaaaaaaaaaaaaaaaaaaaa1@example.com", "bounce+.aaaaaaaaaaaaaaaaaaaaaaaa@example.com"} {
		if _, err := v.Decode(a); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%q: %v", a, err)
		}
	}
}

func TestVERPExpires(t *testing.T) {
	c := newClock()
	start := c.now
	v := newVERP(t, c.config(secret("a")))
	address, err := v.Encode(testID, 0, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int]error{-2: ErrExpired, -1: nil, 0: nil, 14: nil, 15: ErrExpired, 400: ErrExpired} {
		c.now = start.AddDate(0, 0, days)
		got, err := v.Decode(address)
		if !errors.Is(err, want) || got.ID != testID {
			t.Errorf("after %d days: %+v, %v", days, got, err)
		}
		if days >= -1 && !got.Day.Equal(start.Truncate(day)) {
			t.Errorf("after %d days it is of %v", days, got.Day)
		}
	}
}

func TestVERPRotation(t *testing.T) {
	c := newClock()
	old := newVERP(t, c.config(secret("a")))
	both := newVERP(t, c.config(secret("b"), secret("a")))
	fresh := newVERP(t, c.config(secret("b")))
	for _, test := range []struct {
		by, at *VERP
		want   error
	}{{old, both, nil}, {both, fresh, nil}, {both, old, ErrForged}, {old, fresh, ErrForged}} {
		address, err := test.by.Encode(testID, 1, "example.com")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := test.at.Decode(address); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
	}
}

func TestVERPRefuses(t *testing.T) {
	v := newVERP(t, newClock().config(secret("a")))
	if a, err := v.Encode(strings.Repeat("a", maxID), maxIndex, "example.com"); err != nil || len(a)-len("@example.com") != maxLocal {
		t.Error("the longest:", a, err)
	}
	for _, test := range []struct {
		id     string
		rcpt   int
		domain string
		want   error
	}{
		{strings.Repeat("a", maxID+1), 0, "example.com", ErrTooLong},
		{"a", maxIndex + 1, "example.com", ErrTooLong},
		{"a", 0, strings.Repeat("a.", 120) + "com", ErrTooLong},
		{"a", -1, "example.com", nil},
		{"A", 0, "example.com", nil},
		{"a.b", 0, "example.com", nil},
		{"", 0, "example.com", nil},
		{"a", 0, "", nil},
		{"a", 0, "example.com>\r\nRSET", nil},
	} {
		a, err := v.Encode(test.id, test.rcpt, test.domain)
		if a != "" || err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%+v: %q, %v", test, a, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{},
		{Secrets: [][]byte{[]byte("geheim")}},
		{Secrets: [][]byte{secret("a"), nil}},
		{Secrets: [][]byte{secret("a")}, MaxAge: -1},
		{Secrets: [][]byte{secret("a")}, MaxAge: 100 * 365 * day},
	} {
		if _, err := NewVERP(c); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("VERP %+v: %v", c, err)
		}
		if _, err := NewSRS("example.com", c); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("SRS %+v: %v", c, err)
		}
	}
	if _, err := NewSRS("example com", Config{Secrets: [][]byte{secret("a")}}); err == nil {
		t.Error("a domain with a space")
	}
}

func FuzzVERP(f *testing.F) {
	v := newVERP(f, newClock().config(secret("a")))
	good, err := v.Encode(testID, 3, "example.com")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(strings.Replace(good, "+", "+a", 1))
	f.Add("bounce+x.aaaaaaaaaaaaaaaaaaaaaaaa@example.com")
	f.Fuzz(func(t *testing.T, address string) {
		b, err := v.Decode(address)
		if err != nil {
			return
		}
		again, err := v.Encode(b.ID, b.Recipient, b.Domain)
		if err != nil || again != good {
			t.Errorf("%q passes as %+v, %v", address, b, err)
		}
	})
}
