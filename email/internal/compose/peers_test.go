package compose_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// pythonReader prints what Python's email package finds in messages.
const pythonReader = `
import email, email.policy, json, sys
out = []
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        m = email.message_from_binary_file(f, policy=email.policy.default)
    parts = []
    defects = [repr(d) for d in m.defects] + [repr(d) for v in m.values() for d in v.defects]
    for p in m.walk():
        defects += [repr(d) for d in p.defects]
        if p.is_multipart():
            parts.append({"type": p.get_content_type()})
            continue
        parts.append({"type": p.get_content_type(), "file": p.get_filename() or "", "disposition": p.get_content_disposition() or "",
            "id": p.get("Content-ID") or "", "text": p.get_content() if p.get_content_maintype() == "text" and not p.get_filename() else "",
            "content": p.get_payload(decode=True).hex()})
    def addresses(name):
        return [[a.display_name, a.addr_spec] for h in m.get_all(name, []) for a in h.addresses]
    out.append({"subject": m["Subject"], "from": addresses("From"), "to": addresses("To"), "cc": addresses("Cc"), "replyTo": addresses("Reply-To"),
        "own": m["X-Own"], "fields": m.keys(), "parts": parts, "defects": defects})
print(json.dumps(out))
`

type pythonPart struct{ Type, File, Disposition, ID, Text, Content string }

type pythonMessage struct {
	Subject               string
	From, To, Cc, ReplyTo [][]string
	Own                   string
	Fields                []string
	Parts                 []pythonPart
	Defects               []string
}

