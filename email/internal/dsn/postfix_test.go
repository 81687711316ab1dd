package dsn

import (
	"fmt"
	"io"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/dcrouter/dcrouter/email/internal/smtpc"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A next hop takes mail for sender.example, and refuses it for others.
type nextHop struct {
	mu   sync.Mutex
	mail [][]byte
}

func (h *nextHop) NewSession(*smtp.Conn) (smtp.Session, error) { return &hopSession{h}, nil }

func (h *nextHop) taken() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.mail)
}

type hopSession struct{ hop *nextHop }

func (s *hopSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *hopSession) Reset()                               {}
func (s *hopSession) Logout() error                        { return nil }

func (s *hopSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	switch {
	case strings.HasPrefix(to, "nobody@"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "User unknown in virtual mailbox table"}
	case strings.HasPrefix(to, "full@"):
		return &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 2, 2}, Message: "Quota exceeded (mailbox for user is full)"}
	case strings.HasPrefix(to, "blocked@"):
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Service unavailable; Client host [127.0.0.1] blocked using zen.spamhaus.org"}
	case strings.HasPrefix(to, "grey@"):
		return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "Greylisted, come back in 300 seconds"}
	}
	return nil
}

func (s *hopSession) Data(r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	s.hop.mail = append(s.hop.mail, content)
	return nil
}

// startHop starts the next hop and returns its port.
func startHop(t *testing.T) (*nextHop, int) {
	t.Helper()
	hop := &nextHop{}
	server := smtp.NewServer(hop)
	server.Domain = "mx.example.net"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return hop, l.Addr().(*net.TCPAddr).Port
}

// startPostfix starts a Postfix that sends everything to the next hop.
func startPostfix(t *testing.T, hop int) (port int) {
	t.Helper()
	testenv.Need(t, "postfix", "apt-get install postfix")
	if os.Getuid() != 0 {
		testenv.Lacks(t, "Postfix only starts as root")
	}
	owner, err := osuser.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	gid, _ := strconv.Atoi(owner.Gid)
	dir := testenv.Folder(t)
	for _, sub := range []string{"queue", "data", "conf"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "data"), uid, gid); err != nil {
		t.Fatal(err)
	}
	port = testenv.FreePort(t)
	for name, content := range map[string]string{
		"main.cf": fmt.Sprintf(`
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = /dev/stdout
myhostname = postfix.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
disable_dns_lookups = yes
default_transport = smtp:[127.0.0.1]:%[2]d
delay_warning_time = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
`, dir, hop),
		"master.cf": fmt.Sprintf(`
127.0.0.1:%d inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - n n - - proxymap
smtp unix - - n - - smtp
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
`, port),
	} {
		if err := os.WriteFile(filepath.Join(dir, "conf", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	testenv.StartPostfix(t, dir, fmt.Sprintf("127.0.0.1:%d", port))
	return port
}

// A Postfix refuses, delays and passes on what it is sent, and what it says about
// that is understood.
func TestPostfix(t *testing.T) {
	hop, hopPort := startHop(t)
	port := startPostfix(t, hopPort)
	c, err := smtpc.Dial(t.Context(), smtpc.Config{Address: fmt.Sprintf("127.0.0.1:%d", port), Hostname: "client.example.com", TLS: smtpc.NoTLS})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	content := "From: alice@sender.example\r\nTo: x@example.net\r\nMessage-ID: <lunch@sender.example>\r\nSubject: Lunch\r\n\r\nHi\r\n"
	for envid, to := range map[string][]smtpc.Rcpt{
		"refused": {
			{Addr: "nobody@example.net", ORcpt: "rfc822;anybody@example.org"}, {Addr: "full@example.net"}, {Addr: "blocked@example.net"},
			{Addr: "nobody@quiet.example", Notify: []string{"NEVER"}},
		},
		"slow":   {{Addr: "grey@example.net", Notify: []string{"DELAY"}}},
		"passed": {{Addr: "bob@example.net", Notify: []string{"SUCCESS"}}},
	} {
		result, err := c.Send(t.Context(), smtpc.Envelope{From: "alice@sender.example", To: to, EnvID: envid, Ret: "HDRS"}, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range result.Recipients {
			if r.Status != smtpc.Delivered {
				t.Fatalf("%s: %+v", envid, r)
			}
		}
	}
	want := map[string][]string{
		"refused bounce": {"blocked@example.net failed 5.7.1 block reputation", "full@example.net failed 5.2.2 soft mailbox-full", "nobody@example.net failed 5.1.1 hard no-such-user"},
		"slow delay":     {"grey@example.net delayed 4.7.1 soft greylisted"},
		"passed success": {"bob@example.net relayed 2.0.0"},
	}
	testenv.WaitFor(t, 2*time.Minute, func() error {
		got := map[string]bool{}
		for _, content := range hop.taken() {
			n := parse(t, content)
			if n.Kind == None {
				continue // the message that was passed on
			}
			var list []string
			for _, r := range n.Recipients {
				list = append(list, describe(r))
				if r.Action == Failed && r.RemoteMTA == "" {
					t.Errorf("no remote host: %+v", r)
				}
				if r.Address == "nobody@example.net" && r.Original != "rfc822;anybody@example.org" {
					t.Errorf("%+v", r)
				}
			}
			slices.Sort(list)
			key := n.EnvID + " " + n.Kind.String()
			if !slices.Equal(list, want[key]) || n.MessageID != "lunch@sender.example" || n.ReportingMTA != "postfix.example.org" || n.Arrival.IsZero() || n.Format != "rfc3464" || n.Subject != "Lunch" {
				t.Errorf("%s: %q of %+v\n%s", key, list, n, content)
			}
			got[key] = true
		}
		if len(got) < len(want) {
			return fmt.Errorf("only %v", got)
		}
		return nil
	})
}
