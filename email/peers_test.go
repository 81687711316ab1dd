package email

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// everyMode starts a server with all kinds of ports and mailboxes of the test,
// and returns the ports in the order smtp, submission, smtps.
func everyMode(t testing.TB, m *mailboxes) (s *server, ports [3]string) {
	t.Helper()
	cfg := submission(t, SMTP)
	cfg.Ports = []Port{{}, {Mode: Submission}, {Mode: SMTPS}}
	cfg.Routes = append(cfg.Routes, toMailboxes...)
	s = start(t, cfg, WithMailbox(m.take))
	for i, a := range s.Addrs() {
		ports[i] = strconv.Itoa(int(portOf(a)))
	}
	return s, ports
}

func TestSwaks(t *testing.T) {
	tool := testenv.Need(t, "swaks", "apt install swaks")
	m := newMailbox(nil)
	_, ports := everyMode(t, m)
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789 åäö abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\n"), 20_000), 0o600); err != nil {
		t.Fatal(err)
	}
	users := func(mechanism string) []string {
		return []string{"--auth", mechanism, "--auth-user", "alice@example.com", "--auth-password", "wonderland", "--from", "alice@example.com", "--to", "x@elsewhere.example"}
	}
	for _, test := range []struct {
		name string
		args []string
		code int // swaks' exit code: which step failed
	}{
		{"plain", []string{"--port", ports[0], "--from", "a@example.net", "--to", "b@example.com"}, 0},
		{"HELO", []string{"--port", ports[0], "--protocol", "SMTP", "--from", "a@example.net", "--to", "b@example.com"}, 0},
		{"STARTTLS", []string{"--port", ports[0], "--tls", "--from", "a@example.net", "--to", "b@example.com"}, 0},
		{"pipelining", []string{"--port", ports[0], "--pipeline", "--from", "a@example.net", "--to", "b@example.com,c@example.com"}, 0},
		{"attachment", []string{"--port", ports[0], "--from", "a@example.net", "--to", "b@example.com", "--attach", "@" + big}, 0},
		{"relaying", []string{"--port", ports[0], "--from", "a@example.net", "--to", "b@elsewhere.example"}, 24},
		{"AUTH PLAIN", append(users("PLAIN"), "--port", ports[1], "--tls"), 0},
		{"AUTH LOGIN", append(users("LOGIN"), "--port", ports[1], "--tls"), 0},
		{"implicit TLS", append(users("PLAIN"), "--port", ports[2], "--tls-on-connect"), 0},
		{"no CRAM-MD5", append(users("CRAM-MD5"), "--port", ports[1], "--tls"), 28},
		{"no AUTH without TLS", append(users("PLAIN"), "--port", ports[1]), 28},
		{"wrong password", []string{"--port", ports[2], "--tls-on-connect", "--auth", "PLAIN", "--auth-user", "bob", "--auth-password", "x", "--from", "bob@example.com", "--to", "x@example.com"}, 28},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			before := len(m.all())
			cmd := exec.CommandContext(ctx, tool, append([]string{"--server", "127.0.0.1", "--helo", "client.example.net"}, test.args...)...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Fatalf("exit code %d, want %d\n%.3000s", code, test.code, out)
			}
			if got := len(m.all()) - before; (got > 0) != (test.code == 0) {
				t.Errorf("%d messages came", got)
			}
		})
	}
}

// Python's clients send a message of all bytes that a message may have, and what
// comes is what they sent.
func TestPythonClients(t *testing.T) {
	python := "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import aiosmtplib").Run(); err != nil {
		testenv.Lacks(t, "Debian's python3 with aiosmtplib is missing; get it with: apt install python3-aiosmtplib")
	}
	m := newMailbox(nil)
	_, ports := everyMode(t, m)
	script := `
import asyncio, hashlib, smtplib, ssl, sys, aiosmtplib
smtp, submission, smtps = map(int, sys.argv[1:])
tls = ssl._create_unverified_context()
line = bytes(b for b in range(1, 256) if b not in (10, 13)) + b"\r\n..\r\n.\r\n.x\r\n"
message = b"From: alice@example.com\r\nTo: b@example.com\r\nSubject: bytes\r\n\r\n" + line * 300
with smtplib.SMTP("127.0.0.1", smtp) as c:
    c.ehlo("client.example.net")
    c.sendmail("a@example.net", ["b@example.com"], message, mail_options=["BODY=8BITMIME"])
    code, text = c.docmd("VRFY", "b@example.com"); assert code == 252, (code, text)
    code, text = c.docmd("EXPN", "list"); assert code in (500, 502, 550), (code, text)
    code, text = c.help(), None
    assert c.noop()[0] == 250
    try:
        c.sendmail("a@example.net", ["b@elsewhere.example"], message); assert False
    except smtplib.SMTPRecipientsRefused as e:
        assert e.recipients["b@elsewhere.example"][0] == 550, e
with smtplib.SMTP("127.0.0.1", submission) as c:
    c.starttls(context=tls)
    c.login("alice@example.com", "wonderland")
    c.sendmail("alice@example.com", ["x@elsewhere.example"], message, mail_options=["BODY=8BITMIME"])
with smtplib.SMTP_SSL("127.0.0.1", smtps, context=tls) as c:
    try:
        c.login("alice@example.com", "wrong"); assert False
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
async def main():
    await aiosmtplib.send(message, sender="alice@example.com", recipients=["x@elsewhere.example"], hostname="127.0.0.1", port=smtps,
        use_tls=True, tls_context=tls, username="alice@example.com", password="wonderland")
    await asyncio.gather(*[aiosmtplib.send(message, sender="a@example.net", recipients=["b@example.com"], hostname="127.0.0.1", port=smtp, start_tls=False) for _ in range(5)])
asyncio.run(main())
print(hashlib.sha256(message).hexdigest())
`
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, "-c", script, ports[0], ports[1], ports[2]).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := m.all()
	if len(all) != 8 {
		t.Errorf("%d messages", len(all))
	}
	for _, got := range all {
		at := strings.Index(got.content, "From: alice@")
		if at < 0 {
			t.Fatalf("%.300q", got.content)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(got.content[at:]))); sum != strings.TrimSpace(string(out)) {
			t.Errorf("the message is not what was sent: %.300q", got.content)
		}
	}
}

func TestNmapFindsNoOpenRelay(t *testing.T) {
	tool := testenv.Need(t, "nmap", "apt install nmap")
	s, ports := everyMode(t, newMailbox(nil))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "-Pn", "-n", "-p", ports[0], "--script", "+smtp-open-relay",
		"--script-args", "smtp-open-relay.domain=elsewhere.example,smtp-open-relay.from=a@example.com,smtp-open-relay.to=b@elsewhere.example", "127.0.0.1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Server doesn't seem to be an open relay") && !strings.Contains(string(out), "smtp-open-relay: ") {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "is an open relay") || s.Stats().Messages.Accepted != 0 {
		t.Errorf("%s", out)
	}
	t.Logf("%s", out)
}
