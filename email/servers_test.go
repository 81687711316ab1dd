package email

import (
	"fmt"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// The tests of this file have Dovecot and Postfix behind the Server. Both want to
// start as root, to become users of their own.

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Lacks(t, "Postfix and Dovecot can be started by root only")
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startDovecot starts a Dovecot that takes mail for b@example.com and
// c@example.com by LMTP. The mailboxes are in mail of its folder.
func startDovecot(t *testing.T) (dir, lmtp, socket string) {
	t.Helper()
	needRoot(t)
	program := testenv.Need(t, "dovecot", "apt-get install dovecot-core dovecot-lmtpd")
	testenv.Need(t, "/usr/lib/dovecot/lm*p", "apt-get install dovecot-lmtpd")
	dir = testenv.Folder(t)
	nobody, err := osuser.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "mail"), 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(dir, "mail"), 0o777)
	write(t, filepath.Join(dir, "users"), "b@example.com:{PLAIN}x::::::\nc@example.com:{PLAIN}x::::::\n")
	port := testenv.FreePort(t)
	socket = filepath.Join(dir, "lmtp")
	write(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(`
base_dir = %[1]s/run
log_path = /dev/stderr
protocols = lmtp
ssl = no
first_valid_uid = 1
mail_location = maildir:%[1]s/mail/%%u
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = passwd-file
  args = %[1]s/users
  default_fields = uid=%[2]s gid=%[3]s home=%[1]s/mail/%%u
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[4]d
  }
  unix_listener %[5]s {
    mode = 0666
  }
}
`, dir, nobody.Uid, nobody.Gid, port, socket))
	lmtp = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: lmtp}, program, "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	return dir, lmtp, socket
}

func TestDeliverToDovecot(t *testing.T) {
	dir, lmtp, socket := startDovecot(t)
	never := 0
	for name, address := range map[string]string{"TCP": lmtp, "a Unix socket": socket} {
		t.Run(name, func(t *testing.T) {
			defer os.RemoveAll(filepath.Join(dir, "mail", "b@example.com"))
			s := start(t, Config{Queue: Queue{RetryDelay: time.Millisecond, MaxRetries: &never}, Routes: routes(t, fmt.Sprintf(
				`[{"name":"lmtp","match":{"recipients":"*@example.com"},"action":{"type":"deliver","deliver":{"lmtp":%q}}}]`, address))})
			c := s.dial().hello()
			content := hi + "\r\n..dots\r\nümlaut"
			if got := c.send("a@example.net", "b@example.com", content); !strings.HasPrefix(got, "250 2.0.0") {
				t.Fatal(got)
			}
			box := mailbox(t, filepath.Join(dir, "mail", "b@example.com"))
			if len(box) != 1 || !strings.HasSuffix(strings.ReplaceAll(box[0], "\r\n", "\n"), strings.ReplaceAll(strings.Replace(content, "..", ".", 1), "\r\n", "\n")+"\n") ||
				!strings.Contains(box[0], "Return-Path: <a@example.net>") || !strings.Contains(box[0], "Authentication-Results: mx.example.com;") {
				t.Errorf("%q", box)
			}
			// Its words are ours.
			if got := c.send("a@example.net", "nobody@example.com", hi); !strings.HasPrefix(got, "550 5.1.1 <nobody@example.com> User doesn't exist") {
				t.Error(got)
			}
			// Of two, one: the message is taken, and the other one failed.
			c.say("MAIL FROM:<a@example.net>", "250")
			c.say("RCPT TO:<nobody@example.com>", "250")
			c.say("RCPT TO:<b@example.com>", "250")
			if got := c.data(hi); !strings.HasPrefix(got, "250 2.0.0") {
				t.Error(got)
			}
			waitFor(t, func() bool { return len(s.seen(EventFailed)) >= 1 })
			if e := s.seen(EventFailed)[0]; e.Recipients[0] != "nobody@example.com" || !strings.Contains(e.Reason, "User doesn't exist") {
				t.Errorf("%+v", e)
			}
			if n := len(mailbox(t, filepath.Join(dir, "mail", "b@example.com"))); n != 2 {
				t.Errorf("%d messages", n)
			}
			c.say("QUIT", "221")
		})
	}
}

// startPostfix starts a Postfix that has mailboxes for b@example.com and
// c@example.com, in mail of its folder. more is put behind its configuration.
func startPostfix(t *testing.T, more string) (dir string, port int) {
	t.Helper()
	needRoot(t)
	testenv.Need(t, "postfix", "apt-get install postfix")
	dir = testenv.Folder(t)
	owner, err := osuser.Lookup("postfix")
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
	write(t, filepath.Join(dir, "conf", "main.cf"), fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = /dev/stdout
myhostname = next.example.com
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
virtual_mailbox_domains = example.com
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = inline:{ b@example.com=b/, c@example.com=c/ }
virtual_uid_maps = static:%[2]d
virtual_gid_maps = static:%[3]d
virtual_minimum_uid = 1
mynetworks =
local_header_rewrite_clients =
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions =
header_checks = regexp:%[1]s/conf/header_checks
%[4]s
`, dir, uid, gid, more))
	write(t, filepath.Join(dir, "conf", "header_checks"), "/^Subject: forbidden/ REJECT I do not like the subject\n")
	port = testenv.FreePort(t)
	write(t, filepath.Join(dir, "conf", "master.cf"), fmt.Sprintf(`
127.0.0.1:%d inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
smtp unix - - n - - smtp
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - n n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`, port))
	testenv.StartPostfix(t, dir, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return dir, port
}

// What Postfix says about recipients and content, the client is told, while it is
// still there.
func TestForwardToPostfix(t *testing.T) {
	dir, port := startPostfix(t, "")
	s := start(t, Config{Routes: routes(t, fmt.Sprintf(`[{"name":"next","match":{"recipients":"*@example.com"},"action":{"type":"forward","forward":{"host":"127.0.0.1","port":%d,"addHeaders":{"X-By":"us"}}}}]`, port))})
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<nobody@example.com>", "550 5.1.1 <nobody@example.com>: Recipient address rejected: User unknown in virtual mailbox table")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	if got := c.data(hi + "\r\n..dots\r\nümlaut"); !strings.HasPrefix(got, "250 2.0.0 Ok: queued as ") {
		t.Fatal(got)
	}
	for _, name := range []string{"b", "c"} {
		testenv.WaitFor(t, time.Minute, func() error {
			box := mailbox(t, filepath.Join(dir, "mail", name))
			if len(box) == 1 && strings.Contains(box[0], "\nX-By: us\nReceived: from client.example.net") && strings.HasSuffix(box[0], strings.ReplaceAll(hi, "\r\n", "\n")+"\n.dots\nümlaut\n") {
				return nil
			}
			return fmt.Errorf("%s has %q", name, box)
		})
	}
	if got := c.send("a@example.net", "b@example.com", strings.Replace(hi, "hi", "forbidden", 1)); !strings.HasPrefix(got, "550 5.7.1 I do not like the subject") {
		t.Error(got)
	}
	if n := s.Stats().Spool.Messages; n != 0 {
		t.Errorf("%d messages are in the spool", n)
	}
	c.say("QUIT", "221")
}
