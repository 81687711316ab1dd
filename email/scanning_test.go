package email

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/email/internal/scan"
)

// milter is a mail filter. What it answers to a packet is up to answer, and to go
// on if that returns nothing.
type milter struct {
	addr   string
	answer func(packet string) []string

	mu   sync.Mutex
	seen []string
}

func startMilter(t *testing.T, answer func(packet string) []string) *milter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &milter{addr: ln.Addr().String(), answer: answer}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			m.serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return m
}

func (m *milter) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		var size uint32
		if binary.Read(r, binary.BigEndian, &size) != nil {
			return
		}
		packet := make([]byte, size)
		if _, err := io.ReadFull(r, packet); err != nil {
			return
		}
		var answers []string
		switch packet[0] {
		case 'Q':
			return
		case 'D': // macros
			continue
		case 'O':
			answers = []string{"O\x00\x00\x00\x06\x00\x00\x00\x31\x00\x00\x00\x00"}
		default:
			m.mu.Lock()
			m.seen = append(m.seen, string(packet))
			m.mu.Unlock()
			if answers = m.answer(string(packet)); answers == nil {
				answers = []string{"c"}
			}
		}
		for _, a := range answers {
			conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(a))), a...))
		}
	}
}

// header is what it was told of the header, a field a line.
func (m *milter) header() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, packet := range m.seen {
		if field, ok := strings.CutPrefix(packet, "L"); ok {
			name, value, _ := strings.Cut(strings.TrimSuffix(field, "\x00"), "\x00")
			b.WriteString(name + ": " + strings.ReplaceAll(value, "\n", "") + "\n")
		}
	}
	return b.String()
}

func (m *milter) scanner(action string) Scanner {
	return Scanner{Type: SpamScanner, Backend: MilterBackend, Address: m.addr, Action: action}
}

// scanned is a server that has mail scanned, and what arrives at its next hop.
func scanned(t *testing.T, scanners ...Scanner) (*server, *mailboxes) {
	t.Helper()
	box := newMailbox(nil)
	next := start(t, Config{Routes: toMailboxes}, WithMailbox(box.take))
	s := start(t, Config{
		SmartHost: &SmartHost{Host: "127.0.0.1", Port: int(portOf(next.Addrs()[0]))},
		Routes:    routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process","process":{"scan":true}}}]`),
		Scanners:  scanners,
	})
	return s, box
}

// Scanners see what is delivered: with our own trace fields, without those that
// pretend to be ours.
func TestScannersSeeWhatIsDelivered(t *testing.T) {
	m := startMilter(t, func(string) []string { return nil })
	s, box := scanned(t, m.scanner(TagMail))
	forged := "Authentication-Results: mx.example.com; dkim=pass header.d=bank.example\r\n"
	if got := s.dial().hello().send("a@example.net", "b@example.com", forged+hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	got := m.header()
	if strings.Contains(got, "bank.example") || strings.Count(got, "\nAuthentication-Results: mx.example.com;") != 1 ||
		!strings.HasPrefix(got, "Received: from client.example.net ") || !strings.Contains(got, "\nSubject: hi\n") {
		t.Errorf("it is told\n%s", got)
	}
	waitFor(t, func() bool { return len(box.all()) == 1 })
	if content := box.all()[0].content; strings.Contains(content, "bank.example") {
		t.Errorf("delivered:\n%s", content)
	}
}

// A header of the greatest length that is let in can be scanned with ours before it.
func TestScanOfLongHeader(t *testing.T) {
	s, _ := scanned(t, Scanner{Type: SpamScanner}, Scanner{Type: VirusScanner})
	header, body, _ := strings.Cut(hi, "\r\n\r\n")
	for line := "\r\nX-Long: " + strings.Repeat("x", 90); len(header)+len(line)+4 <= maxHeader; {
		header += line
	}
	if got := s.dial().hello().send("a@example.net", "b@example.com", header+"\r\n\r\n"+body); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
}

// A recipient that a milter refuses does not get the message, and neither does
// anyone else, as the client can be told but one thing.
func TestMilterRefusesRecipient(t *testing.T) {
	m := startMilter(t, func(packet string) []string {
		switch {
		case strings.HasPrefix(packet, "R<refused@"):
			return []string{"y550 5.1.1 no such user\x00"}
		case strings.HasPrefix(packet, "R<later@"):
			return []string{"y450 4.2.1 not now\x00"}
		}
		return nil
	})
	s, box := scanned(t, m.scanner(RejectMail))
	for _, test := range []struct{ other, want string }{
		{"refused@example.com", "550 5.1.1 <refused@example.com>: no such user"},
		{"later@example.com", "450 4.2.1 not now"},
		{"other@example.com", "250"},
	} {
		c := s.dial().hello()
		c.say("MAIL FROM:<a@example.net>", "250")
		c.say("RCPT TO:<ok@example.com>", "250")
		c.say("RCPT TO:<"+test.other+">", "250")
		if got := c.data(hi); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %s", test.other, got, test.want)
		}
	}
	waitFor(t, func() bool { return len(box.all()) >= 2 && s.Stats().Spool == SpoolStats{} })
	for _, got := range box.all() {
		if got.Recipient != "ok@example.com" && got.Recipient != "other@example.com" || len(box.all()) != 2 {
			t.Errorf("%s has the message, one of %d", got.Recipient, len(box.all()))
		}
	}
}

