package compose_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/conf"
)

// fixed makes messages that are the same every time.
func fixed() compose.Options {
	return compose.Options{
		Now:  func() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) },
		Rand: rand.NewChaCha8([32]byte{1}),
	}
}

func write(t testing.TB, m *compose.Message) (*compose.Prepared, []byte, compose.Written) {
	t.Helper()
	p, err := compose.Prepare(m, fixed())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	written, err := p.Write(&b)
	if err != nil {
		t.Fatal(err)
	}
	if written.Size != int64(b.Len()) {
		t.Errorf("the size is said to be %d and is %d", written.Size, b.Len())
	}
	return p, b.Bytes(), written
}

func TestPlainMessage(t *testing.T) {
	p, got, _ := write(t, &compose.Message{
		From: "Ann Shop <ann@Example.com>", To: []string{"bob@example.org", `"Doe, John" <john@bücher.example>`}, Bcc: []string{"secret@example.net", "bob@example.org"},
		Subject: "Hello", Text: "One\nTwo = 2\r\n", Headers: map[string]string{"X-B": "2", "List-Unsubscribe": "<https://example.com/u>,\t<mailto:u@example.com>"},
	})
	want := "Date: Wed, 02 Jan 2030 03:04:05 +0000\r\n" +
		"From: Ann Shop <ann@example.com>\r\n" +
		"To: bob@example.org, \"Doe, John\" <john@xn--bcher-kva.example>\r\n" +
		"Subject: Hello\r\n" +
		"Message-ID: <" + p.MessageID + ">\r\n" +
		"List-Unsubscribe: <https://example.com/u>, <mailto:u@example.com>\r\n" +
		"X-B: 2\r\n" +
		"MIME-Version: 1.0\r\n" +
		"Content-Type: text/plain;\r\n charset=utf-8\r\n" +
		"Content-Transfer-Encoding: quoted-printable\r\n" +
		"\r\nOne\r\nTwo =3D 2\r\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.HasSuffix(p.MessageID, "@example.com") || p.UTF8 {
		t.Errorf("message ID %q, UTF8 %v", p.MessageID, p.UTF8)
	}
	if fmt.Sprint(p.Recipients) != "[bob@example.org john@xn--bcher-kva.example secret@example.net]" || p.Sender.String() != "ann@example.com" {
		t.Errorf("the envelope is from %v to %v", p.Sender, p.Recipients)
	}
	if bytes.Contains(got, []byte("secret")) {
		t.Error("Bcc is in the message")
	}
}

func TestBccOnly(t *testing.T) {
	_, got, _ := write(t, &compose.Message{From: "a@example.com", Bcc: []string{"b@example.com"}, Sender: "bounce@example.com"})
	if !bytes.Contains(got, []byte("\r\nTo: undisclosed-recipients:;\r\n")) || bytes.Contains(got, []byte("b@example.com")) {
		t.Errorf("%s", got)
	}
}

