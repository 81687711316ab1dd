package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func section(content []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content)))
}

// sample reads a message of testdata, with the line ends that it has in mail.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "samples", name+".eml"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

func parse(t testing.TB, content []byte) *Notification {
	t.Helper()
	n, err := Parse(section(content))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// describe tells of a recipient on a line.
func describe(r Recipient) string {
	s := fmt.Sprintf("%s %s %s", r.Address, r.Action, r.Status)
	if r.Action == Failed || r.Action == Delayed {
		c := Classify(r.Failure())
		s += fmt.Sprintf(" %s %s", c.Severity, c.Reason)
	}
	return strings.Join(strings.Fields(s), " ")
}

// Those called exim-three to exim-delay are Exim's, the others are written here in
// the way of the programs that they are named after.
func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, format string
		kind         Kind
		id           string // of the original message
		recipients   []string
	}{
		{"exim-three", "rfc3464", Bounce, "hello@example.org", []string{
			"x@fail.example.net failed 5.0.0 soft unknown",
			"nobody@smtp.example.net failed 5.0.0 hard no-such-user",
			"full@smtp.example.net failed 5.0.0 soft mailbox-full",
		}},
		{"exim-spam", "rfc3464", Bounce, "hello@example.org", []string{"spam@smtp.example.net failed 5.0.0 block spam"}},
		{"exim-alias", "rfc3464", Bounce, "hello@example.org", []string{"anybody@alias.example.net failed 5.0.0 hard no-such-user"}},
		{"exim-delay", "rfc3464", Delay, "hello@example.org", []string{"grey@smtp.example.net delayed 4.0.0 soft greylisted"}},
		{"exim-text", "exim", Bounce, "lunch-1@example.com", []string{"bob@example.net failed 5.1.1 hard no-such-user"}},
		{"mailru", "exim", Bounce, "lunch-2@example.com", []string{"bob@example.net failed 5.2.2 soft mailbox-full"}},
		{"qmail", "qmail", Bounce, "lunch-3@example.com", []string{
			"bob@example.net failed 5.1.1 hard no-such-user",
			"carol@example.net failed 5.1.1 hard no-such-user",
			"dave@example.net failed soft mailbox-full",
		}},
		{"yahoo", "yahoo", Bounce, "lunch-4@example.com", []string{"bob@example.net failed hard no-such-user"}},
		{"gmail-text", "gmail", Bounce, "lunch-5@gmail.example", []string{"bob@example.net failed 5.7.1 block reputation"}},
		{"gmail-delay", "text", Delay, "lunch-6@gmail.example", []string{"bob@example.net delayed soft unknown"}},
		{"gmail", "rfc3464", Bounce, "lunch-7@gmail.example", []string{"bob@example.net failed 5.1.1 hard no-such-user"}},
		{"exchange2003", "exchange", Bounce, "lunch-8@example.com", []string{
			"bob@example.net failed hard no-such-user",
			"carol@example.net failed soft size",
		}},
		{"office365", "rfc3464", Bounce, "lunch-9@example.com", []string{"bob@example.net failed 5.4.1 hard no-such-user"}},
		{"domino", "domino", Bounce, "", []string{"bob@example.net failed hard no-such-user"}},
		{"notes", "domino", Bounce, "lunch-10@example.com", []string{"bob@example.net failed hard no-such-user"}},
		{"sendmail-text", "sendmail", Bounce, "lunch-11@example.com", []string{
			"bob@example.net failed 5.1.1 hard no-such-user",
			"carol@elsewhere.example failed hard no-such-domain",
		}},
		{"sendmail-v5", "sendmail", Bounce, "lunch-12@example.com", []string{"bob@example.net failed hard no-such-user"}},
		{"postfix-text", "postfix", Bounce, "", []string{
			"bob@example.net failed 4.7.1 soft greylisted",
			"carol@example.net failed soft network",
		}},
		{"sloppy", "rfc3464", Bounce, "lunch-13@example.com", []string{
			"bob@example.net failed 5.1.1 hard no-such-user",
			"carol@example.net failed 5.7.1 block spam",
		}},
		{"action-first", "rfc3464", Bounce, "", []string{
			"bob@example.net failed 5.0.0 soft unknown",
			"carol@example.net delivered 2.0.0",
			"dave@example.net delayed soft unknown",
		}},
		{"x400", "rfc3464", Bounce, "", []string{"bob@example.net failed 5.1.1 hard no-such-user"}},
		{"utf8", "rfc3464", Bounce, "lunch-15@example.com", []string{"zoë@example.net failed 5.7.26 block auth"}},
		{"delivered", "rfc3464", Success, "lunch-16@example.com", []string{"bob@example.net delivered 2.1.5", "list@example.net expanded 2.0.0"}},
		{"mixed", "rfc3464", Delay, "", []string{"bob@example.net delayed 4.4.1 soft network", "carol@example.net relayed 2.0.0"}},
		{"mdn", "mdn", Receipt, "", nil},
		{"out-of-office", "auto-reply", AutoReply, "lunch-18@example.com", nil},
		{"vacation", "auto-reply", AutoReply, "", nil},
		{"abwesend", "auto-reply", AutoReply, "", nil},
		{"challenge", "auto-reply", AutoReply, "", nil},
		{"person", "", None, "", nil},
		{"forwarded", "", None, "", nil},
		{"tlsrpt", "", None, "", nil},
		{"postmaster-person", "", None, "", nil},
		{"arf", "arf", Feedback, "lunch-19@example.com", nil},
		{"arf-redacted", "arf", Feedback, "lunch-21@example.com", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := parse(t, sample(t, test.name))
			var got []string
			for _, r := range n.Recipients {
				got = append(got, describe(r))
			}
			if n.Kind != test.kind || n.Format != test.format || test.id != "" && n.MessageID != test.id || !slices.Equal(got, test.recipients) {
				t.Errorf("%v %q %q %q\nof %+v", n.Kind, n.Format, n.MessageID, got, n)
			}
		})
	}
}

