package email

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// toPorts has port 25 of addresses lead to ports of this machine.
func toPorts(ports map[string]int) Option {
	return WithDialer(func(ctx context.Context, _ netip.Addr, network, address string) (net.Conn, error) {
		port := ports[strings.TrimSuffix(address, ":25")]
		if port == 0 {
			return nil, fmt.Errorf("the test has nothing at %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	})
}

// sender is the configuration of a server for a.example that sends on what
// clients on this machine bring.
func sender() Config {
	return Config{
		Hostname: "mx.a.example", Domains: []Domain{{Domain: "a.example"}},
		Routes: []Route{{Name: "out", Match: Match{ClientIP: []string{"127.0.0.0/8"}}, Action: Action{Type: Process}}},
	}
}

// awkward is a message with much that a server could get wrong, and nothing that
// another one may change.
func awkward() string {
	var b strings.Builder
	b.WriteString("From: user@a.example\r\nTo: b@example.com\r\nSubject:  awkward \t \r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n" +
		"X-Folded: one\r\n two\r\n\tthree\r\nX-Empty:\r\nX-8-bit: gr\xfc\xdfe\r\nx-CASE:odd\r\n\r\n.\r\n..\r\n.a\r\n\r\n gr\xfc\xdfe \t \r\nFrom here\r\n>From there\r\n")
	for i := range 1500 {
		fmt.Fprintf(&b, ".%d %s\r\n", i, strings.Repeat("x", i%990))
	}
	b.WriteString("\r\n\r\n \r\nthe end")
	return b.String()
}

// stuffed is a message as DATA wants it.
func stuffed(content string) string {
	return strings.TrimPrefix(strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n.."), "\r\n")
}

// bring has a client send a message with 8-bit content, and returns its id.
func bring(t *testing.T, s *server, from, content string, to ...string) (id string) {
	t.Helper()
	c := s.dial().hello()
	c.say("MAIL FROM:<"+from+"> BODY=8BITMIME", "250")
	for _, rcpt := range to {
		c.say("RCPT TO:<"+rcpt+">", "250")
	}
	reply := c.data(stuffed(content))
	if _, err := fmt.Sscanf(reply, "250 2.0.0 Accepted as %s", &id); err != nil {
		t.Fatalf("%q: %v", reply, err)
	}
	c.say("QUIT", "221")
	return id
}

// waitForStatus waits until a message has it.
func waitForStatus(t *testing.T, s *server, id, want string) (st EmailStatus) {
	t.Helper()
	testenv.WaitFor(t, time.Minute, func() (err error) {
		if st, err = s.EmailStatus(t.Context(), id); err == nil && st.Status != want {
			err = fmt.Errorf("%v, want %s\n%s", st, want, timeline(st))
		}
		return err
	})
	return st
}

// wantSame checks that a message is what was sent, behind fields that were put in
// front, which it returns. What stores it may have other line ends.
func wantSame(t *testing.T, got, sent string) (front string) {
	t.Helper()
	lf := func(s string) string { return strings.TrimSuffix(strings.ReplaceAll(s, "\r\n", "\n"), "\n") }
	front, ok := strings.CutSuffix(lf(got), lf(sent))
	if !ok {
		a, b := strings.Split(lf(got), "\n"), strings.Split(lf(sent), "\n")
		for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
			a, b = a[:len(a)-1], b[:len(b)-1]
		}
		t.Fatalf("the message has changed: %q instead of %q\n%.600q", a[max(0, len(a)-1):], b[max(0, len(b)-1):], got)
	}
	for line := range strings.Lines(front) {
		name, _, ok := strings.Cut(line, ":")
		if strings.TrimLeft(line, " \t") == line && (!ok || strings.ContainsAny(name, " \t")) {
			t.Errorf("in front of the message: %q", line)
		}
	}
	return front
}

// TestToPostfix sends to the MX host of a domain, a Postfix.
func TestToPostfix(t *testing.T) {
	cert, key, _ := testenv.SelfSigned(t, "mx.example.com")
	dir, port := startPostfix(t, fmt.Sprintf("smtpd_tls_cert_file = %s\nsmtpd_tls_key_file = %s\nsmtpd_tls_security_level = may\nsmtpd_tls_received_header = yes\n", cert, key))
	cfg := sender()
	cfg.Outbound.CAPath = cert
	cfg.Outbound.TLS = []DestinationTLS{{Domain: "example.com", Mode: StartTLS}}
	s := start(t, cfg, toPorts(map[string]int{"192.0.2.2": port}),
		WithResolver(resolver(t, "example.com. 60 IN MX 10 mx.example.com.\nmx.example.com. 60 IN A 192.0.2.2")))
	sent := awkward()
	id := bring(t, s, "user@a.example", sent, "b@example.com", "c@example.com", "nobody@example.com")
	st := waitForStatus(t, s, id, StatusBounced)
	for i, want := range []string{"delivered 250 2.0.0 Ok: queued as ", "delivered 250 2.0.0 Ok: queued as ", "bounced 550 5.1.1 <nobody@example.com>: Recipient address rejected"} {
		rcpt := st.Recipients[i]
		if got := rcpt.Status + " " + rcpt.Reply; !strings.HasPrefix(got, want) || rcpt.Host != "mx.example.com" || rcpt.At.IsZero() {
			t.Errorf("%s at %s; want %q", got, rcpt.Host, want)
		}
	}
	if first := st.Timeline[0]; first.Kind != "tried" || first.Host != "mx.example.com" || first.Addr != "192.0.2.2:25" && !strings.HasPrefix(first.Addr, "127.0.0.1:") ||
		first.TLS != "TLS 1.3, verified by config" || first.Source != "127.0.0.1" {
		t.Errorf("%+v", first)
	}
	for _, name := range []string{"b", "c"} {
		var box []string
		waitFor(t, func() bool { box = mailbox(t, filepath.Join(dir, "mail", name)); return len(box) == 1 })
		front := wantSame(t, box[0], sent)
		for _, want := range []string{"Return-Path: <user@a.example>", "from mx.a.example", "using TLSv1.3", "by next.example.com", "by mx.a.example with ESMTP id " + id} {
			if !strings.Contains(front, want) {
				t.Errorf("%q is missing in %q", want, front)
			}
		}
	}

	// Its certificate does not hold for another name, and the mail waits.
	cfg.Outbound.TLS[0].Domain = "other.example"
	s = start(t, cfg, toPorts(map[string]int{"192.0.2.2": port}),
		WithResolver(resolver(t, "other.example. 60 IN MX 10 mx.other.example.\nmx.other.example. 60 IN A 192.0.2.2")))
	id = bring(t, s, "user@a.example", sent, "b@other.example")
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) > 0 })
	if st := waitForStatus(t, s, id, StatusPending); !strings.Contains(timeline(st), "certificate is valid for mx.example.com, not mx.other.example") {
		t.Errorf("%s", timeline(st))
	}
}

// TestFromPostfixToSink has a Postfix send through us to smtp-sink.
func TestFromPostfixToSink(t *testing.T) {
	sink := testenv.Need(t, "smtp-sink", "apt-get install postfix")
	dumps := testenv.Folder(t)
	os.Chmod(dumps, 0o777)
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	args := []string{"-d", filepath.Join(dumps, "mail."), addr, "10"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	testenv.Start(t, testenv.Opts{Ready: addr}, sink, args...)
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	s := start(t, sender(), toPorts(map[string]int{"192.0.2.2": n}),
		WithResolver(resolver(t, "example.net. 60 IN MX 10 mx.example.net.\nmx.example.net. 60 IN A 192.0.2.2")))
	_, postfix := startPostfix(t, fmt.Sprintf("mynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\nrelayhost = [127.0.0.1]:%d\n", portOf(s.Addrs()[0])))
	c := dialSMTP(t, fmt.Sprintf("127.0.0.1:%d", postfix)).hello()
	c.say("MAIL FROM:<user@a.example> BODY=8BITMIME", "250")
	c.say("RCPT TO:<b@example.net>", "250")
	sent := awkward()
	if got := c.data(stuffed(sent)); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	var content []byte
	testenv.WaitFor(t, time.Minute, func() error {
		files, _ := filepath.Glob(filepath.Join(dumps, "mail.*"))
		if len(files) != 1 || s.Stats().Spool.Messages > 0 {
			return fmt.Errorf("%d dumps, %+v", len(files), s.Stats().Spool)
		}
		b, err := os.ReadFile(files[0])
		content = b
		return err
	})
	// smtp-sink writes fields of its own in front, and an empty line behind.
	front := wantSame(t, strings.TrimSuffix(string(content), "\n"), sent)
	for _, want := range []string{"X-Rcpt-Args: <b@example.net>", "X-Helo-Args: mx.a.example", "from next.example.com", "by mx.a.example with ESMTP", "by next.example.com (Postfix)"} {
		if !strings.Contains(front, want) {
			t.Errorf("%q is missing in %q", want, front)
		}
	}
}

// TestEximWithAuth hands mail to an Exim that wants STARTTLS and a password.
func TestEximWithAuth(t *testing.T) {
	dir := testenv.Machine(t, "exim4-daemon-light", "/usr/sbin/exim4")
	cert, key, _ := testenv.SelfSigned(t, "peer.test")
	for name, from := range map[string]string{"cert.pem": cert, "key.pem": key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chown(filepath.Join(dir, name), 8, 8)
	}
	write(t, dir+"/etc/exim4/exim4.conf", `
primary_hostname = peer.test
keep_environment =
log_file_path = /var/log/exim4/%slog
tls_advertise_hosts = *
tls_certificate = /cert.pem
tls_privatekey = /key.pem
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  accept encrypted = *
         authenticated = *
  deny message = sign in first
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
  server_set_id = $auth2
  server_condition = ${if and{{eq{$auth2}{relay}}{eq{$auth3}{open sesame}}}}
  server_advertise_condition = ${if def:tls_in_cipher}
`)
	port := testenv.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: addr, Timeout: time.Minute}, "chroot", dir, "/usr/sbin/exim4", "-bdf", "-oX", "127.0.0.1."+strconv.Itoa(port))

	cfg := sender()
	cfg.SmartHost = &SmartHost{Host: "127.0.0.1", Port: port, Auth: &Credentials{Username: "relay", Password: "open sesame"}, TLS: ClientTLS{ServerName: "peer.test", CAPath: cert}}
	s := start(t, cfg)
	sent := awkward()
	st := waitForStatus(t, s, bring(t, s, "user@a.example", sent, "b@example.net"), StatusSent)
	if step := st.Timeline[0]; step.TLS != "TLS 1.3, verified" || step.Host != addr || !strings.HasPrefix(st.Recipients[0].Reply, "250 OK id=") {
		t.Errorf("%+v", st)
	}
	var box []string
	waitFor(t, func() bool { box = mailbox(t, dir+"/mail"); return len(box) == 1 })
	if front := wantSame(t, box[0], sent); !strings.Contains(front, "by peer.test with esmtpsa ") || !strings.Contains(front, "by mx.a.example with ESMTP") {
		t.Errorf("%q", front)
	}

	// With the wrong password the mail waits: the operator has to see to that.
	cfg.SmartHost.Auth.Password = "wrong"
	s = start(t, cfg)
	id := bring(t, s, "user@a.example", sent, "b@example.net")
	waitFor(t, func() bool { return len(s.seen(EventDeferred)) > 0 })
	st = waitForStatus(t, s, id, StatusPending)
	if line := timeline(st); !strings.Contains(line, "535") || strings.Contains(line, "wrong") {
		t.Errorf("%s", line)
	}
}

