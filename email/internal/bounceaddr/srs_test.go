package bounceaddr

import (
	"errors"
	"strings"
	"testing"
)

func newSRS(t testing.TB, domain string, c Config) *SRS {
	t.Helper()
	s, err := NewSRS(domain, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSRS(t *testing.T) {
	c := newClock()
	first := newSRS(t, "first.example", c.config(secret("a")))
	second := newSRS(t, "second.example", c.config(secret("b")))
	third := newSRS(t, "third.example", c.config(secret("c")))
	for _, sender := range []string{
		"bob@example.com", "Bob.Smith+list@example.com", "a=b=c@example.com", "SRS0=x@example.com", "srs1=x=y@example.com",
		`"a b"@example.com`, "zoë@xn--bcher-kva.example", "prvs=123456789=bob@example.com",
	} {
		one, err := first.Forward(sender)
		if err != nil || !strings.HasPrefix(one, "SRS0=") && !strings.HasPrefix(one, `"SRS0=`) {
			t.Errorf("%s: %s, %v", sender, one, err)
			continue
		}
		if got, err := first.Reverse(one); err != nil || got != sender {
			t.Errorf("%s comes back from %s as %s, %v", sender, one, got, err)
		}
		// Some servers on the way change letters to those of another case.
		if got, err := first.Reverse(strings.ToLower(one)); err != nil || !strings.EqualFold(got, sender) {
			t.Errorf("%s in lower case: %s, %v", one, got, err)
		}
		two, err := second.Forward(one)
		if errors.Is(err, ErrTooLong) {
			continue
		}
		if err != nil || !strings.HasPrefix(strings.Trim(two, `"`), "SRS1=") {
			t.Errorf("%s: %s, %v", one, two, err)
			continue
		}
		three, err := third.Forward(two)
		if err != nil {
			t.Errorf("%s: %v", two, err)
			continue
		}
		for _, step := range []struct {
			by   *SRS
			from string
		}{{second, two}, {third, three}} {
			if got, err := step.by.Reverse(step.from); err != nil || got != one {
				t.Errorf("%s comes back from %s as %s, %v", one, step.from, got, err)
			}
		}
	}
}

func TestSRSLeavesAlone(t *testing.T) {
	s := newSRS(t, "first.example", newClock().config(secret("a")))
	for _, sender := range []string{"", "bob@first.example", "SRS0=AAAA=AA=example.com=bob@FIRST.example"} {
		if got, err := s.Forward(sender); err != nil || got != sender {
			t.Errorf("%q: %q, %v", sender, got, err)
		}
	}
	long := strings.Repeat("a", 40)
	for _, sender := range []string{long + "@example.com", "bob@" + long + ".example.com", "SRS0=AAAA=AA=example.com=" + long + "@example.net"} {
		if got, err := s.Forward(sender); !errors.Is(err, ErrTooLong) || got != "" {
			t.Errorf("%q: %q, %v", sender, got, err)
		}
	}
	for _, sender := range []string{"bob", "bob@", "bob@example.com>\r\n", "<bob@example.com>"} {
		if got, err := s.Forward(sender); err == nil || got != "" {
			t.Errorf("%q: %q", sender, got)
		}
	}
}

func TestSRSForged(t *testing.T) {
	c := newClock()
	s := newSRS(t, "first.example", c.config(secret("a")))
	for _, sender := range []string{"bob@example.com", "SRS0=AAAA=AA=example.com=bob@other.example"} {
		good, err := s.Forward(sender)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			forged := good[:i] + "~" + good[i+1:]
			if got, err := s.Reverse(forged); !errors.Is(err, ErrForged) && !errors.Is(err, ErrNotOurs) {
				t.Errorf("%s: %s, %v", forged, got, err)
			}
		}
		if _, err := newSRS(t, "first.example", c.config(secret("b"))).Reverse(good); !errors.Is(err, ErrForged) {
			t.Error("with another secret:", err)
		}
		if _, err := newSRS(t, "first.example", c.config(secret("b"), secret("a"))).Reverse(good); err != nil {
			t.Error("with the secret as the second one:", err)
		}
	}
	for _, a := range []string{
		"", "bob@first.example", "SRS0=@first.example", "SRS0=a=b@first.example", "SRS0=aaaa=AA=example.com=@first.example",
		"SRS0=aaaa=A=example.com=b@first.example", "SRS0=aaaa=A1=example.com=b@first.example", "SRS2=aaaa=AA=example.com=b@first.example",
		"SRS1=aaaa=example.com@first.example", "SRS1=aaaa==AA=x@first.example", "SRS1=@first.example", "SRS0x@first.example",
	} {
		if got, err := s.Reverse(a); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%q: %q, %v", a, got, err)
		}
	}
	// A hash of fewer characters can be guessed.
	good, _ := s.Forward("bob@example.com")
	short := strings.Replace(good, good[:9], good[:8], 1)
	if got, err := s.Reverse(short); !errors.Is(err, ErrForged) {
		t.Errorf("%s: %s, %v", short, got, err)
	}
}