// shape writes the parts of a message as a tree.
func shape(t testing.TB, msg []byte) string {
	var b strings.Builder
	err := message.Walk(section(msg), message.Limits{}, func(p *message.Part) error {
		fmt.Fprintf(&b, "%s%s", strings.Repeat(">", p.Depth), p.MediaType)
		if p.Filename != "" {
			fmt.Fprintf(&b, " %s %q", p.Disposition, p.Filename)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func TestNesting(t *testing.T) {
	picture := compose.Attachment{Filename: "a.png", Content: []byte("png"), ContentID: "logo"}
	file := compose.Attachment{Filename: "Grüße.pdf", Content: []byte("pdf")}
	for name, test := range map[string]struct {
		text, html string
		files      []compose.Attachment
		want       string
	}{
		"nothing": {"", "", nil, "text/plain\n"},
		"html":    {"", "<b>x</b>", nil, "multipart/alternative\n>text/plain\n>text/html\n"},
		"picture": {"x", "<img src=cid:logo>", []compose.Attachment{picture},
			"multipart/related\n>multipart/alternative\n>>text/plain\n>>text/html\n>image/png inline \"a.png\"\n"},
		"wordless": {"", "<img src=cid:logo>", []compose.Attachment{picture}, "multipart/related\n>text/html\n>image/png inline \"a.png\"\n"},
		"all": {"x", "<img src=cid:logo>", []compose.Attachment{file, picture},
			"multipart/mixed\n>multipart/related\n>>multipart/alternative\n>>>text/plain\n>>>text/html\n>>image/png inline \"a.png\"\n>application/pdf attachment \"Grüße.pdf\"\n"},
		"file":         {"", "", []compose.Attachment{file}, "multipart/mixed\n>application/pdf attachment \"Grüße.pdf\"\n"},
		"text picture": {"x", "", []compose.Attachment{picture}, "multipart/mixed\n>text/plain\n>image/png inline \"a.png\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, msg, _ := write(t, &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Text: test.text, HTML: test.html, Attachments: test.files})
			if got := shape(t, msg); got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
			checkLines(t, msg)
		})
	}
}

// checkLines holds a message against RFC 5322 section 2.
func checkLines(t testing.TB, msg []byte) {
	t.Helper()
	lines := bytes.Split(msg, []byte("\r\n"))
	if len(lines[len(lines)-1]) != 0 {
		t.Errorf("the message does not end in a line break: %q", msg)
	}
	inHeader := true
	for _, line := range lines[:len(lines)-1] {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
			t.Errorf("line %q", line)
		}
		if inHeader = inHeader && len(line) > 0; inHeader && len(bytes.TrimSpace(line)) == 0 {
			t.Errorf("a line of white space in the header of %q", msg)
		}
	}
}

func TestEncodings(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"few":  {"Grüße aus München, wo es immer schön ist", "quoted-printable"},
		"many": {strings.Repeat("日本語", 30), "base64"},
		"long": {strings.Repeat("x", 5000), "quoted-printable"},
	} {
		t.Run(name, func(t *testing.T) {
			_, msg, _ := write(t, &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Text: test.text})
			if !bytes.Contains(msg, []byte("Content-Transfer-Encoding: "+test.want+"\r\n")) {
				t.Errorf("not in %s: %s", test.want, msg)
			}
			for line := range bytes.SplitSeq(msg, []byte("\r\n")) {
				if len(line) > 76 {
					t.Errorf("a line of %d", len(line))
				}
			}
		})
	}
}

func TestUTF8Address(t *testing.T) {
	p, msg, _ := write(t, &compose.Message{From: "a@example.com", To: []string{"Jörg <jörg@bücher.example>"}})
	if !p.UTF8 || !bytes.Contains(msg, []byte("<jörg@xn--bcher-kva.example>")) {
		t.Errorf("UTF8 is %v for %s", p.UTF8, msg)
	}
}

// TestSpacesInAddress: a line of white space only would end the header section for
// some.
func TestSpacesInAddress(t *testing.T) {
	for n := range 200 {
		_, msg, _ := write(t, &compose.Message{From: "a@example.com", To: []string{`"a` + strings.Repeat(" ", n) + `b"@example.com`, "c@example.com"}})
		checkLines(t, msg)
	}
}

func TestAttachedMessage(t *testing.T) {
	m := &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Attachments: []compose.Attachment{
		{Filename: "x.eml", ContentType: "message/rfc822", Content: []byte("Subject: in\n\nGrüße\r\nend")}}}
	_, msg, written := write(t, m)
	if !written.EightBit || !bytes.Contains(msg, []byte("\r\n\r\nSubject: in\r\n\r\nGrüße\r\nend\r\n--=_")) || bytes.Count(msg, []byte("Encoding: 8bit")) != 2 {
		t.Errorf("8-bit is %v for %s", written.EightBit, msg)
	}
	m.Attachments[0].Content = []byte("Subject: in\r\n\r\nplain\r\n")
	if _, _, written = write(t, m); written.EightBit {
		t.Error("ASCII is said to be 8-bit")
	}
	for _, bad := range []string{"a\rb", "a\r", "a\x00b", strings.Repeat("x", 999)} {
		m.Attachments[0].Content = []byte(bad)
		p, err := compose.Prepare(m, fixed())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Write(io.Discard); err == nil || !strings.HasPrefix(err.Error(), `attachments[0] ("x.eml"): the message has a`) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
}

