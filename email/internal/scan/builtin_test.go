package scan

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

func TestVirus(t *testing.T) {
	s := NewVirus(ArchiveLimits{})
	text := string(eicar())
	if len(text) != 68 {
		t.Fatal(len(text))
	}
	nested := text
	for range 4 {
		nested = zipped("x.zip", nested)
	}
	tests := []struct {
		name string
		m    Message
		want string // the detail, or "" for clean
	}{
		{"nothing", newMessage(t, "", "hello\n"), ""},
		{"text", newMessage(t, "", text+"\n"), "part 0"},
		{"attachment", attached(t, "a.com", text), "a.com"},
		{"white space behind", attached(t, "a.com", text+" \t\r\n\x1a"), "a.com"},
		{"128 bytes", attached(t, "a.com", text+strings.Repeat(" ", 60)), "a.com"},
		{"129 bytes", attached(t, "a.com", text+strings.Repeat(" ", 61)), ""},
		{"text behind", attached(t, "a.com", text+"x"), ""},
		{"text before", newMessage(t, "", "look: "+text), ""},
		{"zip", attached(t, "a.zip", zipped("readme", "x", "b/eicar.com", text)), "a.zip/b/eicar.com"},
		{"zip by another name", attached(t, "a.txt", zipped("eicar.com", text)), "a.txt/eicar.com"},
		{"nested zip", attached(t, "a.zip", nested), "a.zip/x.zip/x.zip/x.zip/x.zip"},
		{"gzip", attached(t, "a.gz", gzipped("eicar.com", text)), "a.gz/eicar.com"},
		{"tar", attached(t, "a.tar", tarred("readme", "x", "eicar.com", text)), "a.tar/eicar.com"},
		{"tar.gz with a zip", attached(t, "a.tgz", gzipped("", tarred("b.zip", zipped("eicar.com", text)))), "a.tgz/content/b.zip/eicar.com"},
		{"zip behind a program", attached(t, "a.bin", "PK\x03\x04"+strings.Repeat("x", 1000)+zipped("eicar.com", text)), "a.bin/eicar.com"},
		{"zip behind a picture", attached(t, "a.jpg", "\xff\xd8\xff\xe0"+zipped("eicar.com", text)), "a.jpg/eicar.com"},
		{"message in a message", newMessage(t, "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n",
			base64.StdEncoding.EncodeToString([]byte("Content-Transfer-Encoding: base64\n\n"+base64.StdEncoding.EncodeToString([]byte(text))))+"\n"), "part 1"},
		{"too deep", attached(t, "a.zip", zipped("5", zipped("4", nested))), "archives are nested too deeply: a.zip/5/4/x.zip/x.zip/x.zip"},
	}
	for _, test := range tests {
		v := scan(t, s, test.m)
		if got := strings.Join(v.Details, "|"); got != test.want || v.Bad != (test.want != "") || v.Kind != Virus {
			t.Errorf("%s: %+v", test.name, v)
		}
	}
}

const (
	program  = "MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00"
	elf      = "\x7fELF\x02\x01\x01\x00"
	lnk      = "\x4c\x00\x00\x00\x01\x14\x02\x00\x00\x00\x00\x00"
	rarStart = "Rar!\x1a\x07\x01\x00xxxxxxxxx"
)

