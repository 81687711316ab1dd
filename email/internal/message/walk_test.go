package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func section(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

// crlf writes a message with the line endings of SMTP.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// describe is a line for each part: depth, type, name and the decoded content.
func describe(t testing.TB, s string, limits Limits) (string, error) {
	var b strings.Builder
	index := 0
	err := Walk(section(s), limits, func(p *Part) error {
		if p.Index != index {
			t.Errorf("index %d instead of %d", p.Index, index)
		}
		index++
		fmt.Fprintf(&b, "%d %s", p.Depth, p.MediaType)
		if p.Filename != "" {
			fmt.Fprintf(&b, " name=%s", strings.Join(p.Names, "|"))
		}
		if len(p.Defects) > 0 {
			fmt.Fprintf(&b, " defects=%s", strings.Join(p.Defects, "|"))
		}
		if p.IsAttachment() {
			b.WriteString(" attachment")
		}
		if p.IsLeaf() {
			content, err := io.ReadAll(p.Open())
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(&b, " %q", content)
			again, err := p.Section()
			if err != nil {
				t.Error(err)
			} else if same, err := io.ReadAll(again); err != nil || !bytes.Equal(same, content) {
				t.Errorf("Section gives %q, %v, not %q", same, err, content)
			}
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String(), err
}

func TestWalk(t *testing.T) {
	const head = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
	tests := []struct{ name, in, want string }{
		{"plain", "Subject: x\n\nhello\n", "0 text/plain \"hello\\r\\n\"\n"},
		{"empty", "", "0 text/plain \"\"\n"},
		{"two parts", head + "preamble\n--b\n\none\n--b\nContent-Type: text/html\n\ntwo\n\n--b--\nepilogue\n",
			"0 multipart/mixed\n1 text/plain \"one\"\n1 text/html \"two\\r\\n\"\n"},
		{"white space behind delimiters", head + "--b \t\n\none\n--b--  \n", "0 multipart/mixed\n1 text/plain \"one\"\n"},
		{"no delimiter, longer", head + "--b\n\none\n--bc\n -- b\n--b--\n", "0 multipart/mixed\n1 text/plain \"one\\r\\n--bc\\r\\n -- b\"\n"},
		{"not closed", head + "--b\n\none\n", "0 multipart/mixed\n1 text/plain \"one\\r\\n\"\n"},
		{"after the end", head + "--b\n\none\n--b--\nx\n--b\n\ntwo\n--b--\n", "0 multipart/mixed\n1 text/plain \"one\"\n1 text/plain \"two\"\n"},
		{"no header in a part", head + "--b\none\n--b\n--b--\n", "0 multipart/mixed\n1 text/plain \"one\"\n1 text/plain \"\"\n"},
		{"delimiter within a header", "Content-Type: multipart/mixed; boundary=\"a:b\"\n\n--a:b\nContent-Type: text/html\n--a:b\n\ntwo\n--a:b--\n",
			"0 multipart/mixed\n1 text/html \"\"\n1 text/plain \"two\"\n"},
		{"nested", head + "--b\nContent-Type: multipart/alternative; boundary=bb\n\n--bb\n\none\n--bb\nContent-Type: text/html\n\ntwo\n--bb--\n--b\n\nthree\n--b--\n",
			"0 multipart/mixed\n1 multipart/alternative\n2 text/plain \"one\"\n2 text/html \"two\"\n1 text/plain \"three\"\n"},
		{"inner not closed", head + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\none\n--b\n\nthree\n--b--\n",
			"0 multipart/mixed\n1 multipart/alternative\n2 text/plain \"one\"\n1 text/plain \"three\"\n"},
		{"same boundary twice", head + "--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b\n\ntwo\n--b--\n",
			"0 multipart/mixed\n1 multipart/mixed\n2 text/plain \"one\"\n1 text/plain \"two\"\n"},
		{"no boundary", "Content-Type: multipart/mixed\n\nx\n--foo\n\none\n--foo--\n",
			"0 multipart/mixed defects=multipart without a boundary\n1 text/plain \"one\"\n"},
		{"no parts", head + "just text\n", "0 multipart/mixed\n1 text/plain \"just text\\r\\n\"\n"},
		{"no parts, encoded", "Content-Transfer-Encoding: base64\n" + head + "aGVsbG8=\n", "0 multipart/mixed\n1 text/plain \"hello\"\n"},
		{"message", head + "--b\nContent-Type: message/rfc822\n\nSubject: inner\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\none\n--c--\n--b\n\ntwo\n--b--\n",
			"0 multipart/mixed\n1 message/rfc822 attachment\n2 multipart/mixed\n3 text/plain \"one\"\n1 text/plain \"two\"\n"},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: inner\n\none\n--b--\n",
			"0 multipart/digest\n1 message/rfc822 attachment\n2 text/plain \"one\"\n"},
		{"encoded message", head + "--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" +
			"Q29udGVudC1UeXBlOiB0ZXh0L2h0bWwKCm9uZQ==\n--b\n\ntwo\n--b--\n",
			"0 multipart/mixed\n1 message/rfc822 attachment\n2 text/html \"one\"\n1 text/plain \"two\"\n"},
		{"base64", "Content-Transfer-Encoding: BASE64 (really)\n\naGV sb\nG8=!!\nIHlvdQ\n", "0 text/plain \"hello you\"\n"},
		{"quoted-printable", "Content-Transfer-Encoding: quoted-printable\n\nca=66=C3=A9 =\nno break = =4\n=zz\n100% =  \nend=",
			"0 text/plain \"caf\u00e9 no break = =4\\r\\n=zz\\r\\n100% end=\"\n"},
		{"uuencode", "Content-Transfer-Encoding: x-uuencode\n\nbegin 644 a.txt\n#0V%T\n`\nend\n", "0 text/plain \"Cat\"\n"},
		{"bad type", "Content-Type: garbage\n\nx", "0 text/plain defects=unreadable Content-Type \"x\"\n"},
		{"two types", "Content-Type: text/html\nContent-Type: text/plain; name=x.exe\n\nx", "0 text/html name=x.exe defects=several Content-Type attachment \"x\"\n"},
		{"boundary twice", "Content-Type: multipart/mixed; boundary=a; boundary=b\n\n--a\n\nx\n--a--\n",
			"0 multipart/mixed defects=repeated parameter of Content-Type\n1 text/plain \"x\"\n"},
		{"boundary like an encoded word", "Content-Type: multipart/mixed; boundary=\"=?utf-8?Q?a?=\"\n\n--=?utf-8?Q?a?=\n\nx\n--=?utf-8?Q?a?=--\n",
			"0 multipart/mixed\n1 text/plain \"x\"\n"},
		{"8-bit boundary", "Content-Type: multipart/mixed; boundary=\xe4\n\n--\xe4\n\nx\n--\xe4--\n", "0 multipart/mixed\n1 text/plain \"x\"\n"},
		{"names", "Content-Type: application/pdf; name=\"b.pdf\"\nContent-Disposition: attachment; filename=\"C:\\x\\a.exe\"\n\nx",
			"0 application/pdf name=a.exe|b.pdf attachment \"x\"\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := describe(t, crlf(test.in), Limits{})
			if err != nil || got != test.want {
				t.Errorf("%v\ngot\n%s\nwant\n%s", err, got, test.want)
			}
			// Raw is what was sent.
			Walk(section(test.in), Limits{}, func(p *Part) error {
				raw, _ := io.ReadAll(p.Raw())
				if !strings.Contains(test.in, string(raw)) && p.Depth < 2 {
					t.Errorf("raw content %q", raw)
				}
				return nil
			})
		})
	}
}

func TestWalkLimits(t *testing.T) {
	nested := func(n int) string {
		s := "text/plain\n\ninnermost"
		for i := range n {
			s = fmt.Sprintf("multipart/mixed; boundary=b%d\n\n--b%[1]d\nContent-Type: %s", i, s)
		}
		return "Content-Type: " + s
	}
	encoded := "Subject: x\n\ny"
	for range maxEncodedLayers + 1 {
		encoded = "Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n" + strings.ReplaceAll(encoded, "=", "=3D")
	}
	many := func(n int) string {
		return "Content-Type: multipart/mixed; boundary=b\n" + strings.Repeat("\n--b\n", n)
	}
	tests := []struct {
		name, in string
		want     error
	}{
		{"deep", nested(50), nil},
		{"too deep", nested(51), ErrTooDeep},
		{"too deep messages", strings.Repeat("Content-Type: message/rfc822\n\n", 51), ErrTooDeep},
		{"too deeply encoded", encoded, ErrTooDeep},
		{"many", many(999), nil},
		{"too many", many(1000), ErrTooManyParts},
		{"header", "Content-Type: multipart/mixed; boundary=b\n\n--b\n" + strings.Repeat("X: y\n", 14000), ErrHeaderTooLarge},
	}
	for _, test := range tests {
		err := Walk(section(crlf(test.in)), Limits{}, func(*Part) error { return nil })
		if err != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := describe(t, nested(3), Limits{Depth: 2}); err != ErrTooDeep {
		t.Error(err)
	}
	mine := errors.New("mine")
	if err := Walk(section("x"), Limits{}, func(*Part) error { return mine }); err != mine {
		t.Error(err)
	}
}

type failing struct{ at int64 }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.at {
		return 0, io.ErrClosedPipe
	}
	return copy(p, bytes.Repeat([]byte("x\n"), len(p)/2+1)), nil
}

func TestWalkReportsReadErrors(t *testing.T) {
	err := Walk(io.NewSectionReader(failing{200 << 10}, 0, 1<<20), Limits{}, func(*Part) error { return nil })
	if err != io.ErrClosedPipe {
		t.Error(err)
	}
}

func TestSeekable(t *testing.T) {
	plain := make([]byte, 300<<10)
	for i := range plain {
		plain[i] = byte(i * i >> 3)
	}
	var qp strings.Builder
	for i, b := range plain {
		fmt.Fprintf(&qp, "=%02X", b)
		if i%20 == 19 {
			qp.WriteString("=\r\n")
		}
	}
	s, err := newSeekable(section(qp.String()), quotedPrintable)
	if err != nil {
		t.Fatal(err)
	}
	if s.size != int64(len(plain)) || len(s.marks) < 3 {
		t.Fatal(s.size, len(s.marks))
	}
	for i := range 50 {
		off := int64(i) * 7919 * 37 % s.size
		p := make([]byte, 1+i*31%5000)
		n, err := s.ReadAt(p, off)
		want := plain[off:min(int64(len(plain)), off+int64(len(p)))]
		if !bytes.Equal(p[:n], want) || (err != nil) != (n < len(p)) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
	}
}

// Much that is passed over is passed over once.
func TestSeekableWithLittleInIt(t *testing.T) {
	junk := strings.Repeat("!", 2<<20)
	s, err := newSeekable(section("AAAA"+junk+"BBBB"+junk+"CCCC"), base64)
	if err != nil || s.size != 9 {
		t.Fatal(err, s.size)
	}
	if want := 2 * len(junk) / (maxPageRaw + decodeBuffer); len(s.marks) < want {
		t.Errorf("%d marks, and not %d", len(s.marks), want)
	}
	got, err := io.ReadAll(s.section())
	if want := []byte{0, 0, 0, 4, 16, 65, 8, 32, 130}; err != nil || !bytes.Equal(got, want) {
		t.Error(got, err)
	}
}

// repeated is an endless text, as a file would give it.
type repeated string

func (s repeated) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		n += copy(p[n:], s[(off+int64(n))%int64(len(s)):])
	}
	return n, nil
}

