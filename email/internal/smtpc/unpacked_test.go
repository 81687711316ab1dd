package smtpc

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func install(t *testing.T, from, to string, mode os.FileMode, owner int) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, mode)
	}
	if err == nil {
		err = os.Chown(to, owner, owner)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// head is what OpenSMTPD adds where it is missing.
const head = "Date: Mon, 30 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@x.test>\r\n"

// exchange sends mail to a server that takes it for y.test, twice on a connection.
// content waits for what was taken last.
func exchange(t *testing.T, c *Conn, content func() string) {
	t.Helper()
	_, eightBit := c.Extension("8BITMIME")
	for range 2 {
		message := append([]byte(head), awkward()...)
		env := Envelope{From: "a@x.test", Size: int64(len(message)), EightBit: eightBit, Ret: "HDRS", EnvID: "e=1",
			To: []Rcpt{{Addr: "b@y.test", Notify: []string{"FAILURE"}, ORcpt: "rfc822;b+x@y.test"}, {Addr: "d@elsewhere.test"}}}
		result, err := c.Send(t.Context(), env, bytes.NewReader(message))
		if err != nil || result.Recipients[0].Status != Delivered || result.Recipients[1].Status != Permanent || result.Recipients[1].Phase != PhaseRcpt {
			t.Fatalf("%s, %v", outcome(result), err)
		}
		if got, want := content(), string(message[len(head):]); got != want {
			t.Errorf("other content: %d bytes of %d: %.300q", len(got), len(want), got)
		}
	}
	if err := c.Quit(t.Context()); err != nil {
		t.Error(err)
	}
}

// newest waits for the next file that matches, and returns its content from the
// Subject on.
func newest(t *testing.T, pattern string) func() string {
	seen := map[string]bool{}
	return func() (text string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			files, err := filepath.Glob(pattern)
			for _, f := range files {
				if seen[f] {
					continue
				}
				seen[f] = true
				b, err := os.ReadFile(f)
				_, rest, _ := strings.Cut(string(b), "Subject:")
				text = "Subject:" + strings.ReplaceAll(strings.ReplaceAll(rest, "\r\n", "\n"), "\n", "\r\n")
				return err
			}
			return fmt.Errorf("nothing new at %s, %v", pattern, err)
		})
		return text
	}
}

func TestExim(t *testing.T) {
	dir := testenv.Machine(t, "exim4-daemon-light", "/usr/sbin/exim4")
	cert, key, pool := testenv.SelfSigned(t, "peer.test")
	install(t, cert, dir+"/cert.pem", 0o644, 0)
	install(t, key, dir+"/key.pem", 0o600, 8)
	write(t, dir+"/etc/exim4/exim4.conf", `
primary_hostname = peer.test
keep_environment =
log_file_path = /var/log/exim4/%slog
tls_advertise_hosts = *
tls_certificate = /cert.pem
tls_privatekey = /key.pem
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 0
dsn_advertise_hosts = *
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  accept domains = y.test
  accept authenticated = *
  deny message = relay not permitted
begin routers
box:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  directory = /mail
  maildir_format
  user = Debian-exim
  group = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{user}}{eq{$auth3}{`+secret+`}}}}
  server_advertise_condition = ${if def:tls_in_cipher}
`)
	port := testenv.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: addr, Timeout: time.Minute}, "chroot", dir, "/usr/sbin/exim4", "-bdf", "-oX", "127.0.0.1."+strconv.Itoa(port))
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/var/log/exim4/mainlog")
			t.Logf("%s", log)
		}
	})
	base := Config{Address: addr, Hostname: "client.test", ServerName: "peer.test", TLSConfig: &tls.Config{RootCAs: pool}}
	content := newest(t, dir+"/mail/new/*")
	for name, change := range map[string]func(cfg *Config){
		"plaintext":     func(cfg *Config) { cfg.TLS = NoTLS },
		"opportunistic": func(cfg *Config) {},
		"starttls":      func(cfg *Config) { cfg.TLS = StartTLS },
		"chunks":        func(cfg *Config) { cfg.TLS, cfg.Chunking = StartTLS, true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			change(&cfg)
			c := dial(t, cfg)
			if (c.TLS() != nil && c.TLS().Verified) != (cfg.TLS != NoTLS) {
				t.Errorf("TLS: %+v", c.TLS())
			}
			if cfg.Chunking && !c.chunking() {
				t.Error("it offers no CHUNKING")
			}
			exchange(t, c, content)
		})
	}
	cfg := base
	cfg.TLS, cfg.Auth = StartTLS, &Credentials{"user", secret}
	result, err := dial(t, cfg).Send(t.Context(), Envelope{From: "a@x.test", To: to("d@elsewhere.test")}, strings.NewReader(head+letter))
	if err != nil || result.Recipients[0].Status != Delivered {
		t.Error(outcome(result), err)
	}
	if got := content(); got != letter {
		t.Errorf("%q", got)
	}
	cfg.Auth = &Credentials{"user", "wrong"}
	_, err = Dial(t.Context(), cfg)
	wantError(t, err, PhaseAuth, Temporary, 535)
}

// Debian 12 has OpenSMTPD 6.8 with an OpenSSL that it cannot sign with, so that each
// of its handshakes fails. Opportunistic TLS has to get over that.
func TestOpenSMTPD(t *testing.T) {
	dir := testenv.Machine(t, "opensmtpd", "/usr/sbin/smtpd")
	cert, key, pool := testenv.SelfSigned(t, "peer.test")
	install(t, cert, dir+"/cert.pem", 0o644, 0)
	install(t, key, dir+"/key.pem", 0o600, 0)
	port := strconv.Itoa(testenv.FreePort(t))
	// What it takes stays in its queue, as nobody listens on port 1.
	write(t, dir+"/etc/smtpd.conf", `
pki peer.test cert "/cert.pem"
pki peer.test key "/key.pem"
listen on 127.0.0.1 port `+port+` tls pki peer.test hostname peer.test
action hold relay host smtp://127.0.0.1:1
match from any for domain "y.test" action hold
`)
	addr := net.JoinHostPort("127.0.0.1", port)
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: addr, Timeout: time.Minute}, "chroot", dir, "/usr/sbin/smtpd", "-d")
	content := newest(t, dir+"/var/spool/smtpd/queue/*/*/message")
	for _, mode := range []TLSMode{NoTLS, Opportunistic} {
		c := dial(t, Config{Address: addr, Hostname: "client.test", ServerName: "peer.test", TLSConfig: &tls.Config{RootCAs: pool}, TLS: mode})
		if failed := c.TLSFailure() != nil; mode == Opportunistic && failed == (c.TLS() != nil) || mode == NoTLS && failed {
			t.Errorf("TLS: %+v, %v", c.TLS(), c.TLSFailure())
		}
		exchange(t, c, content)
	}
}
