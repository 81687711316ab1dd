package smtpc

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
)

// stuff sends content through a dotWriter.
func stuff(content io.Reader) (string, error) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	d := &dotWriter{w: w, lines: newlines{lineStart: true}}
	_, err := io.Copy(struct{ io.Writer }{d}, struct{ io.Reader }{content})
	if err == nil {
		err = d.end()
	}
	w.Flush()
	return out.String(), err
}

func TestDotsAreDoubled(t *testing.T) {
	for in, want := range map[string]string{
		"":                       ".\r\n",
		"a":                      "a\r\n.\r\n",
		"a\r\n":                  "a\r\n.\r\n",
		".":                      "..\r\n.\r\n",
		".\r\n":                  "..\r\n.\r\n",
		"..\r\n.a\r\na.\r\n":     "...\r\n..a\r\na.\r\n.\r\n",
		"a\r\n.\r\nMAIL FROM:<>": "a\r\n..\r\nMAIL FROM:<>\r\n.\r\n",
		"\r\n\r\n.\r\n":          "\r\n\r\n..\r\n.\r\n",
		"nul \x00 and \xff\r\n":  "nul \x00 and \xff\r\n.\r\n",
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in))} {
			if got, err := stuff(r); got != want || err != nil {
				t.Errorf("%q %s: %q, %v; want %q", in, name, got, err, want)
			}
		}
	}
}

// The endings with which servers were made to see the end of a message where
// there is none must never go out.
func TestBareNewlinesAreNotSent(t *testing.T) {
	for _, in := range []string{
		"a\nb\r\n", "a\rb\r\n", "\n", "\r", "a\r", "a\r\r\n", "a\n\r\n", "a\r\n\n", "\r\r\n", "\n\r",
		"a\n.\nb", "a\n.\r\nb", "a\r.\r\nb", "a\r\n.\nb", "a\r\n.\rb", "a\r.\rb", "a\r\n\r.\r\nb", "a\r\n.\r\r\nb", "a\x00\n.\r\n",
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in))} {
			got, err := stuff(r)
			if !errors.Is(err, ErrBareNewline) || strings.HasSuffix(got, "\r\n.\r\n") {
				t.Errorf("%q %s: %q, %v", in, name, got, err)
			}
		}
	}
}

func FuzzContent(f *testing.F) {
	for _, s := range []string{"", ".", "a\r\n.\r\n", "a\r", "\n", "..\r\n\r\n.", "a\r\r\n"} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = max(1, min(size, 64))
		var chunks []io.Reader
		for rest := in; len(rest) > 0; {
			n := min(size, len(rest))
			chunks = append(chunks, bytes.NewReader(rest[:n]))
			rest = rest[n:]
		}
		out, err := stuff(io.MultiReader(chunks...))
		clean := strings.ReplaceAll(string(in), "\r\n", "")
		if bare := strings.ContainsAny(clean, "\r\n"); bare != (err != nil) {
			t.Fatalf("%q: %v", in, err)
		}
		if err != nil {
			return
		}
		if n := strings.Index("\r\n"+out, "\r\n.\r\n"); n != len(out)-3 {
			t.Fatalf("%q ends at %d of %q", in, n, out)
		}
		want := string(in)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		var got strings.Builder
		for line := range strings.SplitAfterSeq(strings.TrimSuffix(out, ".\r\n"), "\r\n") {
			got.WriteString(strings.TrimPrefix(line, "."))
		}
		if got.String() != want {
			t.Fatalf("%q came back as %q", want, got.String())
		}
		back, err := io.ReadAll(textproto.NewReader(bufio.NewReader(strings.NewReader(out))).DotReader())
		if err != nil || string(back) != strings.ReplaceAll(want, "\r\n", "\n") {
			t.Fatalf("net/textproto reads %q, %v", back, err)
		}
	})
}