func TestAttachments(t *testing.T) {
	s := NewAttachments(AttachmentOptions{Blocked: []string{".exe", ".SCR", ".lnk", ".js", ".tar.bz2"}, MaxSize: 3000})
	encrypted := []byte(zipped("secret.txt", "x"))
	encrypted[bytes.Index(encrypted, []byte("PK\x01\x02"))+8] |= 1
	hidden := []byte(zipped("a.exe", "x")) // the directory says otherwise than the entry itself
	copy(hidden[bytes.LastIndex(hidden, []byte("a.exe")):], "a.txt")
	tests := []struct {
		name string
		m    Message
		want string // verdict's name: details
	}{
		{"good", attached(t, "a.pdf", "%PDF-", "b.txt", "MZ is how this text begins"), ": "},
		{"extension", attached(t, "Setup.EXE", "x"), "Blocked-Extension: Setup.EXE"},
		{"two extensions", attached(t, "invoice.pdf.scr", "x"), "Blocked-Extension: invoice.pdf.scr"},
		{"extension of two", attached(t, "a.tar.bz2", "x"), "Blocked-Extension: a.tar.bz2"},
		{"full stops behind", attached(t, "a.exe. . ", "x"), "Blocked-Extension: a.exe. ."},
		{"spaces before", attached(t, "a.pdf            .exe", "x"), "Blocked-Extension: a.pdf            .exe"},
		{"stream", attached(t, "a.exe::$DATA", "x"), "Blocked-Extension: a.exe::$DATA"},
		{"colon", attached(t, "12:30.exe", "x"), "Blocked-Extension: 12:30.exe"},
		{"wide letters", attached(t, "a．ｅｘｅ", "x"), "Blocked-Extension: a．ｅｘｅ"},
		{"invisible", attached(t, "a.e\u200bxe", "x"), "Blocked-Extension: a.e\u200bxe"},
		{"right to left", attached(t, "cod\u202excod.exe", "x"), `Deceptive-Name: "cod\u202excod.exe"|cod` + "\u202excod.exe"},
		{"right to left, not blocked", attached(t, "ann\u202etxt.doc", "x"), `Deceptive-Name: "ann\u202etxt.doc"`},
		{"folder", attached(t, `x\a.exe`, "x"), "Blocked-Extension: a.exe"},
		{"name of the type", newMessage(t, "Content-Type: application/pdf; name=a.exe\nContent-Disposition: attachment; filename=a.pdf\n", "x"), "Blocked-Extension: a.pdf"},
		{"program as pdf", attached(t, "a.pdf", program), "Blocked-Type: a.pdf, by its content a Windows program"},
		{"program of unix", attached(t, "a.pdf", elf), "Blocked-Type: a.pdf, by its content a program"},
		{"shortcut", attached(t, "a.pdf", lnk), "Blocked-Type: a.pdf, by its content a shortcut"},
		{"in a zip", attached(t, "a.zip", zipped("x/b.js", "x")), "Blocked-Extension: a.zip/x/b.js"},
		{"type in a zip", attached(t, "a.zip", zipped("b.txt", program)), "Blocked-Type: a.zip/b.txt, by its content a Windows program"},
		{"two names in a zip", attached(t, "a.zip", string(hidden)), "Blocked-Extension: a.zip/a.txt"},
		{"in a zip behind a byte", attached(t, "a.zip", "x"+zipped("b.exe", "x")), "Blocked-Extension: a.zip/b.exe"},
		{"in a zip behind a picture", attached(t, "a.jpg", "\xff\xd8\xff\xe0JFIF"+zipped("b.exe", "x")), "Blocked-Extension: a.jpg/b.exe"},
		{"in a zip behind a gzip", attached(t, "a.gz", gzipped("", "x")+zipped("b.exe", "x")), "Blocked-Extension: damaged: a.gz/content|a.gz/b.exe"},
		{"in a zip before other bytes", attached(t, "a.zip", "x"+zipped("b.exe", "x")+strings.Repeat("x", 2_500)), "Blocked-Extension: a.zip/b.exe"},
		{"in a zip behind a byte in a zip", attached(t, "a.zip", zipped("B.ZIP", "x"+zipped("b.exe", "x"))), "Blocked-Extension: a.zip/B.ZIP/b.exe"},
		{"no zip in a zip", attached(t, "a.zip", zipped("b.zip", "x")), ": a damaged archive: a.zip/b.zip"},
		{"the end of a zip alone", attached(t, "a.bin", "x"+zipped()), ": "},
		{"in a gzip without a name", attached(t, "b.exe.gz", gzipped("", "x")), "Blocked-Extension: b.exe.gz/content"},
		{"in a tar", attached(t, "a.tar", tarred("b.exe", "x")), "Blocked-Extension: a.tar/b.exe"},
		{"encrypted", attached(t, "a.zip", string(encrypted)), ": encrypted: a.zip/secret.txt"},
		{"sealed", attached(t, "a.rar", rarStart), ": an archive of a kind that is not looked into: a.rar"},
		{"damaged", attached(t, "a.zip", "PK\x03\x04xxxxx"), ": a damaged archive: a.zip"},
		{"damaged gzip", attached(t, "a.gz", gzipped("x", "x")[:12]), ": damaged: a.gz/x"},
		{"large", attached(t, "a.bin", strings.Repeat("x", 3001)), "Too-Large: a.bin has more than 3000 bytes"},
		{"just not too large", attached(t, "a.bin", strings.Repeat("x", 3000)), ": "},
		{"large text", newMessage(t, "", strings.Repeat("x\n", 2000)), ": "},
	}
	for _, test := range tests {
		v := scan(t, s, test.m)
		if got := v.Name + ": " + strings.Join(v.Details, "|"); got != test.want || v.Bad != (v.Name != "") || v.Kind != Attachment {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if v := scan(t, NewAttachments(AttachmentOptions{}), attached(t, "a.exe", program)); v.Bad {
		t.Errorf("nothing blocked: %+v", v)
	}
}

// Bombs cost what the limits allow.
func TestArchiveLimits(t *testing.T) {
	zeros := strings.Repeat("\x00", 2<<20)
	many := make([]string, 0, 2002)
	for i := range 1001 {
		many = append(many, fmt.Sprint(i), "x")
	}
	var declared bytes.Buffer // says that it unpacks to a gigabyte
	w := zip.NewWriter(&declared)
	f, _ := w.CreateRaw(&zip.FileHeader{Name: "a", Method: zip.Deflate, CompressedSize64: 5, UncompressedSize64: 1 << 30})
	io.WriteString(f, "xxxxx")
	w.Close()
	limits := ArchiveLimits{Depth: 2, Files: 1000, Bytes: 1 << 20, Memory: 1 << 20}
	tests := []struct {
		name string
		m    Message
		want string
	}{
		{"bytes", attached(t, "a.gz", gzipped("a.tar", tarred("a", zeros, "b", "x"))), "archives unpack to too much: a.gz/a.tar"},
		{"memory", attached(t, "a.zip", zipped("b.zip", string("PK\x03\x04")+zeros[:1<<20-1])), "an archive within an archive is too large: a.zip/b.zip"},
		{"files", attached(t, "a.zip", zipped(many...)), "archives hold too many files: a.zip/1000"},
		{"depth", attached(t, "a.zip", zipped("b", zipped("c", zipped("d", "x")))), "archives are nested too deeply: a.zip/b/c"},
		{"ratio", attached(t, "a.zip", declared.String()), "an archive unpacks to far more than its size: a.zip"},
	}
	for _, test := range tests {
		for _, s := range []Scanner{NewVirus(limits), NewAttachments(AttachmentOptions{Limits: limits})} {
			v := scan(t, s, test.m)
			if !v.Bad || v.Name != "Archive-Limit" || v.Details[len(v.Details)-1] != test.want {
				t.Errorf("%s: %+v", test.name, v)
			}
		}
	}
}

func TestDamagedZip(t *testing.T) {
	good := []byte(zipped("a", "content", "b/c.txt", strings.Repeat("text ", 100)))
	for i := range good {
		for _, x := range []byte{0x01, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] ^= x
			scan(t, NewVirus(ArchiveLimits{}), attached(t, "a.zip", string(bad)))
		}
	}
}

func TestZip64(t *testing.T) {
	var b bytes.Buffer
	plain := []byte(zipped("eicar.com", string(eicar())))
	end := bytes.LastIndex(plain, []byte("PK\x05\x06"))
	size, offset := binary.LittleEndian.Uint32(plain[end+12:]), binary.LittleEndian.Uint32(plain[end+16:])
	b.Write(plain[:end])
	record := make([]byte, zip64EndSize)
	copy(record, "PK\x06\x06")
	binary.LittleEndian.PutUint64(record[40:], uint64(size))
	binary.LittleEndian.PutUint64(record[48:], uint64(offset))
	b.Write(record)
	locator := make([]byte, zip64Locator)
	copy(locator, "PK\x06\x07")
	binary.LittleEndian.PutUint64(locator[8:], uint64(end))
	b.Write(locator)
	binary.LittleEndian.PutUint32(plain[end+12:], 1<<32-1)
	binary.LittleEndian.PutUint32(plain[end+16:], 1<<32-1)
	b.Write(plain[end:])
	if v := scan(t, NewVirus(ArchiveLimits{}), attached(t, "a.zip", b.String())); !v.Bad {
		t.Errorf("%+v", v)
	}
}

func TestBuiltinErrors(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	deep := newMessage(t, strings.Repeat("Content-Type: message/rfc822\n\n", 60), "x")
	broken := newMessage(t, "", "x")
	broken.Data = io.NewSectionReader(brokenDisk{}, 0, 1000)
	for _, s := range []Scanner{NewSpam(0), NewVirus(ArchiveLimits{}), NewAttachments(AttachmentOptions{})} {
		if _, err := s.Scan(cancelled, attached(t, "a", "x")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := s.Scan(t.Context(), deep); !errors.Is(err, message.ErrTooDeep) {
			t.Error(err)
		}
		if _, err := s.Scan(t.Context(), broken); !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	}
}

// An archive is not taken for damaged when it is the disk that fails.
func TestReadErrors(t *testing.T) {
	m := attached(t, "a.zip", zipped("a", "x", "b.zip", zipped("c", "x")), "a.gz", gzipped("", "x"))
	data := m.Data
	for _, s := range []Scanner{NewSpam(0), NewVirus(ArchiveLimits{}), NewAttachments(AttachmentOptions{MaxSize: 1})} {
		for n := 0; ; n++ {
			disk := &breakingDisk{ReaderAt: data, left: n}
			m.Data = io.NewSectionReader(disk, 0, data.Size())
			_, err := s.Scan(t.Context(), m)
			if disk.left >= 0 {
				break // it needs no more reads
			}
			if !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%T after %d reads: %v", s, n, err)
			}
		}
	}
}

// breakingDisk fails after some reads.
type breakingDisk struct {
	io.ReaderAt
	left int
}

func (d *breakingDisk) ReadAt(p []byte, off int64) (int, error) {
	if d.left--; d.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return d.ReaderAt.ReadAt(p, off)
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestSpamRules(t *testing.T) {
	s := NewSpam(0)
	header := func(lines string) string {
		return lines + "Date: Mon, 02 Mar 2026 10:00:00 +0000\nMessage-ID: <1@example.com>\nTo: b@example.org\n"
	}
	html := func(body string) Message {
		return newMessage(t, header("From: a@example.com\nSubject: x\nContent-Type: text/html\n"), body)
	}
	with := func(change func(*Message)) Message {
		m := newMessage(t, "", "hello\n")
		change(&m)
		return m
	}
	tests := []struct {
		name string
		m    Message
		want string
	}{
		{"good", newMessage(t, "", "See https://example.com/a?b=http://x and www.example.com, at 10:30.\n"), ""},
		{"nothing", newMessage(t, "X: y\n", "x\n"), "MISSING_FROM(2.5) MISSING_DATE(1.0) MISSING_MID(0.5) MISSING_TO(0.5) EMPTY_SUBJECT(0.5)"},
		{"two From", newMessage(t, header("From: a@example.com\nFrom: b@example.com\nSubject: x\n"), "x\n"), "BAD_FROM(2.5)"},
		{"old", newMessage(t, "From: a@example.com\nTo: b\nSubject: x\nMessage-ID: <1>\nDate: Mon, 02 Mar 2020 10:00:00 +0000\n", "x"), "DATE_OFF(1.0)"},
		{"future", newMessage(t, "From: a@example.com\nTo: b\nSubject: x\nMessage-ID: <1>\nDate: Mon, 04 Mar 2026 10:00:00 +0000\n", "x"), "DATE_OFF(1.0)"},
		{"no date", newMessage(t, "From: a@example.com\nTo: b\nSubject: x\nMessage-ID: <1>\nDate: soon\n", "x"), "BAD_DATE(0.5)"},
		{"shouting", newMessage(t, header("From: a@example.com\nSubject: =?utf-8?Q?BUY_NOW!!!_GR=C3=96SSER?=\n"), "x"), "CAPS_SUBJECT(1.5)"},
		{"an abbreviation", newMessage(t, header("From: a@example.com\nSubject: RFC 5322\n"), "x"), ""},
		{"hidden subject", newMessage(t, header("From: a@example.com\nSubject: =?utf-8?Q?via=E2=80=8Bgra?=\n"), "x"), "HIDDEN_SUBJECT(1.5)"},
		{"name of another", newMessage(t, header("From: \"ceo@bank.example\" <x@evil.test>\nSubject: x\n"), "x"), "FROM_NAME(2.0)"},
		{"name of its own", newMessage(t, header("From: \"a@mail.example.com\" <a@example.com>\nSubject: x\n"), "x"), ""},
		{"mime", newMessage(t, header("From: a@example.com\nSubject: x\nContent-Type: multipart/mixed\n"), "--b\n\nx\n--b--"), "BAD_MIME(1.0)"},
		{"base64", newMessage(t, header("From: a@example.com\nSubject: x\nContent-Transfer-Encoding: base64\n"), "aGVsbG8="), "BASE64_TEXT(1.0)"},
		{"base64 for a reason", newMessage(t, header("From: a@example.com\nSubject: x\nContent-Transfer-Encoding: base64\n"), "Z3LDvMOfZQ=="), ""},
		{"address", newMessage(t, "", "go to http://192.0.2.1/x\n"), "URL_IP(2.0)"},
		{"IPv6", newMessage(t, "", "go to HTTPS://[2001:db8::1]:80/x\n"), "URL_IP(2.0)"},
		{"number", newMessage(t, "", "go to <http://3221225985/x>\n"), "URL_HIDDEN(2.5)"},
		{"hex", newMessage(t, "", "http://0xc0.0.0x2.1"), "URL_HIDDEN(2.5)"},
		{"user", newMessage(t, "", "http://www.bank.example@evil.test/"), "URL_HIDDEN(2.5)"},
		{"escapes", newMessage(t, "", "http://ev%69l.test/"), "URL_HIDDEN(2.5)"},
		{"html", html(`<p>hello <a href="https://www.example.com/x">www.example.com/x</a> <a href="https://x.test">click here</a></p>`), "HTML_ONLY(1.0)"},
		{"other link", html(`<a href='https://evil.test/'>https://<b>bank.example</b>/login</a>`), "URL_OTHER(1.0) HTML_ONLY(1.0)"},
		{"hidden text", html(`<span style="Font-Size: 0px">x</span><a href="http://10.0.0.1/">x</a>`), "URL_IP(2.0) HIDDEN_TEXT(1.0) HTML_ONLY(1.0)"},
		{"half a letter", html(`<span style="font-size:0.9em">x</span>`), "HTML_ONLY(1.0)"},
		{"recipients", with(func(m *Message) { m.Rcpts = make([]string, 21) }), "MANY_RCPTS(1.5)"},
		{"authentication", with(func(m *Message) {
			m.AuthResults = "mail.example.org; spf=fail smtp.mailfrom=example.com; dkim=fail (bad; spf=pass) header.d=x; dkim=pass header.d=y; dmarc=fail"
		}), "DMARC_FAIL(3.0) SPF_FAIL(2.5)"},
		{"softfail", with(func(m *Message) { m.AuthResults = "x; spf=softfail; dkim=fail; dmarc=none" }), "SPF_SOFTFAIL(1.0) DKIM_FAIL(0.5)"},
		{"user", with(func(m *Message) { m.User, m.Helo, m.AuthResults = "ann", "laptop", "x; spf=fail" }), ""},
		{"our name", with(func(m *Message) { m.Helo = "MAIL.example.org" }), "HELO_OURS(3.0)"},
		{"plain name", with(func(m *Message) { m.Helo = "localhost" }), "HELO_PLAIN(1.0)"},
		{"bare address", with(func(m *Message) { m.Helo = "192.0.2.7" }), "HELO_IP(1.5)"},
		{"literal", with(func(m *Message) { m.Helo = "[192.0.2.7]" }), ""},
		{"another's literal", with(func(m *Message) { m.Helo = "[192.0.2.8]" }), "HELO_IP(1.5)"},
	}
	for _, test := range tests {
		v := scan(t, s, test.m)
		if got := strings.Join(v.Details, " "); got != test.want || v.Bad != (v.Score >= 5) || v.Kind != Spam || v.Threshold != 5 {
			t.Errorf("%s: got %q, want %q: %+v", test.name, got, test.want, v)
		}
	}
	v := scan(t, s, newMessage(t, "", "x "+string(gtube())+" y\n"))
	if !v.Bad || v.Action != Reject || v.Name != "GTUBE" {
		t.Errorf("%+v", v)
	}
	if v := scan(t, NewSpam(1), newMessage(t, "X: y\n", "x\n")); !v.Bad || v.Action != AddHeader || v.Name != "MISSING_FROM" || v.Threshold != 1 {
		t.Errorf("%+v", v)
	}
}

func fuzzScan(t *testing.T, s Scanner, data []byte) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := rawMessage(t, data)
	_, err := s.Scan(ctx, m)
	switch {
	case err == nil, errors.Is(err, message.ErrTooDeep), errors.Is(err, message.ErrTooManyParts), errors.Is(err, message.ErrHeaderTooLarge):
	default:
		t.Error(err)
	}
}

func FuzzArchive(f *testing.F) {
	f.Add([]byte(zipped("a", "b", "c.zip", zipped("d", "e"))))
	f.Add([]byte(gzipped("", tarred("a", "b", "c.zip", zipped("d", "e")))))
	limits := ArchiveLimits{Bytes: 1 << 20, Memory: 1 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := attached(t, "a", string(b))
		data, _ := io.ReadAll(m.Data)
		fuzzScan(t, NewAttachments(AttachmentOptions{Blocked: []string{".exe"}, Limits: limits}), data)
	})
}