// Time is that of reading, whatever the lines look like.
func TestWalkIsLinear(t *testing.T) {
	head := crlf("Content-Type: multipart/mixed; boundary=" + strings.Repeat("x", 900) + "\n\n")
	for range 48 {
		head += crlf("--" + strings.Repeat("x", 900) + "\nContent-Type: multipart/mixed; boundary=" + strings.Repeat("x", 900) + "\n\n")
	}
	for _, line := range []string{"--" + strings.Repeat("x", 899) + "\r\n", "--\r\n", "x\r\n", strings.Repeat("-", 5000)} {
		body := io.MultiReader(strings.NewReader(head), io.NewSectionReader(repeated(line), 0, 4<<20))
		all, _ := io.ReadAll(body)
		if err := Walk(io.NewSectionReader(bytes.NewReader(all), 0, int64(len(all))), Limits{}, func(*Part) error { return nil }); err != nil {
			t.Errorf("%.5q: %v", line, err)
		}
	}
}

func TestMemoryOfLargeMessages(t *testing.T) {
	content := repeated("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NTY3\r\n")
	head := "Content-Transfer-Encoding: base64\r\n\r\n"
	length := int64(50 << 20)
	if testenv.Race {
		length = 2 << 20
	}
	msg := io.NewSectionReader(joined{head, content}, 0, length)
	allocated := testing.AllocsPerRun(1, func() {
		size := int64(0)
		err := Walk(msg, Limits{}, func(p *Part) error {
			s, err := p.Section()
			if err != nil {
				return err
			}
			size, err = io.Copy(io.Discard, s)
			return err
		})
		if err != nil || size < length*7/10 {
			t.Error(size, err)
		}
	})
	if allocated > 5000 {
		t.Errorf("%v allocations", allocated)
	}
}

type joined struct {
	head string
	rest repeated
}

func (j joined) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(j.head)) {
		n = copy(p, j.head[off:])
	}
	m, err := j.rest.ReadAt(p[n:], max(0, off-int64(len(j.head))))
	return n + m, err
}

func FuzzWalk(f *testing.F) {
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b--\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		one, err := describe(t, string(b), Limits{})
		two, err2 := describe(t, string(b), Limits{})
		if one != two || err != err2 {
			t.Error("not the same twice")
		}
		switch err {
		case nil, ErrTooDeep, ErrTooManyParts, ErrHeaderTooLarge:
		default:
			t.Error(err)
		}
	})
}
