package compose_test

import (
	"bytes"
	"io"
	"maps"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/email/internal/message"
)

// FuzzInjection: whatever the strings are, the message is refused, or has exactly
// the fields and parts that it should have, with these strings as their content,
// for the reader of the standard library and for our own.
func FuzzInjection(f *testing.F) {
	f.Add("Ann <a@example.com>", "b@example.com", "Hello", "text", "<b>html</b>", "X-Own", "value", "file.txt", "text/plain", "content", "cid")
	f.Add("\"a\\\"b\" <\"q q\"@example.com>", "Ünï <ü@bücher.example>", "a\r\nBcc: x@example.com", "a\r\n.\r\nb", "", "Bcc", "a\n b", "a\"b\r\nX: y", "text/plain; charset=\"a\r\nb\"", "--x", "a>b")
	f.Add("a@example.com", "b@example.com", "=?utf-8?q?a=0D=0ABcc:_x?=", "=", "<a href=\"http://x\ny\">", "x", "=?utf-8?q?=0D=0A?=", "Grüße \" ; filename=x", "", "\r", "")
	f.Add("=?utf-8?b?DQpCY2M6IHg=?= <a@example.com>", "<b@example.com>", "  two  spaces  ", "日本語", "日本語", "X-"+strings.Repeat("y", 50), strings.Repeat("é ", 300), strings.Repeat("é", 120), "application/x", "", "")
	f.Fuzz(func(t *testing.T, from, to, subject, text, html, name, value, filename, contentType, content, id string) {
		m := &compose.Message{From: from, To: []string{to}, Bcc: []string{"hidden@secret.example"}, Subject: subject, Text: text, HTML: html,
			Headers: map[string]string{name: value}, Attachments: []compose.Attachment{{Filename: filename, ContentType: contentType, Content: []byte(content), ContentID: id}}}
		p, err := compose.Prepare(m, fixed())
		if err != nil {
			return
		}
		var b bytes.Buffer
		if _, err := p.Write(&b); err != nil {
			if !strings.Contains(err.Error(), "the message has a ") { // an attached message that cannot be sent
				t.Fatal(err)
			}
			return
		}
		msg := b.Bytes()
		checkLines(t, msg)
		if bytes.Contains(msg, []byte("hidden@secret.example")) && !strings.Contains(from+to+subject+text+html+name+value+filename+contentType+content+id, "hidden@") {
			t.Error("Bcc is in the message")
		}
		checkFields(t, m, p, msg, name, value)
		checkParts(t, m, msg)
	})
}

func checkFields(t *testing.T, m *compose.Message, p *compose.Prepared, msg []byte, name, value string) {
	parsed, err := mail.ReadMessage(bytes.NewReader(msg))
	if err != nil {
		t.Fatalf("%v: %q", err, msg)
	}
	want := []string{"Content-Type", "Date", "From", "Message-Id", "Mime-Version", "To", canonical(name)}
	if m.Subject != "" {
		want = append(want, "Subject")
	}
	got := slices.Sorted(maps.Keys(parsed.Header))
	got = slices.DeleteFunc(got, func(s string) bool { return s == "Content-Transfer-Encoding" })
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("the fields are %q and should be %q: %q", got, want, msg)
	}
	for name, values := range parsed.Header {
		if len(values) != 1 {
			t.Errorf("%s is there %d times", name, len(values))
		}
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
	if err != nil || subject != m.Subject {
		t.Errorf("the subject %q became %q, %v", m.Subject, subject, err)
	}
	own := strings.Join(strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == '\t' }), " ")
	if raw := parsed.Header.Get(name); raw != own {
		if decoded, err := new(mime.WordDecoder).DecodeHeader(raw); err != nil || decoded != own {
			t.Errorf("the field %q became %q, %q, %v", own, raw, decoded, err)
		}
	}
	for field, want := range map[string]string{"From": p.Sender.String(), "To": p.Recipients[0].String()} {
		list, err := message.Addresses(parsed.Header.Get(field))
		if err != nil || len(list) != 1 || (addr.Address{Local: list[0].Local, Domain: list[0].Domain}).String() != want {
			t.Errorf("%s is %q, %v, and should be %q", field, list, err, want)
		}
		in := map[string]string{"From": m.From, "To": m.To[0]}[field]
		if before, _ := message.Addresses(in); len(list) == 1 && list[0].Name != before[0].Name && !strings.Contains(before[0].Name, "=?") {
			t.Errorf("the name %q became %q", before[0].Name, list[0].Name)
		}
	}
}

// canonical is the name as net/mail has it.
func canonical(name string) string {
	m, err := mail.ReadMessage(strings.NewReader(name + ": x\r\n\r\n"))
	if err != nil {
		return name
	}
	for key := range m.Header {
		return key
	}
	return name
}

func checkParts(t *testing.T, m *compose.Message, msg []byte) {
	var leaves []string
	var file *string
	isMessage := false
	err := message.Walk(section(msg), message.Limits{}, func(p *message.Part) error {
		if isMessage {
			return nil // what is within an attached message
		}
		if p.IsMessage() && p.Depth > 0 {
			isMessage = true
			return nil
		}
		if !p.IsLeaf() {
			return nil
		}
		leaves = append(leaves, p.MediaType)
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		content := string(b)
		switch {
		case p.Disposition != "": // the file
			if content != string(m.Attachments[0].Content) {
				t.Errorf("the file %q became %q", m.Attachments[0].Content, content)
			}
			file = &content
			_, params, err := mime.ParseMediaType(unfolded(p.Header.Get("Content-Disposition")))
			if err != nil || params["filename"] != m.Attachments[0].Filename {
				t.Errorf("the name %q became %q, %v", m.Attachments[0].Filename, params, err)
			}
		case p.MediaType == "text/html":
			checkText(t, m.HTML, content)
		case m.Text != "":
			checkText(t, m.Text, content)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v: %q", err, msg)
	}
	want := 1
	text := m.Text
	if text == "" {
		text = compose.Text(m.HTML)
	}
	for _, s := range []string{text, m.HTML} {
		if s != "" {
			want++
		}
	}
	if isMessage {
		want--
	} else if file == nil {
		t.Error("there is no file")
	}
	if len(leaves) != want {
		t.Errorf("the parts are %q and should be %d: %q", leaves, want, msg)
	}
}

func unfolded(s string) string { return strings.ReplaceAll(s, "\r\n", "") }

func checkText(t *testing.T, want, got string) {
	clean := func(s string) string {
		return strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	}
	if clean(want) != clean(got) {
		t.Errorf("the text %q became %q", want, got)
	}
}

func FuzzText(f *testing.F) {
	f.Add("<p>a<a href='http://x'>b</a><ul><li>c</ul><pre>d\n</pre>")
	f.Add("<script><style></style></script><ol><ol><li>")
	f.Fuzz(func(t *testing.T, s string) {
		text := compose.Text(s)
		if len(text) > 70*len(s)+10 { // a list mark has up to maxNesting*2 bytes
			t.Errorf("%d bytes became %d", len(s), len(text))
		}
	})
}