// What a milter wants to have changed in the header is, in fields of ours and of
// the sender, beside a forged one that is left out.
func TestMilterChangesHeader(t *testing.T) {
	m := startMilter(t, func(packet string) []string {
		if packet != "E" {
			return nil
		}
		change := func(index byte, name, value string) string {
			return "m\x00\x00\x00" + string(rune(index)) + name + "\x00" + value + "\x00"
		}
		return []string{"hX-New\x00new\x00", change(2, "x-evil", ""), change(1, "X-Evil", "tamed"), change(1, "Subject", "[odd] hi"), change(1, "Authentication-Results", ""),
			change(1, "X-None", ""), change(9, "X-Added", "added"), change(1, "X-Last", ""), "c"}
	})
	s, box := scanned(t, m.scanner(RejectMail))
	forged := "Authentication-Results: mx.example.com; dkim=pass header.d=bank.example\r\n"
	sent := "X-Evil: one\r\n" + forged + "x-evil: two,\r\n folded\r\n" + strings.Replace(hi, "\r\n\r\n", "\r\nX-Evil: three\r\nX-Last: yes\r\n\r\n", 1)
	if got := s.dial().hello().send("a@example.net", "b@example.com", sent); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	waitFor(t, func() bool { return len(box.all()) == 1 })
	got := box.all()[0].content
	_, got, _ = strings.Cut(got, "X-New: ") // behind what the next hop has put in front
	got, _, _ = strings.Cut(got, "Received: ")
	if want := "new\r\nX-Spam-Score: 0.0\r\nX-Spam-Status: No, score=0.0 required=0.0\r\nX-Added: added\r\nX-Evil: tamed\r\nSubject: [odd] hi\r\n"; got != want {
		t.Errorf("in front:\n%s\nwant\n%s", got, want)
	}
	_, got, _ = strings.Cut(box.all()[0].content, "for <b@example.com>;\r\n")
	_, got, _ = strings.Cut(got, "for <b@example.com>;\r\n") // of the server that scans
	_, got, _ = strings.Cut(got, "\r\n")
	if want := "From: a@example.net\r\nTo: b@example.com\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\nX-Evil: three\r\n\r\nHello.\r\n"; got != want {
		t.Errorf("behind:\n%s\nwant\n%s", got, want)
	}
}

// What tells how the message came stays, though milters that verify take away what
// has our name.
func TestMilterLeavesTrace(t *testing.T) {
	const prefix, body = "Received: here\r\nAuthentication-Results: mx.example.com; spf=pass\r\nDate: now\r\n", "Received: there\r\nSubject: hi\r\n\r\nHello.\r\n"
	m := &incoming{tx: &transaction{env: queued{Prefix: []byte(prefix)}}, body: io.NewSectionReader(strings.NewReader(body), 0, int64(len(body)))}
	_, header, err := m.shown()
	if err != nil {
		t.Fatal(err)
	}
	var changes []scan.Change
	for _, name := range []string{"Received", "authentication-results", "Date"} {
		changes = append(changes, scan.Change{Field: scan.Field{Name: name}})
	}
	m.change(header, changes)
	got, err := io.ReadAll(m.tx.env.content(m.body, nil))
	if want := "Received: here\r\nAuthentication-Results: mx.example.com; spf=pass\r\nSubject: hi\r\n\r\nHello.\r\n"; string(got) != want || err != nil {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// brokenScanner panics, as a parser may over what a stranger has made.
type brokenScanner struct{}

func (brokenScanner) Scan(context.Context, scan.Message) (scan.Verdict, error) {
	panic("index out of range")
}

// A scanner that panics is one that could not look at the message.
func TestScannerPanics(t *testing.T) {
	for onError, want := range map[string]string{TempFailMail: "451 4.7.1", AcceptMail: "250"} {
		log := new(safeLog)
		s := start(t, Config{
			Routes:   routes(t, `[{"name":"in","match":{"recipients":"*@example.com"},"action":{"type":"process","process":{"scan":true}}}]`),
			Scanners: []Scanner{{Type: VirusScanner, OnError: onError}, {Type: SpamScanner}},
			Queue:    Queue{Paused: true},
		}, WithLogger(log.logger()))
		s.current().scanners[0].scan = brokenScanner{}
		if got := s.dial().hello().send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %s", onError, got, want)
		}
		if got := s.Stats().Scans; got["virus/error"] != 1 {
			t.Errorf("%s: %v", onError, got)
		}
		if text := log.String(); strings.Count(text, "brokenScanner.Scan") != 1 || strings.Count(text, "index out of range") != 1 {
			t.Errorf("%s: the log has\n%s", onError, text)
		}
	}
}

// Which fields a change is about.
func TestChangedFields(t *testing.T) {
	h, _, err := message.ReadHeader(bufio.NewReader(strings.NewReader("A: 1\r\nB: 1\r\na: 2\r\nA: 3\r\n\r\n")), maxHeader)
	if err != nil {
		t.Fatal(err)
	}
	for index, want := range map[int][]int{0: {0, 2, 3}, 1: {0}, 3: {3}, 4: nil, -1: {3}, -3: {0}, -4: nil} {
		if got := find(h, "a", index); !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", index, got, want)
		}
	}
}
