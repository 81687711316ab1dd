package dnsserver

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// randomName returns a wire name of few labels, of which many are alike.
func randomName(r *rand.Rand, zone string) string {
	name := zone
	for range r.IntN(4) {
		label := make([]byte, 1+r.IntN(3))
		for i := range label {
			if r.IntN(8) == 0 {
				label[i] = lower(byte(r.IntN(256)))
			} else {
				label[i] = "ab0-_*"[r.IntN(6)]
			}
		}
		if len(name)+len(label)+1 <= maxName {
			name = string(rune(len(label))) + string(label) + name
		}
	}
	return name
}

func TestKeysHaveCanonicalOrder(t *testing.T) {
	// RFC 4034 section 6.1
	names := []string{"example.", "a.example.", "yljkjljk.a.example.", "Z.a.example.", "zABC.a.EXAMPLE.", "z.example.",
		`\001.z.example.`, "*.z.example.", `\200.z.example.`}
	var keys []string
	for _, name := range names {
		wire, err := wireName(name)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, keyOf(wire))
	}
	if !slices.IsSorted(keys) {
		t.Errorf("not in order: %q", keys)
	}
}

// compareNames is the order of RFC 4034 section 6.1, spelt out.
func compareNames(a, b string) int {
	split := func(s string) (labels []string) {
		for ; s[0] != 0; s = s[int(s[0])+1:] {
			labels = append(labels, s[1:int(s[0])+1])
		}
		slices.Reverse(labels)
		return labels
	}
	return slices.Compare(split(a), split(b))
}

func TestKeysOfAnyNames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		a, b := randomName(r, "\x00"), randomName(r, "\x00")
		ka, kb := keyOf(a), keyOf(b)
		if got, want := strings.Compare(ka, kb), compareNames(a, b); got != want {
			t.Fatalf("%q, %q: %d, want %d", a, b, got, want)
		}
		if got := string(appendLabels(nil, ka)) + "\x00"; got != a {
			t.Fatalf("%q came back as %q", a, got)
		}
		if below := isBelow(a, b); below != strings.HasPrefix(ka, kb) {
			t.Fatalf("%q below %q: %t", a, b, below)
		}
		if a != "\x00" {
			if up := a[int(a[0])+1:]; parentKey(ka) != keyOf(up) {
				t.Fatalf("%q is not above %q", up, a)
			}
		}
		for _, c := range []byte(ka) {
			if int(c) >= 63 {
				t.Fatalf("symbol %d", c)
			}
		}
	}
}

func TestWireName(t *testing.T) {
	for text, want := range map[string]string{
		".": "\x00", "a.": "\x01a\x00", "A.b": "\x01a\x01b\x00", `a\.b.c.`: "\x03a.b\x01c\x00", `\065\000.`: "\x02a\x00\x00", "*.a": "\x01*\x01a\x00",
	} {
		if got, err := wireName(text); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	long := strings.Repeat("a", 63)
	for _, text := range []string{"", "..", "a..b", ".a", `a\`, `a\1`, `a\25`, `a\256`, long + "a", strings.Repeat(long+".", 4)} {
		if got, err := wireName(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		name := randomName(r, "\x00")
		text := nameText(name)
		if back, err := wireName(text); back != name || err != nil {
			t.Fatalf("%q written as %q came back as %q, %v", name, text, back, err)
		}
		if buf := make([]byte, 300); name != "\x00" {
			n, err := dns.PackDomainName(text, buf, 0, nil, false)
			if err != nil || string(buf[:n]) != name {
				t.Fatalf("%q: miekg reads %q as %q, %v", name, text, buf[:n], err)
			}
		}
	}
}