// TestToOpenSMTPD hands mail to an OpenSMTPD. Debian's cannot do TLS handshakes (it
// came with an OpenSSL that it cannot sign with), which opportunistic TLS gets over.
func TestToOpenSMTPD(t *testing.T) {
	dir := testenv.Machine(t, "opensmtpd", "/usr/sbin/smtpd")
	cert, key, _ := testenv.SelfSigned(t, "peer.test")
	for name, from := range map[string]string{"cert.pem": cert, "key.pem": key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := testenv.FreePort(t)
	// What it takes stays in its queue, as nobody listens on port 1.
	write(t, dir+"/etc/smtpd.conf", fmt.Sprintf(`
pki peer.test cert "/cert.pem"
pki peer.test key "/key.pem"
listen on 127.0.0.1 port %d tls pki peer.test hostname peer.test
action hold relay host smtp://127.0.0.1:1
match from any for domain "example.net" action hold
`, port))
	testenv.Start(t, testenv.Opts{Dir: dir, Ready: fmt.Sprintf("127.0.0.1:%d", port), Timeout: time.Minute}, "chroot", dir, "/usr/sbin/smtpd", "-d")
	s := start(t, sender(), toPorts(map[string]int{"192.0.2.2": port}),
		WithResolver(resolver(t, "example.net. 60 IN MX 10 peer.test.\npeer.test. 60 IN A 192.0.2.2")))
	sent := awkward()
	st := waitForStatus(t, s, bring(t, s, "user@a.example", sent, "b@example.net"), StatusDelivered)
	if step := st.Timeline[0]; step.TLS == "" && !strings.Contains(step.Text, "went on without TLS: ") || step.Host != "peer.test" || !strings.HasPrefix(st.Recipients[0].Reply, "250 2.0.0 ") {
		t.Errorf("%+v", st)
	}
	var files []string
	waitFor(t, func() bool {
		files, _ = filepath.Glob(dir + "/var/spool/smtpd/queue/*/*/message")
		return len(files) == 1
	})
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, string(b), sent)
}

