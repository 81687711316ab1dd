package email

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
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
