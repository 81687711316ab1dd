package smtpc

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// The tests of this file are against Postfix and Dovecot. Both want to start as
// root, to become users of their own.

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Lacks(t, "mail servers can be started by root only")
	}
}

// awkward is content with all that a client could get wrong.
func awkward() []byte {
	var b bytes.Buffer
	b.WriteString("Subject: awkward\r\n\r\n.\r\n..\r\n.a\r\n\r\n gr\xfc\xdfe\r\nFrom here\r\n")
	for i := range 20000 {
		fmt.Fprintf(&b, ".%d %s\r\n", i, strings.Repeat("x", i%70))
	}
	return b.Bytes()
}

// postfix is a running Postfix that puts all mail for y.test into Maildirs.
type postfix struct {
	dir          string
	smtp, smtps  string // addresses, of the latter with implicit TLS
	plain, login string // where only this mechanism is offered
}

// dovecot is a running Dovecot: LMTP into Maildirs, and passwords for Postfix.
type dovecot struct {
	dir, lmtp, lmtpSocket string
}

func startDovecot(t *testing.T, cert, key string) *dovecot {
	t.Helper()
	needRoot(t)
	program := testenv.Need(t, "dovecot", "apt-get install dovecot-core dovecot-lmtpd")
	testenv.Need(t, "/usr/lib/dovecot/lm*p", "apt-get install dovecot-lmtpd")
	dir := testenv.Folder(t)
	mail := filepath.Join(dir, "mail")
	if err := os.Mkdir(mail, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(mail, 0o777)
	write(t, filepath.Join(dir, "users"), "user:{PLAIN}"+secret+"::::::\nb@y.test:{PLAIN}x::::::\nc@y.test:{PLAIN}x::::::\nfull@y.test:{PLAIN}x::::::userdb_quota_rule=*:bytes=1\n")
	port := testenv.FreePort(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(`
base_dir = %[1]s/run
log_path = /dev/stderr
protocols = lmtp
ssl = yes
ssl_cert = <%[2]s
ssl_key = <%[3]s
auth_mechanisms = plain login scram-sha-256
auth_failure_delay = 0
auth_username_chars = abcdefghijklmnopqrstuvwxyz0123456789.-_@
first_valid_uid = 1
mail_location = maildir:%[1]s/mail/%%u
mail_plugins = quota
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = passwd-file
  args = %[1]s/users
  default_fields = uid=%[4]s gid=%[5]s home=%[1]s/mail/%%u
}
plugin {
  quota = maildir:User quota
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[6]d
  }
  unix_listener %[1]s/lmtp {
    mode = 0666
  }
}
service auth {
  unix_listener %[1]s/auth {
    mode = 0666
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`, dir, cert, key, nobody.Uid, nobody.Gid, port))
	d := &dovecot{dir: dir, lmtp: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), lmtpSocket: filepath.Join(dir, "lmtp")}
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: d.lmtp}, program, "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	return d
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// delivered waits for one message in a Maildir and returns it with CRLF,
// without the fields that the server has put in front.
func delivered(t *testing.T, maildir string) string {
	t.Helper()
	var content []byte
	testenv.WaitFor(t, time.Minute, func() error {
		files, err := filepath.Glob(filepath.Join(maildir, "new", "*"))
		if err != nil || len(files) != 1 {
			return fmt.Errorf("%d messages in %s", len(files), maildir)
		}
		content, err = os.ReadFile(files[0])
		return err
	})
	text := strings.ReplaceAll(string(content), "\r\n", "\n")
	_, text, ok := strings.Cut(text, "Subject:")
	if !ok {
		t.Fatalf("%.200q", content)
	}
	return strings.ReplaceAll("Subject:"+text, "\n", "\r\n")
}