func save(t *testing.T, dir, name string, msg []byte) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, msg, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPython has Python's email package read what is hard to write.
func TestPython(t *testing.T) {
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3")
	long := strings.Repeat("Donaudampfschiffahrtsgesellschaft", 8)
	binary := make([]byte, 1000)
	for i := range binary {
		binary[i] = byte(i)
	}
	base := func(change func(m *compose.Message)) *compose.Message {
		m := &compose.Message{From: "Ann <ann@example.com>", To: []string{"bob@example.org"}, Subject: "s", Text: "t\n"}
		change(m)
		return m
	}
	messages := []*compose.Message{
		base(func(m *compose.Message) {}),
		base(func(m *compose.Message) {
			m.Subject = "Grüße aus Zürich, wo es schön ist und wo der Betreff länger wird als eine Zeile es sein darf"
		}),
		base(func(m *compose.Message) {
			m.Subject = strings.Repeat("件名が長い場合の動作を確認します。", 10)
		}),
		base(func(m *compose.Message) { m.Subject = "two  spaces and =?utf-8?q?no_word?= and 😀" }),
		base(func(m *compose.Message) { m.Subject = long }),
		base(func(m *compose.Message) { m.Subject = strings.Repeat("a fairly ordinary subject ", 8) + "end" }),
		base(func(m *compose.Message) {
			m.From = `"Doe, \"J\" (x) <y@z>" <ann@example.com>`
			m.To = []string{"Jörg Müller <jorg@example.com>", "株式会社 <k@example.com>", `"quoted local"@example.com`}
			m.Cc = []string{"c@bücher.example"}
			m.ReplyTo = []string{"r@example.com", "Ünï <u@example.com>"}
		}),
		base(func(m *compose.Message) {
			for i := range 100 {
				m.To = append(m.To, fmt.Sprintf("Recipient Number %d <r%d@example.com>", i, i))
			}
		}),
		base(func(m *compose.Message) {
			m.Headers = map[string]string{"X-Own": strings.Repeat("wert für ", 30) + "x"}
		}),
		base(func(m *compose.Message) { m.Text = ".\r\n..\nFrom me\n\n trailing \n" + long + long + "\nGrüße\n" }),
		base(func(m *compose.Message) {
			m.Text, m.HTML = strings.Repeat("日本語のテキスト\n", 20), "<p>日本語</p>\n"
			for _, name := range []string{"plain.pdf", "Grüße und mehr.pdf", `a "b" \c; d.pdf`, "日本語.pdf", strings.Repeat("ä", 120) + ".pdf", "two  spaces.pdf", "'single'.pdf", "=?utf-8?q?x?=.pdf", "100%.pdf"} {
				m.Attachments = append(m.Attachments, compose.Attachment{Filename: name, Content: binary})
			}
			m.Attachments = append(m.Attachments, compose.Attachment{Filename: "logo.png", Content: binary[:57], ContentID: "logo@shop"})
		}),
		base(func(m *compose.Message) {
			m.Attachments = []compose.Attachment{{Filename: "a.csv", ContentType: "text/csv; charset=windows-1252; header=present", Content: []byte("\xe4;\xf6\r\n")}, {Filename: "empty"}}
		}),
	}
	dir := testenv.Folder(t)
	var paths []string
	for i, m := range messages {
		_, msg, _ := write(t, m)
		checkLines(t, msg)
		paths = append(paths, save(t, dir, fmt.Sprint(i), msg))
	}
	var stderr bytes.Buffer
	cmd := exec.Command(python, append([]string{"-c", pythonReader}, paths...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var read []pythonMessage
	if err := json.Unmarshal(out, &read); err != nil {
		t.Fatal(err)
	}
	for i, m := range messages {
		comparePython(t, i, m, &read[i])
	}
}

func lines(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

func comparePython(t *testing.T, i int, m *compose.Message, got *pythonMessage) {
	if len(got.Defects) > 0 {
		t.Errorf("message %d: %q", i, got.Defects)
	}
	if got.Subject != m.Subject || got.Own != m.Headers["X-Own"] {
		t.Errorf("message %d: subject %q, own field %q", i, got.Subject, got.Own)
	}
	for _, list := range []struct {
		want []string
		got  [][]string
	}{{[]string{m.From}, got.From}, {m.To, got.To}, {m.Cc, got.Cc}, {m.ReplyTo, got.ReplyTo}} {
		if len(list.want) != len(list.got) {
			t.Errorf("message %d: addresses %q became %q", i, list.want, list.got)
			continue
		}
		for j, want := range list.want {
			name, address := list.got[j][0], strings.ReplaceAll(list.got[j][1], "xn--bcher-kva", "bücher")
			quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name)
			if want != address && want != name+" <"+address+">" && want != `"`+quoted+`" <`+address+">" {
				t.Errorf("message %d: address %q became %q", i, want, list.got[j])
			}
		}
	}
	var files []pythonPart
	for _, p := range got.Parts {
		switch {
		case p.Disposition != "":
			files = append(files, p)
		case p.Type == "text/plain" && lines(p.Text) != lines(m.Text), p.Type == "text/html" && lines(p.Text) != m.HTML:
			t.Errorf("message %d: text %q", i, p.Text)
		}
	}
	if len(files) != len(m.Attachments) {
		t.Fatalf("message %d has files %+v", i, files)
	}
	for _, a := range m.Attachments {
		found := false
		for _, f := range files {
			found = found || f.File == a.Filename && f.Content == fmt.Sprintf("%x", a.Content) && (a.ContentID == "" || f.ID == "<"+a.ContentID+">")
		}
		if !found {
			t.Errorf("message %d: the file %q is not among %.2000q", i, a.Filename, files)
		}
	}
}

// TestUnpackers has two old programs take the attachments out.
func TestUnpackers(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789\x00\xff\r\n"), 10_000)
	_, msg, _ := write(t, &compose.Message{From: "a@example.com", To: []string{"b@example.com"}, Text: "x", HTML: "<img src=cid:p>", Attachments: []compose.Attachment{
		{Filename: "file.bin", Content: content}, {Filename: "pic.png", Content: content[:10], ContentID: "p"}}})
	for name, args := range map[string][]string{"munpack": {"-q", "-f"}, "ripmime": {"-i"}} {
		t.Run(name, func(t *testing.T) {
			how := "apt-get install " + map[string]string{"munpack": "mpack", "ripmime": "ripmime"}[name]
			program, dir := testenv.Need(t, name, how), testenv.Folder(t)
			cmd := exec.Command(program, append(args, save(t, dir, "message", msg))...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for file, want := range map[string][]byte{"file.bin": content, "pic.png": content[:10]} {
				if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, %v", file, len(got), err)
				}
			}
		})
	}
}
