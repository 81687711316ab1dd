package smtpd

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"
)

// FuzzSession feeds a whole connection. What is accepted must have ended as
// messages end.
func FuzzSession(f *testing.F) {
	const begin = "EHLO x\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<c@d.org>\r\n"
	for _, s := range []string{
		begin + "DATA\r\nx\r\n.\r\nQUIT\r\n",
		begin + "DATA\r\nx\n.\r\n.\r\n",
		begin + "DATA\r\n..x\r\n.x\r\n.\r\n.\r\n",
		begin + "BDAT 3\r\na\r\nBDAT 2 LAST\r\n\r\nRSET\r\n",
		begin + "BDAT 3\r\na\r\nRSET\r\nMAIL FROM:<>\r\n",
		"EHLO x\r\nAUTH PLAIN AHVzZXIAcGFzc3dvcmQ=\r\nAUTH LOGIN\r\n*\r\n",
		"EHLO x\r\nAUTH LOGIN\r\ndXNlcg==\r\ncGFzc3dvcmQ=\r\nMAIL FROM:<ü@b.org> SMTPUTF8 SIZE=1 RET=FULL\r\n",
		"STARTTLS\r\nEHLO x\r\n",
		"NOOP\nNOOP\r\n\x00\r\n",
		"GET / HTTP/1.1\r\n",
	} {
		f.Add([]byte(s), byte(255))
		f.Add([]byte(s), byte(1))
	}
	h := &host{mechanisms: []string{"PLAIN", "LOGIN"}}
	s, err := New(Config{Hostname: "mx.example.com", MaxMessageSize: 1000}, h, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	reply := regexp.MustCompile(`^[2345][0-9][0-9][ -][ -~]*$`)
	f.Fuzz(func(t *testing.T, sent []byte, piece byte) {
		h.mu.Lock()
		h.messages, h.calls = nil, nil
		h.mu.Unlock()
		conn := &fixedConn{rest: bytes.Clone(sent), piece: int(piece) + 1}
		start := time.Now()
		s.ServeConn(t.Context(), proxied{conn, tls.ConnectionState{HandshakeComplete: piece&1 == 1}}, Mode{})
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		for line := range strings.Lines(conn.out.String()) {
			if text, ok := strings.CutSuffix(line, "\r\n"); !ok || !reply.MatchString(text) || len(line) > 512 {
				t.Errorf("the reply %q", line)
			}
		}
		messages := h.accepted()
		for _, m := range messages {
			if strings.ContainsAny(strings.ReplaceAll(m, "\r\n", ""), "\r\n\x00") || len(m) > 1000 {
				t.Errorf("accepted %q", m)
			}
		}
		if !bytes.Contains(bytes.ToUpper(sent), []byte("BDAT")) && len(messages) > bytes.Count(sent, []byte("\r\n.\r\n")) {
			t.Errorf("accepted %d messages of %q", len(messages), sent)
		}
		if strings.ContainsAny(strings.ReplaceAll(h.log(), "\n", ""), "\r\x00") {
			t.Errorf("the session saw %q", h.log())
		}
	})
}

// FuzzParams reads the parameters of MAIL and RCPT.
func FuzzParams(f *testing.F) {
	for _, s := range []string{"", " SIZE=1", " SIZE=1 BODY=8BITMIME", " AUTH=<>", " X=1 x=2", " ENVID=+41", " SIZE=99999999999999999999", "X", " =", " ORCPT=rfc822;a@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g := &guard{}
		rest, refusal := g.vetParams("MAIL", s)
		if refusal != nil {
			return
		}
		if g.path.size < 0 {
			t.Errorf("%q has the size %d", s, g.path.size)
		}
		seen := map[string]bool{}
		for _, p := range strings.Fields(rest) {
			keyword, _, _ := strings.Cut(strings.ToUpper(p), "=")
			if seen[keyword] || keyword == "SIZE" || keyword == "AUTH" || !strings.Contains(s, p) {
				t.Errorf("%q becomes %q", s, rest)
			}
			seen[keyword] = true
		}
	})
}