// verifiers have dkimpy and OpenDKIM check the signatures of messages, with these
// TXT records. Debian's OpenDKIM knows RSA only.
func verifiers(t *testing.T, messages []string, records map[string]string) (dkimpy [][]string, opendkim []string) {
	t.Helper()
	python := testenv.Need(t, "/usr/bin/python3", "apt-get install python3-dkim python3-nacl libopendkim11")
	var all, rsaOnly [][]byte
	for _, m := range messages {
		all = append(all, []byte(m))
		rsaOnly = append(rsaOnly, []byte(withoutEd25519(m)))
	}
	in, err := json.Marshal([]map[string]any{{"do": "verify", "messages": all, "records": records}, {"do": "opendkim", "messages": rsaOnly, "records": records}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, python, "internal/auth/dkim/testdata/peer.py")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if text := stderr.String(); strings.Contains(text, "ModuleNotFoundError") || strings.Contains(text, "cannot open shared object") {
			testenv.Lacks(t, "dkimpy or OpenDKIM is missing; get it with: apt-get install python3-dkim python3-nacl libopendkim11")
		}
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var answers [2]json.RawMessage
	for _, err := range []error{json.Unmarshal(out, &answers), json.Unmarshal(answers[0], &dkimpy), json.Unmarshal(answers[1], &opendkim)} {
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dkimpy, opendkim
}

// withoutEd25519 leaves out the signatures that OpenDKIM does not know.
func withoutEd25519(m string) string {
	header, body, _ := strings.Cut(m, "\r\n\r\n")
	var fields []string
	for line := range strings.SplitSeq(header, "\r\n") {
		if line[0] == ' ' || line[0] == '\t' {
			fields[len(fields)-1] += "\r\n" + line
		} else {
			fields = append(fields, line)
		}
	}
	fields = slices.DeleteFunc(fields, func(f string) bool {
		return strings.HasPrefix(f, "DKIM-Signature:") && strings.Contains(f, "ed25519-sha256")
	})
	return strings.Join(fields, "\r\n") + "\r\n\r\n" + body
}

// Mail leaves with two signatures that others can verify. What has waited, for
// days, while keys were rotated and the old ones withdrawn, has those of the keys
// that are in use when it goes.
func TestSignaturesOutliveRotation(t *testing.T) {
	var messages, wanted []string
	records := make(map[string]string) // those that are published when the last message goes
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := &published{hosts: hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2", "down.example": "192.0.2.3"}}
		cfg := relay("a.example")
		cfg.Domains[0].DKIM.KeySize = 1024 // quicker
		cfg.Queue.MaxAge = 60 * 24 * time.Hour
		a := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		inbox := newMailbox(nil)
		other := relay("b.example")
		other.Domains[0].DKIM.KeySize = 1024
		b := inBubble(t, n, other, WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		// For down.example as well, once its server is up.
		if err := b.UpdateRoutes(t.Context(), routes(t, `[{"name":"in","match":{"recipients":["*@b.example","*@down.example"]},"action":{"type":"deliver"}}]`)); err != nil {
			t.Fatal(err)
		}
		dns.add(a)
		n.servers["192.0.2.2"] = b.Server
		time.Sleep(3 * time.Hour) // until keys are in use
		send := func(to string) {
			t.Helper()
			m := hello
			m.To, m.Bcc = []string{to}, nil
			m.Attachments = []Attachment{{Filename: "größe.txt", Content: []byte("42\n..\n")}}
			if _, err := a.SendEmail(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		send("at-once@b.example")
		time.Sleep(time.Minute)
		before := selectors(a)
		send("hop-down@down.example")
		time.Sleep(time.Hour)
		if err := a.PauseQueue(); err != nil {
			t.Fatal(err)
		}
		send("paused@b.example")
		if err := a.RotateDKIM(t.Context(), "a.example"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * 24 * time.Hour)
		after := selectors(a)
		for name := range before {
			if _, ok := after[name]; ok {
				t.Errorf("the old key %s is still published", name)
			}
		}
		n.mu.Lock()
		n.servers["192.0.2.3"] = b.Server
		n.mu.Unlock()
		if err := a.ResumeQueue(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * time.Hour)
		for name, value := range before {
			records[name] = value // of the message that went at once
		}
		for name, value := range after {
			records[name] = value
		}
		for _, m := range inbox.all() {
			_, signed, _ := strings.Cut(m.content, "\r\nReceived: ")
			signed = signed[strings.Index(signed, "DKIM-Signature:"):]
			messages, wanted = append(messages, signed), append(wanted, m.Recipient)
			if !strings.Contains(m.Authentication, "dkim=pass") || !strings.Contains(m.Authentication, "dmarc=pass") {
				t.Errorf("to %s: %s", m.Recipient, m.Authentication)
			}
			now := after
			if strings.HasPrefix(m.Recipient, "at-once") {
				now = before
			}
			for _, s := range []string{"rsa-sha256", "ed25519-sha256"} {
				if !strings.Contains(signed, "a="+s) {
					t.Errorf("to %s: there is no signature by %s", m.Recipient, s)
				}
			}
			for name := range now {
				selector, _, _ := strings.Cut(name, ".")
				if !strings.Contains(signed, "s="+selector+";") {
					t.Errorf("to %s: there is no signature by %s", m.Recipient, selector)
				}
			}
		}
	})
	slices.Sort(wanted)
	if !slices.Equal(wanted, []string{"at-once@b.example", "hop-down@down.example", "paused@b.example"}) {
		t.Fatalf("arrived: %q", wanted)
	}
	dkimpy, opendkim := verifiers(t, messages, records)
	for i, m := range messages {
		if !slices.Equal(dkimpy[i], []string{"pass", "pass"}) || opendkim[i] != "pass" {
			t.Errorf("dkimpy says %q, OpenDKIM %q\n%s", dkimpy[i], opendkim[i], m)
		}
	}
	// Not everything passes: another body does not.
	dkimpy, opendkim = verifiers(t, []string{strings.Replace(messages[0], "Hello Bob", "Hello Rob", 1)}, records)
	if slices.Contains(dkimpy[0], "pass") || opendkim[0] == "pass" {
		t.Errorf("of a changed message: %q, %q", dkimpy, opendkim)
	}
}

// selectors are the keys that a server publishes.
func selectors(s *server) map[string]string {
	list := make(map[string]string)
	for _, d := range s.Domains() {
		for _, r := range d.Records {
			if strings.Contains(r.Name, "._domainkey.") {
				list[r.Name] = r.Value
			}
		}
	}
	return list
}