func TestSRSExpires(t *testing.T) {
	c := newClock()
	start := c.now
	s := newSRS(t, "first.example", c.config(secret("a")))
	good, err := s.Forward("bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int]error{-2: ErrExpired, -1: nil, 0: nil, 21: nil, 22: ErrExpired, 500: ErrExpired} {
		c.now = start.AddDate(0, 0, days)
		if _, err := s.Reverse(good); !errors.Is(err, want) {
			t.Errorf("after %d days: %v", days, err)
		}
	}
}

func FuzzSRS(f *testing.F) {
	c := newClock()
	ours := newSRS(f, "first.example", c.config(secret("a")))
	other := newSRS(f, "second.example", c.config(secret("b")))
	f.Add("bob@example.com")
	f.Add("SRS0=AAAA=AA=example.com=bob@other.example")
	f.Add("SRS1+AAAA=example.com=+AAAA=AA=example.com=bob@other.example")
	f.Add(`"SRS0=a b"@example.com`)
	f.Fuzz(func(t *testing.T, sender string) {
		if got, err := ours.Reverse(sender); err == nil {
			t.Errorf("%q is taken for ours, of %q", sender, got)
		}
		one, err := other.Forward(sender)
		if err != nil || one == sender {
			return
		}
		two, err := ours.Forward(one)
		if err != nil {
			return
		}
		// What two forwarders did is undone by the second, up to the first.
		back, err := ours.Reverse(two)
		if err != nil {
			t.Fatalf("%q, %q, %q: %v", sender, one, two, err)
		}
		if strings.HasPrefix(strings.Trim(one, `"`), "SRS0=") && back != one {
			t.Errorf("%q, %q, %q comes back as %q", sender, one, two, back)
		}
	})
}

// An address with a hash that can be found by trying is not taken, though it is the
// beginning of the right one.
func TestSRSHashLength(t *testing.T) {
	c := newClock()
	cfg := c.config(secret("a"))
	sure := newSRS(t, "first.example", cfg)
	cfg.HashLength = 4
	weak := newSRS(t, "first.example", cfg)
	for _, sender := range []string{"bob@example.com", "SRS0=AAAA=AA=example.com=bob@other.example"} {
		short, err := weak.Forward(sender)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := sure.Reverse(short); err != ErrForged {
			t.Errorf("%s: %s, %v", short, back, err)
		}
		long, err := sure.Forward(sender)
		if err != nil || len(long) != len(short)+srsHash-4 {
			t.Errorf("%s, %v", long, err)
		}
		if _, err := weak.Reverse(long); err != nil {
			t.Errorf("%s: %v", long, err)
		}
	}
	for _, n := range []int{-1, 3, 28} {
		cfg.HashLength = n
		if _, err := NewSRS("first.example", cfg); err == nil {
			t.Errorf("a hash of %d characters is taken", n)
		}
	}
}