func FuzzSpam(f *testing.F) {
	f.Add([]byte("From: a@b\r\nContent-Type: text/html\r\n\r\n<a href='http://1.2.3.4'>http://x.com</a><p style='font-size:0'>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 60<<10 {
			fuzzScan(t, NewSpam(0), b)
		}
	})
}

// What backends answer.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\nSpam: True ; 7.5 / 5.0\r\n\r\nA,B"))
	f.Add([]byte("stream: X FOUND"))
	f.Add([]byte(`{"score":7.25,"action":"reject","symbols":{"A":{"score":1}},"milter":{"add_headers":{"X":[{"value":"1"}]}}}`))
	f.Add([]byte("\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x00\x31\x00\x00\x00\x00\x00\x00\x00\x01a"))
	m := newMessage(f, "", "hello\n")
	f.Fuzz(func(t *testing.T, b []byte) {
		var list [4]Verdict
		list[0].setSpamd(b, 0)
		list[1].setClamd(string(b))
		list[2].setRspamd(b, 0)
		talk := milterTalk{milterWire: newMilterWire(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}), m: m, v: &list[3]}
		talk.run()
		for _, v := range list {
			for _, s := range append(v.Details, v.Name, v.Reply) {
				if strings.ContainsAny(s, "\r\n\x00") || len(s) > 1010 {
					t.Errorf("%q", s)
				}
			}
			for _, c := range v.Changes {
				v.Headers = append(v.Headers, c.Field)
			}
			for _, h := range v.Headers {
				if strings.ContainsAny(h.Name, "\r\n\x00: ") || strings.ContainsAny(strings.ReplaceAll(h.Value, "\r\n\t", ""), "\r\n\x00") {
					t.Errorf("%q", h)
				}
			}
		}
	})
}
