package smtpd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// scramServer is SCRAM-SHA-256 (RFC 7677) for one user.
type scramServer struct{ conversation *scram.ServerConversation }

func newScram() (*scramServer, error) {
	client, err := scram.SHA256.NewClient("user", "password", "")
	if err != nil {
		return nil, err
	}
	credentials, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "0123456789abcdef", Iters: 4096})
	if err != nil {
		return nil, err
	}
	server, err := scram.SHA256.NewServer(func(user string) (scram.StoredCredentials, error) {
		if user != "user" {
			return scram.StoredCredentials{}, fmt.Errorf("no user %q", user)
		}
		return credentials, nil
	})
	if err != nil {
		return nil, err
	}
	return &scramServer{server.NewConversation()}, nil
}

func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return nil, false, nil
	}
	out, err := s.conversation.Step(string(response))
	return []byte(out), s.conversation.Done(), err
}

// run runs a program to its end and returns what it printed. On wantOK it must
// succeed.
func run(t *testing.T, wantOK bool, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if (err == nil) != wantOK {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// received returns the last message, and fails if the count is not n.
func received(t *testing.T, h *host, n int) string {
	t.Helper()
	got := h.accepted()
	if len(got) != n {
		t.Fatalf("%d messages were accepted, want %d", len(got), n)
	}
	return got[n-1]
}

func peerHost() *host { return &host{mechanisms: []string{"PLAIN", "LOGIN", "SCRAM-SHA-256"}} }

func TestSwaks(t *testing.T) {
	swaks := testenv.Need(t, "swaks", "apt-get install swaks libnet-ssleay-perl")
	big := filepath.Join(testenv.Folder(t), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat(strings.Repeat("0123456789", 7)+"\n", 30_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	ports := map[string]*running{}
	h := peerHost()
	ports["plain"] = serve(t, h, Mode{})
	ports["implicit"] = serve(t, h, Mode{ImplicitTLS: true, Submission: true})
	ports["submission"] = serve(t, h, Mode{Submission: true})
	tests := []struct {
		name, port string
		args       []string
		ok         bool
		log        string // in what the session saw
	}{
		{"plain", "plain", nil, true, ""},
		{"HELO", "plain", []string{"--protocol", "SMTP"}, true, "esmtp=false"},
		{"pipelining", "plain", []string{"--pipeline", "--to", "a@b.org,c@d.org,e@f.org"}, true, "rcpt <e@f.org>"},
		{"STARTTLS", "plain", []string{"--tls"}, true, "tls=true"},
		{"STARTTLS and pipelining", "plain", []string{"--tls", "--pipeline"}, true, "tls=true"},
		{"implicit TLS", "implicit", []string{"--tlsc", "--auth", "PLAIN", "-au", "user", "-ap", "password"}, true, "auth PLAIN as user"},
		{"AUTH PLAIN", "submission", []string{"--tls", "--auth", "PLAIN", "-au", "user", "-ap", "password"}, true, "auth PLAIN as user"},
		{"AUTH LOGIN", "submission", []string{"--tls", "--auth", "LOGIN", "-au", "user", "-ap", "password"}, true, "auth LOGIN as user"},
		{"wrong password", "submission", []string{"--tls", "--auth", "PLAIN", "-au", "user", "-ap", "wrong"}, false, ""},
		{"AUTH CRAM-MD5", "submission", []string{"--tls", "--auth", "CRAM-MD5", "-au", "user", "-ap", "password"}, false, ""},
		{"no AUTH", "submission", []string{"--tls"}, false, ""},
		{"no TLS", "submission", []string{"--auth", "PLAIN", "-au", "user", "-ap", "password"}, false, ""},
		{"8-bit", "plain", []string{"--body", "gr\xc3\xbc\xc3\x9fe"}, true, ""},
		{"big", "plain", []string{"--body", "@" + big}, true, ""},
		{"dots", "plain", []string{"--body", ".\n..\n.x"}, true, ""},
	}
	n := 0
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			host, port, _ := net.SplitHostPort(ports[test.port].addr)
			args := append([]string{"--server", host, "--port", port, "--from", "from@example.org", "--to", "to@example.com", "--helo", "client.example.org"}, test.args...)
			out := run(t, test.ok, "", swaks, args...)
			if !test.ok {
				return
			}
			n++
			message := received(t, h, n)
			if !strings.Contains(message, "Subject: test") || !strings.Contains(h.log(), test.log) {
				t.Errorf("swaks printed\n%s\nthe session saw\n%s", out, h.log())
			}
			switch test.name {
			case "8-bit":
				if !strings.Contains(message, "gr\xc3\xbc\xc3\x9fe") {
					t.Errorf("got %q", message)
				}
			case "big":
				if strings.Count(message, "0123456789\r\n") != 30_000 {
					t.Errorf("got %d bytes", len(message))
				}
			case "dots":
				if !strings.Contains(message, "\r\n\r\n.\r\n..\r\n.x\r\n") {
					t.Errorf("got %q", message)
				}
			}
		})
	}
}

const smtplibScript = `
import smtplib, ssl, sys
host, port, implicit, cafile = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
tls = ssl.create_default_context(cafile=cafile)

s = smtplib.SMTP(host, port, local_hostname="client.example.org")
code, text = s.ehlo()
assert code == 250 and s.has_extn("size") and s.has_extn("chunking") and not s.has_extn("auth"), text
refused = s.sendmail("a@example.org", ["b@example.com", "nobody@example.com"], "Subject: one\n\n.dot\nbody\n")
assert list(refused) == ["nobody@example.com"], refused
assert s.verify("b@example.com")[0] == 252
assert s.noop()[0] == 250
assert s.rset()[0] == 250
s.starttls(context=tls)
s.ehlo()
assert "PLAIN" in s.esmtp_features["auth"], s.esmtp_features
try:
    s.login("user", "wrong")
    assert False
except smtplib.SMTPAuthenticationError as e:
    assert e.smtp_code == 535, e
s.login("user", "password")
s.sendmail("j\u00fcrgen@example.org", ["b@example.com"], b"Subject: two\r\n\r\n" + "\u00fc\r\n".encode(), mail_options=["SMTPUTF8", "BODY=8BITMIME"])
try:
    s.sendmail("a@example.org", ["nobody@example.com"], "x")
    assert False
except smtplib.SMTPRecipientsRefused:
    pass
s.quit()

s = smtplib.SMTP_SSL(host, implicit, context=tls)
s.login("user", "password")
s.sendmail("a@example.org", ["b@example.com"], "Subject: three\n\nx\n")
s.quit()
`

func TestPythonSMTPLib(t *testing.T) {
	python := testenv.Need(t, "python3", "apt-get install python3")
	h := peerHost()
	h.rcpt = func(to addr.Address) error {
		if to.Local == "nobody" {
			return newReply(550, 5, 1, 1, "no such user")
		}
		return nil
	}
	plain := serve(t, h, Mode{})
	implicit := serve(t, h, Mode{ImplicitTLS: true})
	_, port, _ := net.SplitHostPort(plain.addr)
	_, implicitPort, _ := net.SplitHostPort(implicit.addr)
	run(t, true, "", python, "-c", smtplibScript, "127.0.0.1", port, implicitPort, plain.cert)
	received(t, h, 3)
	if got := h.accepted()[0]; got != "Subject: one\r\n\r\n.dot\r\nbody\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestCurl(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	h := peerHost()
	s := serve(t, h, Mode{Submission: true})
	implicit := serve(t, h, Mode{Submission: true, ImplicitTLS: true})
	_, port, _ := net.SplitHostPort(s.addr)
	_, implicitPort, _ := net.SplitHostPort(implicit.addr)
	const message = "Subject: curl\r\n\r\n.\r\n..x\r\n"
	common := []string{"-sS", "--max-time", "60", "--mail-from", "a@example.org", "--mail-rcpt", "b@example.com", "-T", "-"}
	run(t, true, message, curl, append(common, "--ssl-reqd", "--cacert", s.cert, "-u", "user:password", "smtp://localhost:"+port+"/client.example.org")...)
	if got := received(t, h, 1); got != message {
		t.Errorf("got %q", got)
	}
	run(t, true, message, curl, append(common, "--cacert", implicit.cert, "-u", "user:password", "smtps://localhost:"+implicitPort)...)
	received(t, h, 2)
	run(t, false, message, curl, append(common, "smtp://localhost:"+port)...)
	run(t, false, message, curl, append(common, "-k", "--ssl-reqd", "-u", "user:wrong", "smtp://localhost:"+port)...)
	received(t, h, 2)
}

func TestMsmtp(t *testing.T) {
	msmtp := testenv.Need(t, "msmtp", "apt-get install msmtp")
	h := peerHost()
	s := serve(t, h, Mode{Submission: true})
	_, port, _ := net.SplitHostPort(s.addr)
	for i, method := range []string{"plain", "login", "scram-sha-256"} {
		t.Run(method, func(t *testing.T) {
			args := []string{
				"-C", "/dev/null", "--host=localhost", "--port=" + port, "--tls=on", "--tls-starttls=on", "--tls-trust-file=" + s.cert,
				"--auth=" + method, "--user=user", "--from=a@example.org", "--dsn-notify=failure,delay", "--dsn-return=headers", "--passwordeval=echo password", "b@example.com",
			}
			run(t, true, "Subject: msmtp\n\nx\n", msmtp, args...)
			received(t, h, i+1)
			if !strings.Contains(h.log(), "Return:HDRS") || !strings.Contains(h.log(), "Notify:[FAILURE DELAY]") {
				t.Errorf("the session saw\n%s", h.log())
			}
		})
	}
}

// Postfix' load generator, with many connections at once.
func TestSMTPSource(t *testing.T) {
	source := testenv.Need(t, "smtp-source", "apt-get install postfix")
	h := &host{}
	s := serve(t, h, Mode{})
	start := time.Now()
	run(t, true, "", source, "-s", "20", "-m", "400", "-l", "4096", "-f", "a@example.org", "-t", "b@example.com", "-M", "client.example.org", "-N", "inet:"+s.addr)
	run(t, true, "", source, "-d", "-s", "5", "-m", "100", "-r", "10", "-f", "a@example.org", "-t", "b@example.com", "-M", "client.example.org", "inet:"+s.addr)
	received(t, h, 500)
	t.Logf("500 messages in %v", time.Since(start))
}