func TestParseDetails(t *testing.T) {
	n := parse(t, sample(t, "gmail"))
	r := n.Recipients[0]
	if n.ReportingMTA != "googlemail.com" || n.Arrival.Unix() != 1769940000 || r.LastAttempt.Unix() != 1769940001 || r.RemoteMTA != "gmail-smtp-in.example.net" ||
		!strings.HasPrefix(r.Diagnostic, "550-5.1.1 The email account") || !strings.HasSuffix(r.Diagnostic, "550 5.1.1 gsmtp") {
		t.Errorf("%+v", n)
	}
	if n.From != "Alice <alice@gmail.example>" || n.To != "bob@example.net" || n.Subject != "Lunch" {
		t.Errorf("%+v", n)
	}
	if n := parse(t, sample(t, "x400")); n.EnvID != "lunch-14" || n.Recipients[0].Original != "rfc822;bob@example.net" {
		t.Errorf("%+v", n)
	}
	if n := parse(t, sample(t, "exim-text")); n.Recipients[0].Original != "rfc822;robert@example.net" || n.Recipients[0].RemoteMTA != "mx.example.net" {
		t.Errorf("%+v", n)
	}
	if n := parse(t, sample(t, "utf8")); n.Recipients[0].Original != "utf-8;zoë@example.net" || n.Subject != "Zoë" {
		t.Errorf("%+v", n)
	}
	if n := parse(t, sample(t, "mixed")); n.Recipients[0].RetryUntil.Unix() != 1769940000 {
		t.Errorf("%+v", n)
	}
}

// Without the header's help: X-Failed-Recipients has whom the text does not show.
func TestFailedRecipients(t *testing.T) {
	n := parse(t, []byte("X-Failed-Recipients: bob@example.net,\r\n  carol@example.net\r\nFrom: x@example.net\r\n\r\nSorry.\r\n"))
	if n.Kind != Bounce || len(n.Recipients) != 2 || n.Recipients[1].Address != "carol@example.net" || n.Recipients[1].Action != Failed {
		t.Errorf("%+v", n)
	}
}

// What a stranger sends costs a bounded amount, and what is found until the bound
// counts.
func TestParseBounds(t *testing.T) {
	var b strings.Builder
	b.WriteString("Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; a.example\r\n")
	for i := range 5 * maxRecipients {
		fmt.Fprintf(&b, "\r\nFinal-Recipient: rfc822; u%d@example.net\r\nAction: failed\r\nDiagnostic-Code: smtp; 550 %s\r\n", i, strings.Repeat("x", 100))
	}
	b.WriteString("--b--\r\n")
	if n := parse(t, []byte(b.String())); n.Kind != Bounce || len(n.Recipients) != maxRecipients {
		t.Errorf("%v, %d recipients", n.Kind, len(n.Recipients))
	}
	b.Reset()
	b.WriteString("From: MAILER-DAEMON@example.net\r\nSubject: Undeliverable\r\n\r\n")
	for i := range 50_000 {
		fmt.Fprintf(&b, "<u%d@example.net>: no such user\r\n", i)
	}
	if n := parse(t, []byte(b.String())); n.Kind != Bounce || len(n.Recipients) == 0 || len(n.Recipients) > maxRecipients {
		t.Errorf("%v, %d recipients", n.Kind, len(n.Recipients))
	}
	// Parts without end: the report comes first.
	deep := "--b\r\nContent-Type: message/delivery-status\r\n\r\nFinal-Recipient: rfc822; bob@example.net\r\nAction: failed\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 10*maxParts)
	if n := parse(t, []byte("Content-Type: multipart/report; boundary=b\r\n\r\n"+deep)); n.Kind != Bounce || len(n.Recipients) != 1 {
		t.Errorf("%+v", n)
	}
	// One long line of everything.
	for _, piece := range []string{"@", "a@", "<", "5.", "550 ", `\x{`, "<a@b.c>", "host ", " - "} {
		long := strings.Repeat(piece, 2_000_000/len(piece))
		parse(t, []byte("From: MAILER-DAEMON@example.net\r\nSubject: Undeliverable\r\n\r\n"+long))
		parse(t, []byte("Content-Type: message/delivery-status\r\n\r\nFinal-Recipient: utf-8;"+long+"\r\n"+long))
		Classify(Failure{Text: long, Status: long})
	}
}

