package dsn

import (
	"bytes"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
)

const originalText = "Received: from client.example.com\r\n\tby mail.example.com\r\nFrom: Alice <alice@example.com>\r\nTo: bob@example.net\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <lunch@example.com>\r\n\r\nHello.\r\n"

func testReport() Report {
	return Report{
		ReportingMTA: "mail.example.com",
		To:           "alice@example.com",
		EnvID:        "env-1",
		Arrival:      testTime().Add(-time.Hour),
		Now:          testTime(),
		Recipients: []Recipient{{
			Address: "bob@example.net", Original: "rfc822;robert@example.net", Action: Failed, Status: "5.1.1",
			RemoteMTA: "mx.example.net", Diagnostic: "550 5.1.1 no such user", LastAttempt: testTime(),
		}},
		Original: section([]byte(originalText)),
	}
}

func makeReport(t testing.TB, r Report) *Message {
	t.Helper()
	m, err := Make(r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A part as it was read back.
type readPart struct{ mediaType, encoding, content string }

func readParts(t testing.TB, content []byte) (h message.Header, parts []readPart) {
	t.Helper()
	err := message.Walk(section(content), message.Limits{}, func(p *message.Part) error {
		if len(p.Defects) > 0 {
			t.Errorf("%s: %v", p.MediaType, p.Defects)
		}
		if p.Index == 0 {
			h = p.Header
			return nil
		}
		if p.Depth > 1 {
			return nil
		}
		body := []byte(nil)
		if p.IsLeaf() {
			body, _ = io.ReadAll(p.Open())
		}
		parts = append(parts, readPart{p.MediaType, p.Header.Get("Content-Transfer-Encoding"), string(body)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h, parts
}

// checkLines finds what SMTP could not carry.
func checkLines(t testing.TB, content []byte) {
	t.Helper()
	if !isSendable(content) || bytes.IndexByte(content, 0) >= 0 {
		t.Errorf("lines that are too long or do not end in CRLF:\n%q", content)
	}
}

func TestMake(t *testing.T) {
	r := testReport()
	m := makeReport(t, r)
	checkLines(t, m.Content)
	if m.EightBit || m.UTF8 {
		t.Error("not ASCII")
	}
	h, parts := readParts(t, m.Content)
	for name, want := range map[string]string{
		"From": "Mail Delivery System <MAILER-DAEMON@mail.example.com>", "To": "<alice@example.com>", "Subject": "Your message could not be delivered",
		"Date": "Sun, 01 Feb 2026 10:00:00 +0000", "Auto-Submitted": "auto-replied", "References": "<lunch@example.com>", "In-Reply-To": "<lunch@example.com>", "MIME-Version": "1.0",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if id := h.Get("Message-ID"); !strings.HasPrefix(id, "<") || !strings.HasSuffix(id, "@mail.example.com>") || len(id) < 40 {
		t.Errorf("Message-ID is %q", id)
	}
	if d, err := mail.ParseDate(h.Get("Date")); err != nil || !d.Equal(testTime()) {
		t.Error(d, err)
	}
	if len(parts) != 3 || parts[0].mediaType != "text/plain" || parts[1].mediaType != "message/delivery-status" || parts[2].mediaType != "text/rfc822-headers" {
		t.Fatalf("%+v", parts)
	}
	status := "Reporting-MTA: dns; mail.example.com\r\nOriginal-Envelope-Id: env-1\r\nArrival-Date: Sun, 01 Feb 2026 09:00:00 +0000\r\n\r\n" +
		"Original-Recipient: rfc822;robert@example.net\r\nFinal-Recipient: rfc822;bob@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n" +
		"Remote-MTA: dns; mx.example.net\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\nLast-Attempt-Date: Sun, 01 Feb 2026 10:00:00 +0000\r\n\r\n"
	if parts[1].content != status {
		t.Errorf("got\n%s\nwant\n%s", parts[1].content, status)
	}
	if header, _, _ := strings.Cut(originalText, "\r\n\r\n"); parts[2].content != header+"\r\n" {
		t.Errorf("got\n%s", parts[2].content)
	}
	for _, want := range []string{"bob@example.net\r\n", "you wrote to robert@example.net", "mx.example.net said:", "550 5.1.1 no such user", "typing errors", "Subject: Grüße"} {
		if !strings.Contains(parts[0].content, want) {
			t.Errorf("the text lacks %q:\n%s", want, parts[0].content)
		}
	}
	n := parse(t, m.Content)
	if n.Kind != Bounce || n.EnvID != "env-1" || n.MessageID != "lunch@example.com" || n.ReportingMTA != "mail.example.com" || !n.Arrival.Equal(r.Arrival) || len(n.Recipients) != 1 || n.Recipients[0] != (Recipient{
		Address: "bob@example.net", Original: "rfc822;robert@example.net", Action: Failed, Status: "5.1.1", RemoteMTA: "mx.example.net", Diagnostic: "550 5.1.1 no such user", LastAttempt: n.Recipients[0].LastAttempt,
	}) {
		t.Errorf("%+v", n)
	}
}

func TestMakeActions(t *testing.T) {
	r := testReport()
	r.Full = true
	for action, want := range map[Action]struct {
		kind                  Kind
		status, subject, text string
	}{
		Failed:    {Bounce, "5.0.0", "could not be delivered", "will not be tried again"},
		Delayed:   {Delay, "4.0.0", "delayed", "need not send it again"},
		Delivered: {Success, "2.0.0", "delivered", "was delivered to"},
		Relayed:   {Success, "2.0.0", "passed on", "may not tell you more"},
		Expanded:  {Success, "2.0.0", "delivered", "all members of"},
	} {
		r.Recipients = []Recipient{{Address: "bob@example.net", Action: action, RetryUntil: testTime().Add(24 * time.Hour)}}
		m := makeReport(t, r)
		checkLines(t, m.Content)
		h, parts := readParts(t, m.Content)
		n := parse(t, m.Content)
		if n.Kind != want.kind || n.Recipients[0].Action != action || n.Recipients[0].Status != want.status || !strings.Contains(h.Get("Subject"), want.subject) || !strings.Contains(parts[0].content, want.text) || len(parts) != 3 || strings.HasPrefix(parts[2].mediaType, "message/") != (action == Failed) {
			t.Errorf("%s: %+v\n%s", action, n, m.Content)
		}
		if n.Recipients[0].RetryUntil.IsZero() != (action != Delayed) || strings.Contains(parts[0].content, "Mon, 02 Feb 2026") != (action == Delayed) {
			t.Errorf("%s: %+v\n%s", action, n, m.Content)
		}
	}
}

func TestMakeOriginal(t *testing.T) {
	header, _, _ := strings.Cut(originalText, "\r\n\r\n")
	header += "\r\n"
	raw := "Subject: Grüße\r\nMessage-ID: <raw@example.com>\r\n"
	for _, test := range []struct {
		name, original string
		full, utf8     bool
		mediaType      string
		encoding       string
		content        string // of the part, raw
		eightBit       bool
	}{
		{"header", originalText, false, false, "text/rfc822-headers", "7bit", header, false},
		{"full", originalText, true, false, "message/rfc822", "7bit", originalText, false},
		{"full 8 bit", originalText + "Grüße\r\n", true, false, "message/rfc822", "8bit", originalText + "Grüße\r\n", true},
		{"full Latin-1", originalText + "Gr\xfc\xdfe\r\n", true, true, "message/rfc822", "8bit", originalText + "Gr\xfc\xdfe\r\n", true},
		{"too large", originalText + strings.Repeat("0123456789\r\n", maxFull/12), true, false, "text/rfc822-headers", "7bit", header, false},
		{"long lines", originalText + strings.Repeat("x", 1000) + "\r\n", true, false, "text/rfc822-headers", "7bit", header, false},
		{"bare LF", originalText + "a\nb\r\n", true, false, "text/rfc822-headers", "7bit", header, false},
		{"bare CR", originalText + "a\rb\r\n", true, false, "text/rfc822-headers", "7bit", header, false},
		{"UTF-8 header, not for UTF-8", raw + "\r\n", true, false, "text/rfc822-headers", "quoted-printable", "Subject: Gr=C3=BC=C3=9Fe\r\nMessage-ID: <raw@example.com>\r\n", false},
		{"UTF-8 header", raw + "\r\n", false, true, "message/global-headers", "8bit", raw, true},
		{"UTF-8 message", raw + "\r\nHi\r\n", true, true, "message/global", "8bit", raw + "\r\nHi\r\n", true},
		{"Latin-1 header", "Subject: Gr\xfc\xdfe\r\n\r\n", true, true, "text/rfc822-headers", "quoted-printable", "Subject: Gr=FC=DFe\r\n", false},
		{"header with LF", "Subject: a\nX: b\n c\n\nHi\n", true, false, "text/rfc822-headers", "7bit", "Subject: a\r\nX: b\r\n c\r\n", false},
		{"folded to nothing", "Subject: a\r\n \r\nX: b\r\n\r\nHi\r\n", false, false, "text/rfc822-headers", "7bit", "Subject: a\r\nX: b\r\n", false},
		{"header alone", "Subject: a\r\n", true, false, "message/rfc822", "7bit", "Subject: a\r\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := testReport()
			r.Original, r.Full, r.UTF8 = section([]byte(test.original)), test.full, test.utf8
			m := makeReport(t, r)
			checkLines(t, m.Content)
			if m.EightBit != test.eightBit || m.UTF8 {
				t.Errorf("EightBit %v, UTF8 %v", m.EightBit, m.UTF8)
			}
			// The part, as it stands in the message.
			sep := []byte("\r\nContent-Transfer-Encoding: " + test.encoding + "\r\n\r\n")
			i := bytes.LastIndex(m.Content[:bytes.LastIndex(m.Content, []byte(clip(test.content, 10)))], sep)
			if i < 0 {
				t.Fatalf("no %s in\n%s", test.encoding, m.Content)
			}
			got, _, _ := bytes.Cut(m.Content[i+len(sep):], []byte("\r\n--"))
			if string(got) != strings.TrimSuffix(test.content, "\r\n") && string(got) != test.content {
				t.Errorf("got\n%q\nwant\n%q", got, test.content)
			}
			if !bytes.Contains(m.Content, []byte("Content-Type: "+test.mediaType)) {
				t.Errorf("no %s in\n%s", test.mediaType, m.Content)
			}
		})
	}
}

// RFC 6533: in UTF-8 to who takes it, otherwise encoded.
func TestMakeUTF8(t *testing.T) {
	r := testReport()
	r.Recipients[0].Address, r.Recipients[0].Original = "zoë+=\\@bücher.example", "utf-8;zoë@example.net"
	r.Recipients[0].Diagnostic = "550 5.1.1 gibt es nicht: ß"
	m := makeReport(t, r)
	if m.EightBit || !bytes.Contains(m.Content, []byte(`Final-Recipient: utf-8;zo\x{EB}\x{2B}\x{3D}\x{5C}@b\x{FC}cher.example`)) || !bytes.Contains(m.Content, []byte(`Original-Recipient: utf-8;zo\x{EB}@example.net`)) {
		t.Errorf("%s", m.Content)
	}
	if n := parse(t, m.Content); n.Recipients[0].Original != "utf-8;zoë@example.net" {
		t.Errorf("%+v", n)
	}
	r.UTF8, r.To = true, "zoë@example.com"
	m = makeReport(t, r)
	if !m.EightBit || !m.UTF8 || !bytes.Contains(m.Content, []byte("Content-Type: message/global-delivery-status\r\n")) || !bytes.Contains(m.Content, []byte("Final-Recipient: utf-8;zoë+=\\@bücher.example\r\n")) || !bytes.Contains(m.Content, []byte("gibt es nicht: ß")) {
		t.Errorf("%+v\n%s", m, m.Content)
	}
	if n := parse(t, m.Content); n.Recipients[0].Original != "utf-8;zoë@example.net" || n.Recipients[0].Diagnostic != r.Recipients[0].Diagnostic {
		t.Errorf("%+v", n)
	}
}

func TestMakeRefuses(t *testing.T) {
	for name, change := range map[string]func(*Report){
		"null sender":       func(r *Report) { r.To = "" },
		"no sender":         func(r *Report) { r.To = "alice" },
		"line in sender":    func(r *Report) { r.To = "alice@example.com>\r\nX: y" },
		"UTF-8 sender":      func(r *Report) { r.To = "zoë@example.com" },
		"no host":           func(r *Report) { r.ReportingMTA = "" },
		"line in host":      func(r *Report) { r.ReportingMTA = "a\r\nb" },
		"no recipients":     func(r *Report) { r.Recipients = nil },
		"no action":         func(r *Report) { r.Recipients[0].Action = "" },
		"unknown action":    func(r *Report) { r.Recipients[0].Action = "failed\r\nX: y" },
		"no time":           func(r *Report) { r.Now = time.Time{} },
		"author is no one":  func(r *Report) { r.From = "x" },
		"everything wrong ": func(r *Report) { *r = Report{} },
	} {
		r := testReport()
		change(&r)
		if m, err := Make(r); err == nil {
			t.Errorf("%s:\n%s", name, m.Content)
		}
	}
	if _, err := Make(Report{}); err == nil || strings.Count(err.Error(), "\n") != 4 {
		t.Errorf("not all problems: %v", err)
	}
}

// Nothing in a report starts a line of its own.
func TestMakeInjection(t *testing.T) {
	const evil = "x\r\nInjected: yes\nInjected: yes\r\rInjected: yes\r\n\r\n--b\u2028Injected: yes\x00\x1b[31m"
	r := testReport()
	r.EnvID, r.MessageID = evil, evil
	r.Recipients = nil
	for _, a := range []Action{Failed, Delayed, Relayed} {
		r.Recipients = append(r.Recipients, Recipient{Address: evil, Original: "rfc822;" + evil, Action: a, Status: evil, RemoteMTA: evil, Diagnostic: evil}, Recipient{Original: evil + ";x", Action: a})
	}
	r.Original = section([]byte("Subject: a\r\nFrom: =?utf-8?q?x=0D=0AInjected:_yes?=\r\nMessage-ID: <a\tb>\r\n\r\n"))
	for _, r.UTF8 = range []bool{false, true} {
		m := makeReport(t, r)
		checkLines(t, m.Content)
		for l := range strings.Lines(string(m.Content)) {
			if strings.HasPrefix(l, "Injected") {
				t.Errorf("%q", m.Content)
			}
		}
		if bytes.ContainsAny(m.Content, "\x00\x1b") {
			t.Errorf("%q", m.Content)
		}
	}
}

func TestMakeMany(t *testing.T) {
	r := testReport()
	r.Recipients = nil
	for i := range 1000 {
		r.Recipients = append(r.Recipients, Recipient{Address: fmt.Sprintf("u%d@example.net", i), Action: Failed, Diagnostic: strings.Repeat("long-", 1000)})
	}
	m := makeReport(t, r)
	checkLines(t, m.Content)
	if n := parse(t, m.Content); len(n.Recipients) < 400 { // what fits into the reader's bound
		t.Errorf("%d recipients", len(n.Recipients))
	}
	if _, parts := readParts(t, m.Content); !strings.Contains(parts[0].content, "and to 900 more") {
		t.Error("the text is longer than people read")
	}
}

func TestWanted(t *testing.T) {
	for _, test := range []struct {
		notify []string
		want   []Action
	}{
		{nil, []Action{Failed, Delayed}},
		{[]string{"NEVER"}, nil},
		{[]string{"never"}, nil},
		{[]string{"SUCCESS"}, []Action{Delivered, Relayed, Expanded}},
		{[]string{"FAILURE"}, []Action{Failed}},
		{[]string{"delay", "SUCCESS", "FAILURE"}, []Action{Failed, Delayed, Delivered, Relayed, Expanded}},
	} {
		for _, a := range []Action{Failed, Delayed, Delivered, Relayed, Expanded, ""} {
			if got := Wanted(test.notify, a); got != slices.Contains(test.want, a) {
				t.Errorf("NOTIFY=%v of %s: %v", test.notify, a, got)
			}
		}
	}
}

func FuzzMake(f *testing.F) {
	f.Add("bob@example.net", "rfc822;bob@example.com", "5.1.1", "mx.example.net", "550 5.1.1 no such user", "env", originalText, true, true)
	f.Add("zoë@example.net", "utf-8;x", "", "192.0.2.1", "", "a\r\nb", "Subject: Grüße\n\nx", true, false)
	f.Fuzz(func(t *testing.T, address, original, status, remote, diagnostic, env, content string, full, utf8 bool) {
		r := testReport()
		r.EnvID, r.Full, r.UTF8, r.Original = env, full, utf8, section([]byte(content))
		r.Recipients = []Recipient{{Address: address, Original: original, Action: Failed, Status: status, RemoteMTA: remote, Diagnostic: diagnostic}}
		m := makeReport(t, r)
		checkLines(t, m.Content)
		if !utf8 && !full && m.EightBit {
			t.Errorf("8 bit: %q", m.Content)
		}
		n := parse(t, m.Content)
		if n.Kind != Bounce || len(n.Recipients) != 1 || n.ReportingMTA != "mail.example.com" {
			t.Errorf("comes back as %+v\n%q", n, m.Content)
		}
	})
}
