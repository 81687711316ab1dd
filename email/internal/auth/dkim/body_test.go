package dkim

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
)

// canonicalBody is RFC 6376 sections 3.4.3 and 3.4.4 in a few words.
func canonicalBody(c Canon, body string) string {
	space := regexp.MustCompile(`[ \t]+`)
	lines := strings.Split(body, "\r\n")
	if c == Relaxed {
		for i, line := range lines {
			lines[i] = strings.TrimSuffix(space.ReplaceAllString(line, " "), " ")
		}
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 && c == Relaxed {
		return ""
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

func checkBody(t *testing.T, body string) {
	t.Helper()
	for _, c := range []Canon{Simple, Relaxed} {
		want := canonicalBody(c, body)
		for _, length := range []int64{-1, 3} {
			covered := want
			if length >= 0 {
				covered = want[:min(int64(len(want)), length)]
			}
			for name, b := range map[string]*Body{
				"whole": NewBody(strings.NewReader(body)), "by bytes": NewBody(iotest.OneByteReader(strings.NewReader(body))),
				"by halves": NewBody(iotest.HalfReader(iotest.DataErrReader(strings.NewReader(body)))),
			} {
				sum, total, err := b.Sum(c, length)
				if hash := sha256.Sum256([]byte(covered)); err != nil || !bytes.Equal(sum, hash[:]) || total != int64(len(want)) {
					t.Fatalf("%s, %s, l=%d of %q: %d bytes, want those of %q (%v)", name, c, length, body, total, want, err)
				}
			}
		}
	}
}

func TestBody(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var b strings.Builder
		for range rng.IntN(12) {
			b.WriteString([]string{"a", " ", "\t", "\r", "\n", "\r\n", "\r\n\r\n", "\xc3\xbc"}[rng.IntN(8)])
		}
		checkBody(t, b.String())
	}
	checkBody(t, strings.Repeat("\r\n", 20000)+"x")
	checkBody(t, strings.Repeat("x", 20000)+strings.Repeat(" ", 20000)+strings.Repeat("\r\n", 20000))
}

func FuzzBody(f *testing.F) {
	f.Add("a \r\n\r\n b\t\tc\r\n \r\n")
	f.Add("\r\r\n\n \r")
	f.Fuzz(checkBody)
}