// A message costs little more than its length, whatever it has: what is clipped is
// not cleaned anew with each line that follows. Memory shows that, on any machine.
func TestParseCost(t *testing.T) {
	report := func(kind string) string {
		return "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/" + kind + "\r\n\r\n"
	}
	field := "Diagnostic-Code: smtp; " + strings.Repeat("y ", 440)
	for name, test := range map[string]struct{ start, line string }{
		"short lines":       {report("delivery-status") + field, "\r\na"},
		"lines of nothing":  {report("delivery-status") + field, "\r\n\x7f"},
		"many short fields": {report("delivery-status"), "X-A: 1" + strings.Repeat("\r\ny", 440) + "\r\n"},
		"a complaint":       {report("feedback-report") + field, "\r\na"},
		"announcements":     {"From: MAILER-DAEMON@example.net\r\nSubject: Undeliverable\r\n\r\n<a@b.example>:\r\n\r\n", "a:\r\n\r\n"},
	} {
		msg := []byte(test.start + strings.Repeat(test.line, (512<<10-len(test.start))/len(test.line)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		parse(t, msg)
		if _, err := ParseComplaint(section(msg)); err != nil && !errors.Is(err, ErrNoComplaint) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got := int(after.TotalAlloc-before.TotalAlloc) / len(msg); got > 250 {
			t.Errorf("%s: %d bytes for each byte", name, got)
		}
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }

// An error of reading is not taken for the message's.
func TestParseReadError(t *testing.T) {
	msg := io.NewSectionReader(failing{}, 0, 1000)
	if n, err := Parse(msg); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%+v, %v", n, err)
	}
	if c, err := ParseComplaint(msg); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%+v, %v", c, err)
	}
	if m, err := Make(Report{ReportingMTA: "a.example", To: "a@example.com", Now: testTime(), Recipients: []Recipient{{Action: Failed}}, Original: msg}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestFindStatus(t *testing.T) {
	for text, want := range map[string]string{
		"550 5.1.1 x": "5.1.1", "(#5.7.26)": "5.7.26", "550-5.1.1": "5.1.1", "host 5.1.1.2 said 4.4.1": "4.4.1", "192.5.1.1": "", "5.1": "", "5.1.1234": "", "3.1.1": "",
		"smtp; 550 5.1.10:": "5.1.10", "Postfix 5.1.1beta": "", "5.1.1.": "5.1.1", "": "", "2.1.5": "2.1.5", "5.1.1.2 5.1.2": "5.1.2",
	} {
		if got := findStatus(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]int{"550 x": 550, "x: 421-y": 421, "1550 x": 0, "550x": 0, "(452)": 452, "192.0.2.550": 0, "569": 0, "said: 554": 554, "": 0} {
		if got := findCode(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]string{"mail bob@example.net, now": "bob@example.net", "<mailto:bob@example.net>": "bob@example.net", "@ a@b c@d.example.": "c@d.example", "bob@example.net،": "bob@example.net", "x": ""} {
		if got := findAddress(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func addSamples(f *testing.F) {
	names, err := filepath.Glob(filepath.Join("testdata", "samples", "*.eml"))
	if err != nil || len(names) == 0 {
		f.Fatal(err, names)
	}
	for _, name := range names {
		f.Add(sample(f, strings.TrimSuffix(filepath.Base(name), ".eml")))
	}
}

func FuzzParse(f *testing.F) {
	addSamples(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		n := parse(t, content)
		if len(n.Recipients) > maxRecipients {
			t.Errorf("%d recipients", len(n.Recipients))
		}
		for _, r := range n.Recipients {
			for _, s := range []string{r.Address, r.Original, string(r.Action), r.Status, r.RemoteMTA, r.Diagnostic} {
				checkClean(t, s)
			}
			if r.Action == "" {
				t.Error("a recipient without an action")
			}
			Classify(r.Failure())
		}
		for _, s := range []string{n.ReportingMTA, n.EnvID, n.MessageID, n.From, n.To, n.Subject} {
			checkClean(t, s)
		}
	})
}