func TestDovecotLMTP(t *testing.T) {
	cert, key, pool := testenv.SelfSigned(t, "localhost")
	d := startDovecot(t, cert, key)
	for name, change := range map[string]func(cfg *Config){
		"tcp":      func(cfg *Config) {},
		"unix":     func(cfg *Config) { cfg.Address, cfg.TLS = d.lmtpSocket, NoTLS },
		"starttls": func(cfg *Config) { cfg.TLS, cfg.TLSConfig = StartTLS, &tls.Config{RootCAs: pool} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Address: d.lmtp, Hostname: "client.test", LMTP: true, ServerName: "localhost", TLS: NoTLS}
			change(&cfg)
			c := dial(t, cfg)
			if (c.TLS() != nil && c.TLS().Verified) != (cfg.TLS == StartTLS) {
				t.Errorf("TLS: %+v", c.TLS())
			}
			content := awkward()
			env := Envelope{From: "a@x.test", Size: int64(len(content)), EightBit: true, To: to("b@y.test", "nobody@y.test", "full@y.test", "c@y.test")}
			result, err := c.Send(t.Context(), env, bytes.NewReader(content))
			if err != nil {
				t.Fatal(err)
			}
			want := []Status{Delivered, Permanent, Permanent, Delivered} // a full mailbox is 552 by default
			for i, r := range result.Recipients {
				if r.Status != want[i] || r.Reply.Enhanced == "" {
					t.Errorf("%s: %s", r.Addr, outcome(result))
				}
			}
			for _, addr := range []string{"b@y.test", "c@y.test"} {
				folder := filepath.Join(d.dir, "mail", addr)
				if delivered(t, folder) != string(content) {
					t.Errorf("%s has other content", addr)
				}
				os.RemoveAll(folder)
			}
			// The connection can be used again.
			result, err = c.Send(t.Context(), Envelope{To: to("b@y.test")}, strings.NewReader(letter))
			if err != nil || result.Recipients[0].Status != Delivered {
				t.Error(outcome(result), err)
			}
			if got := delivered(t, filepath.Join(d.dir, "mail", "b@y.test")); got != letter {
				t.Errorf("%q", got)
			}
			os.RemoveAll(filepath.Join(d.dir, "mail", "b@y.test"))
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func startPostfix(t *testing.T, d *dovecot, cert, key string) *postfix {
	t.Helper()
	needRoot(t)
	testenv.Need(t, "postfix", "apt-get install postfix")
	dir := testenv.Folder(t)
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	for _, sub := range []string{"queue", "data", "mail", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chown(filepath.Join(dir, "data"), uid, gid)
	os.Chown(filepath.Join(dir, "mail"), uid, gid)
	p := &postfix{dir: dir}
	for _, addr := range []*string{&p.smtp, &p.smtps, &p.plain, &p.login} {
		*addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	}
	write(t, filepath.Join(dir, "conf", "main.cf"), fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = /dev/stdout
myhostname = peer.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
virtual_mailbox_domains = y.test
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = inline:{ b@y.test=b/, c@y.test=c/ }
virtual_uid_maps = static:%[2]d
virtual_gid_maps = static:%[3]d
virtual_minimum_uid = 1
message_size_limit = 5000000
mynetworks =
local_header_rewrite_clients =
smtpd_error_sleep_time = 0
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions =
smtpd_tls_cert_file = %[4]s
smtpd_tls_key_file = %[5]s
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = %[6]s/auth
smtpd_sasl_auth_enable = yes
default_transport = discard
`, dir, uid, gid, cert, key, d.dir))
	_, smtp, _ := strings.Cut(p.smtp, ":")
	_, smtps, _ := strings.Cut(p.smtps, ":")
	_, plain, _ := strings.Cut(p.plain, ":")
	_, login, _ := strings.Cut(p.login, ":")
	write(t, filepath.Join(dir, "conf", "master.cf"), fmt.Sprintf(`
127.0.0.1:%s inet n - n - - smtpd
127.0.0.1:%s inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
127.0.0.1:%s inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=plain
127.0.0.1:%s inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=login
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`, smtp, smtps, plain, login))
	testenv.StartPostfix(t, dir, p.smtp)
	return p
}

func TestPostfix(t *testing.T) {
	cert, key, pool := testenv.SelfSigned(t, "peer.test")
	p := startPostfix(t, startDovecot(t, cert, key), cert, key)
	base := Config{Address: p.smtp, Hostname: "client.test", ServerName: "peer.test", TLSConfig: &tls.Config{RootCAs: pool}}

	for name, change := range map[string]func(cfg *Config){
		"plaintext":     func(cfg *Config) { cfg.TLS = NoTLS },
		"opportunistic": func(cfg *Config) {},
		"starttls":      func(cfg *Config) { cfg.TLS = StartTLS },
		"implicit":      func(cfg *Config) { cfg.Address, cfg.TLS = p.smtps, ImplicitTLS },
		"chunks":        func(cfg *Config) { cfg.Chunking = true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			change(&cfg)
			c := dial(t, cfg)
			if (c.TLS() != nil && c.TLS().Verified) != (cfg.TLS != NoTLS) {
				t.Errorf("TLS: %+v", c.TLS())
			}
			content := awkward()
			env := Envelope{From: `"a b"@x.test`, Size: int64(len(content)), EightBit: true, Ret: "FULL", EnvID: "e=1",
				To: []Rcpt{{Addr: "b@y.test", Notify: []string{"NEVER"}, ORcpt: "rfc822;b+x@y.test"}, {Addr: "nobody@y.test"}, {Addr: "d@elsewhere.test"}, {Addr: "c@y.test"}}}
			result, err := c.Send(t.Context(), env, bytes.NewReader(content))
			want := "b@y.test delivered end 250, nobody@y.test permanent rcpt 550, d@elsewhere.test permanent rcpt 554, c@y.test delivered end 250"
			if got := outcome(result); got != want || err != nil {
				t.Fatalf("%s, %v\nwant %s", got, err, want)
			}
			for _, box := range []string{"b", "c"} {
				folder := filepath.Join(p.dir, "mail", box)
				if got := delivered(t, folder); got != string(content) {
					t.Errorf("%s has other content: %d bytes of %d", box, len(got), len(content))
				}
				os.RemoveAll(folder)
			}
			// Too big, as the server says itself, before a byte is sent.
			_, err = c.Send(t.Context(), Envelope{Size: 5000001, To: to("b@y.test")}, strings.NewReader(letter))
			wantError(t, err, PhaseMail, Permanent, 552)
			// UTF-8 addresses, and the same connection once more.
			result, err = c.Send(t.Context(), Envelope{From: "é@x.test", UTF8: true, EightBit: true, To: to("b@y.test")}, strings.NewReader(letter))
			if err != nil || result.Recipients[0].Status != Delivered {
				t.Error(outcome(result), err)
			}
			if got := delivered(t, filepath.Join(p.dir, "mail", "b")); got != letter {
				t.Errorf("%q", got)
			}
			os.RemoveAll(filepath.Join(p.dir, "mail", "b"))
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}

	for mechanism, address := range map[string]string{"SCRAM-SHA-256": p.smtp, "PLAIN": p.plain, "LOGIN": p.login} {
		t.Run(mechanism, func(t *testing.T) {
			cfg := base
			cfg.Address, cfg.TLS, cfg.Auth = address, StartTLS, &Credentials{"user", secret}
			c := dial(t, cfg)
			if offered, _ := c.Extension("AUTH"); !strings.Contains(offered, mechanism) || mechanism != "SCRAM-SHA-256" && offered != mechanism {
				t.Fatalf("Postfix offers %q", offered)
			}
			// Only who has signed in may send elsewhere.
			result, err := c.Send(t.Context(), Envelope{From: "a@x.test", To: to("d@elsewhere.test")}, strings.NewReader(letter))
			if err != nil || result.Recipients[0].Status != Delivered {
				t.Error(outcome(result), err)
			}
			c.Close()
			cfg.Auth = &Credentials{"user", "wrong"}
			_, err = Dial(t.Context(), cfg)
			wantError(t, err, PhaseAuth, Temporary, 535)
		})
	}
}

// smtp-sink misbehaves on request.
func TestSMTPSink(t *testing.T) {
	sink := testenv.Need(t, "smtp-sink", "apt-get install postfix")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"well":                 {nil, "b@y.test delivered end 250"},
		"no ESMTP":             {[]string{"-e"}, "b@y.test delivered end 250"},
		"no pipelining":        {[]string{"-p"}, "b@y.test delivered end 250"},
		"soft error at RCPT":   {[]string{"-r", "RCPT"}, "b@y.test temporary rcpt 450"},
		"hard error at RCPT":   {[]string{"-f", "RCPT"}, "b@y.test permanent rcpt 500"},
		"hard error at MAIL":   {[]string{"-f", "MAIL"}, "b@y.test permanent mail 500"},
		"soft error at DATA":   {[]string{"-r", "DATA"}, "b@y.test temporary data 450"},
		"soft error at end":    {[]string{"-r", "."}, "b@y.test temporary end 450"},
		"disconnect at RCPT":   {[]string{"-q", "RCPT"}, "b@y.test temporary rcpt 0"},
		"disconnect after end": {[]string{"-q", "."}, "b@y.test unknown end 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
			args := test.args
			if os.Geteuid() == 0 {
				args = append([]string{"-u", "nobody"}, args...)
			}
			testenv.Start(t, testenv.Opts{Ready: addr}, sink, append(args, addr, "10")...)
			c := dial(t, config(addr))
			result, err := c.Send(t.Context(), Envelope{From: "a@x.test", To: to("b@y.test")}, bytes.NewReader(awkwardASCII()))
			if got := outcome(result); got != test.want {
				t.Errorf("%s, %v; want %s", got, err, test.want)
			}
		})
	}
}

func awkwardASCII() []byte { return bytes.ReplaceAll(awkward(), []byte("\xfc\xdf"), []byte("ue")) }
