package smtpc

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func read(s string) (Reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(s), maxReplyLine))
}

func TestReplies(t *testing.T) {
	for in, want := range map[string]string{
		"250 ok\r\n":                  "250  [ok]",
		"250\r\n":                     "250  []",
		"250 \r\n":                    "250  []",
		"250 ok\n":                    "250  [ok]",
		"250-a\r\n250-b\r\n250 c\r\n": "250  [a b c]",
		"550 5.1.1 no such user\r\n":  "550 5.1.1 [no such user]",
		"550-5.1.1 no such\r\n550 5.1.1 user\r\n":     "550 5.1.1 [no such user]",
		"550-5.1.1 no such\r\n550 user\r\n":           "550 5.1.1 [no such user]",
		"550-no\r\n550 5.1.1 user\r\n":                "550  [no 5.1.1 user]",
		"550 4.1.1 of another class\r\n":              "550  [4.1.1 of another class]",
		"550 5.1 of two numbers\r\n":                  "550  [5.1 of two numbers]",
		"550 5.1.1234 of too many digits\r\n":         "550  [5.1.1234 of too many digits]",
		"550 5.1.1\r\n":                               "550 5.1.1 []",
		"250 a\tb\x1b[31m\x00\x7f\r\n":                "250  [a b?[31m??]",
		"250 gr\xfc\xdfe, gr\u00fc\u00dfe \u0085\r\n": "250  [gr??e, grüße ?]",
	} {
		r, err := read(in)
		if got := fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Lines); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"":                   errClosed,
		"250 ok":             errClosed,
		"250-a\r\n":          errClosed,
		"\r\n":               errReplyMalformed,
		"25 ok\r\n":          errReplyMalformed,
		"ok\r\n":             errReplyMalformed,
		"150 ok\r\n":         errReplyMalformed,
		"650 ok\r\n":         errReplyMalformed,
		"2x0 ok\r\n":         errReplyMalformed,
		"250ok\r\n":          errReplyMalformed,
		"250-a\r\n251 b\r\n": errReplyMalformed,
		"250 " + strings.Repeat("x", 3000) + "\r\n":                  errReplyTooLong,
		strings.Repeat("250-x\r\n", 1000):                            errReplyTooLong,
		strings.Repeat("250-"+strings.Repeat("x", 1000)+"\r\n", 100): errReplyTooLong,
	} {
		if r, err := read(in); !errors.Is(err, want) {
			t.Errorf("%.60q: %v, %v; want %v", in, r, err, want)
		}
	}
}

// No reply must be able to break the line of whoever shows it.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "550 5.1.1 no\r\n", "421\r\n", "250-\x00\xff\r\n250 \r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := read(in)
		if err != nil {
			if r.Code != 0 {
				t.Error("a reply along with an error")
			}
			return
		}
		if r.Code < 200 || r.Code > 599 || len(r.Lines) == 0 || len(r.Lines) > maxReplyLines {
			t.Errorf("the reply %+v", r)
		}
		s := r.String()
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			t.Errorf("%q is not printable", s)
		}
		if again, err := read(s + "\r\n"); len(r.Lines) == 1 && (err != nil || again.String() != s) {
			t.Errorf("%q was read again as %q, %v", s, again, err)
		}
	})
}