func TestMistakes(t *testing.T) {
	_, err := compose.Prepare(&compose.Message{
		From: "nobody", To: []string{"a@example.com", "a@example.com, b@example.com", "x@y@z", "A\r\nBcc: c@example.com <a@example.com>"},
		ReplyTo: []string{"x <\x00@example.com>"}, Sender: "Name <a@example.com>",
		Subject: "a\nb", Text: "\xff", HTML: "\x00", MessageID: "<a b@example.com>", Date: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
		Headers: map[string]string{"Bcc": "x", "X Y": "1", "X-A": "a\r\nb", "x-a": "c", "X-Long": strings.Repeat("x", 1000), "Content-Type": "x", "": "x"},
		Attachments: []compose.Attachment{{Filename: "a\nb", ContentType: "text", ContentID: "a b"}, {ContentType: "multipart/mixed", Content: []byte{}, Open: func() (io.ReadCloser, error) { return nil, nil }},
			{ContentID: "c"}, {ContentID: "c"}},
	}, fixed())
	var got []string
	for _, f := range conf.Fields(err) {
		got = append(got, f.Path)
	}
	want := "from sender replyTo[0] to[1] to[2] to[3] subject text html date messageId headers. headers.Bcc headers.Content-Type headers.X Y headers.X-A headers.X-Long" +
		" attachments[0].filename attachments[0].contentType attachments[0].contentId attachments[1].contentType attachments[1] attachments[3].contentId"
	clean := strings.NewReplacer(`["`, ".", `"]`, "").Replace(strings.Join(got, " "))
	if clean != want {
		t.Errorf("got  %s\nwant %s\n%v", clean, want, err)
	}
	if _, err := compose.Prepare(&compose.Message{From: "a@example.com"}, fixed()); err == nil || conf.Fields(err)[0].Path != "to" {
		t.Errorf("without recipients: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	o := fixed()
	o.MaxSize = 10_000
	m := &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Attachments: []compose.Attachment{{Content: make([]byte, 10_000)}}}
	if _, err := compose.Prepare(m, o); err == nil || conf.Fields(err)[0].Path != "attachments" {
		t.Error(err)
	}
	m.Attachments[0] = compose.Attachment{Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, 10_000))), nil }}
	p, err := compose.Prepare(m, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(io.Discard); !errors.Is(err, compose.ErrTooLarge) {
		t.Error(err)
	}
	for i := range 900 {
		m.To = append(m.To, fmt.Sprintf("%d@%s.example.com", i, strings.Repeat("x", 60)))
	}
	if _, err := compose.Prepare(m, o); err == nil || !strings.Contains(err.Error(), "header section") {
		t.Error(err)
	}
}

// TestOpenFails names the file.
func TestOpenFails(t *testing.T) {
	broken := errors.New("broken")
	p, err := compose.Prepare(&compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Attachments: []compose.Attachment{
		{Content: []byte("x")}, {Filename: "b.txt", Open: func() (io.ReadCloser, error) { return nil, broken }}}}, fixed())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(io.Discard); !errors.Is(err, broken) || !strings.Contains(err.Error(), `attachments[1] ("b.txt")`) {
		t.Error(err)
	}
}

// TestMemoryOfLargeAttachment streams 50 MB.
func TestMemoryOfLargeAttachment(t *testing.T) {
	const size = 50 << 20
	o := fixed()
	o.MaxSize = 100 << 20
	p, err := compose.Prepare(&compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Attachments: []compose.Attachment{
		{Filename: "big", Open: func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, size)), nil }}}}, o)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	written, err := p.Write(io.Discard)
	runtime.ReadMemStats(&after)
	if err != nil || written.Size < size*4/3 {
		t.Fatal(written, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("%d bytes allocated", used)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestWriteAgain(t *testing.T) {
	p, first, _ := write(t, &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, HTML: "<b>x</b>", Attachments: []compose.Attachment{{Content: []byte("x")}}})
	var again bytes.Buffer
	if _, err := p.Write(&again); err != nil || !bytes.Equal(first, again.Bytes()) {
		t.Errorf("the second time it is different: %v", err)
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"<p>One</p><p>Two</p>":                "One\n\nTwo",
		"a <b>b</b>c\n  d":                    "a bc d",
		"<title>x</title><style>p{}</style>y": "y",
		`<a href="https://example.com/x">Go</a>!`:                  "Go (https://example.com/x)!",
		`<a href="https://example.com/">example.com</a>`:           "example.com",
		`<a href="javascript:x">Go</a>`:                            "Go",
		`<a href="https://example.com/x"><img src=x></a>`:          "https://example.com/x",
		`<a href="https://example.com/x"><img alt="Our logo"></a>`: "Our logo (https://example.com/x)",
		"<ul><li>a<li>b<ol><li>c<li>d</ol></ul>e":                  "- a\n- b\n  1. c\n  2. d\n\ne",
		"<table><tr><td>a<td>b</tr><tr><td>c</table>":              "a b\nc",
		"<pre>x\n  y</pre>":                                        "x\n  y",
		"a<br>b<br><br>c":                                          "a\nb\n\nc",
		"a &amp; b&nbsp;c &lt;d&gt;":                               "a & b c <d>",
		"<div>a<div>b</div></div>c":                                "a\nb\nc",
		"</a></ul></pre>x<script>alert('<p>')</script>":            "x",
		"<h1>T</h1>x<hr>y":                                         "T\n\nx\n---\ny",
	} {
		if got := compose.Text(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
