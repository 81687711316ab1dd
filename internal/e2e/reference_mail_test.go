package e2e

import (
	"fmt"
	"net/smtp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// mailCertificate gives the mail system a certificate.
func (p *place) mailCertificate(t *testing.T) func(*dcrouter.Config) {
	t.Helper()
	cert, key, _ := testenv.SelfSigned(t, "mail.example.com")
	p.roots = cert
	return func(c *dcrouter.Config) { c.Email.TLS = &email.TLS{CertPath: cert, KeyPath: key} }
}

// swaks sends mail from a machine of the place, and returns what was said.
func (p *place) swaks(t *testing.T, host, port int, args ...string) string {
	t.Helper()
	out, _ := p.send(t, host, port, args...)
	return out
}

// send is swaks that says whether the message was taken.
func (p *place) send(t *testing.T, host, port int, args ...string) (string, error) {
	t.Helper()
	args = append([]string{"--server", p.at(atGateway), "--port", strconv.Itoa(port), "--local-interface", p.at(host), "--helo", "client.elsewhere.com",
		"--from", "someone@elsewhere.com", "--timeout", "30", "--suppress-data"}, args...)
	return try(t, "swaks", "apt-get install swaks libnet-ssleay-perl", "", args...)
}

// wantSaid wants that a reply is among what was said to swaks.
func wantSaid(t *testing.T, out, reply string) {
	t.Helper()
	if !strings.Contains(out, reply) {
		t.Errorf("no %q in:\n%s", reply, out)
	}
}

// sink is Postfix's smtp-sink, which keeps what it gets in files.
type sink struct{ folder string }

func (p *place) sinkAt(t *testing.T, host, port int) sink {
	t.Helper()
	program := testenv.Need(t, "smtp-sink", "apt-get install postfix")
	s := sink{testenv.Folder(t)}
	if err := os.Chmod(s.folder, 0o777); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("%s:%d", p.at(host), port)
	args := []string{"-d", filepath.Join(s.folder, "mail."), addr, "100"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	testenv.Start(t, testenv.Opts{Ready: addr}, program, args...)
	return s
}

// wait waits for a message that has this text in it.
func (s sink) wait(t *testing.T, text string) string {
	t.Helper()
	return waitForFile(t, filepath.Join(s.folder, "mail.*"), text)
}

// waitForFile waits for a file that has this text in it.
func waitForFile(t *testing.T, pattern, text string) string {
	t.Helper()
	var content string
	testenv.WaitFor(t, patience, func() error {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), text) {
				content = string(b)
				return nil
			}
		}
		return fmt.Errorf("no %q in %d files", text, len(files))
	})
	return content
}

// wantText wants texts in a message, or with a "!" in front not in it.
func wantText(t *testing.T, message string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if text, no := strings.CutPrefix(text, "!"); strings.Contains(message, text) == no {
			t.Errorf("about %q:\n%.2000s", text, message)
		}
	}
}

func referenceBasicEmail(t *testing.T) {
	p := newPlace(t)
	mx := p.sinkAt(t, atMX, 25)
	cert, key, _ := testenv.SelfSigned(t, "mail.example.com")
	folder := testenv.Folder(t)
	if err := os.Symlink(filepath.Dir(cert), filepath.Join(folder, "certs")); err != nil || filepath.Base(cert) != "cert.pem" || filepath.Base(key) != "key.pem" {
		t.Fatal(cert, key, err)
	}
	g := runGateway(t, folder, p.load(t, "basic-email", nil)) // with ./certs as it is
	g.listens(t, p, "email", "25", "587", "465")

	out := p.swaks(t, atStranger, 25, "--to", "bob@example.com", "--header", "Subject: taken", "--tls", "--tls-verify", "--tls-ca-path", cert, "--tls-sni", "mail.example.com")
	wantSaid(t, out, "220 mail.example.com ")
	wantSaid(t, out, "=== TLS started")
	wantText(t, mx.wait(t, "Subject: taken"), "X-Helo-Args: mail.example.com", "X-Rcpt-Args: <bob@example.com>", "client.elsewhere.com", "with ESMTPS")
	wantSaid(t, p.swaks(t, atStranger, 25, "--to", "bob@elsewhere.com"), "550 5.7.1 Relaying denied")
	// Users sign in on these, and there are none.
	for port, args := range map[int]string{587: "--tls", 465: "--tls-on-connect"} {
		out := p.swaks(t, atStranger, port, args, "--to", "bob@example.com")
		wantSaid(t, out, "=== TLS started")
		wantSaid(t, out, "530 5.7.0")
	}
}

func referenceSocketHandler(t *testing.T) {
	p := newPlace(t)
	g := p.run(t, p.load(t, "email-socket-handler", nil)) // it has no certificate: one is made
	g.listens(t, p, "proxy", "25", "465", "587")
	g.listens(t, p, "email")
	wantSaid(t, p.swaks(t, atStranger, 25, "--to", "bob@example.com"), "550 5.7.1 Relay denied")
	for port, args := range map[int]string{25: "--tls", 587: "--tls", 465: "--tls-on-connect"} {
		wantSaid(t, p.swaks(t, atStranger, port, args, "--to", "bob@example.com", "--quit-after", "EHLO"), "=== TLS started")
	}
}

// nextHop is a mail server that wants a password for what is not from the office,
// and keeps what it takes.
func (p *place) nextHop(t *testing.T, host int) (pattern, roots string) {
	t.Helper()
	cert, key, _ := testenv.SelfSigned(t, p.at(host))
	folder := t.TempDir()
	s, err := email.New(email.Config{
		ListenHost: p.at(host), Ports: email.Ports(25), Hostname: "internal-mail.company.com", DataPath: folder,
		TLS: &email.TLS{CertPath: cert, KeyPath: key}, Resolvers: []string{p.at(atWorld)},
		Auth:   &email.Auth{Users: []email.User{{Username: "relay-user", Password: "relay-pass", Senders: []string{"*"}}}},
		Routes: []email.Route{{Action: email.Action{Type: email.Deliver}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	startServer(t, s)
	return filepath.Join(folder, "mail", "*", "*", "new", "*"), cert
}

func referenceEmailRoutes(t *testing.T) {
	p := newPlace(t)
	internal, internalRoots := p.nextHop(t, atMail)
	partner, mx := p.sinkAt(t, atPartner, 587), p.sinkAt(t, atMX, 25)
	var folder string
	g := p.run(t, p.load(t, "email-routes", func(c *dcrouter.Config) {
		p.mailCertificate(t)(c)
		// What the routes speak of, and the configuration leaves open: who may sign
		// in, what looks at the content, where mailboxes are.
		c.Email.Auth = &email.Auth{Users: []email.User{{Username: "alice", Password: "wonderland", Senders: []string{"*"}}}}
		c.Email.Scanners = []email.Scanner{{Type: email.SpamScanner, Threshold: 5, Action: email.TagMail}}
		c.Email.Routes[1].Action.Forward.TLS.CAPath = internalRoots
		folder = t.TempDir()
		c.Storage = &dcrouter.StorageConfig{FSPath: folder}
	}))
	g.listens(t, p, "email", "25", "587")
	stranger := func(args ...string) string { return p.swaks(t, atStranger, 25, args...) }
	alice := func(args ...string) string {
		return p.swaks(t, atStranger, 587, append([]string{"--tls", "--auth", "PLAIN", "--auth-user", "alice", "--auth-password", "wonderland"}, args...)...)
	}
	const scanned = "X-Spam-Score:"

	p.swaks(t, atOffice, 25, "--to", "anybody@elsewhere.com", "--header", "Subject: office-relay")
	wantText(t, waitForFile(t, internal, "Subject: office-relay"), "!with ESMTPSA", "!X-Forwarded-By")

	stranger("--to", "bob@company.com", "--header", "Subject: forward-to-internal")
	wantText(t, waitForFile(t, internal, "Subject: forward-to-internal"), "with ESMTPSA", "X-Forwarded-By: dcrouter\n")

	stranger("--to", "bob@notifications.company.com", "--header", "Subject: process-notifications")
	wantText(t, mx.wait(t, "Subject: process-notifications"), "X-Rcpt-Args: <bob@notifications.company.com>", scanned)

	stranger("--to", "bob@marketing.company.com", "--header", "Subject: deliver-local")
	wantText(t, waitForFile(t, filepath.Join(folder, "mail/marketing.company.com/bob/new/*"), "Subject: deliver-local"), "Return-Path: <someone@elsewhere.com>")

	big := filepath.Join(t.TempDir(), "big.txt")
	if err := os.WriteFile(big, []byte(strings.Repeat("0123456789012345678901234567890123456789012345678\n", 22_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := stranger("--from", "eve@spam-domain.com", "--to", "bob@partner.com", "--header", "Subject: reject-spam", "--body", "@"+big)
	wantSaid(t, out, "550 5.7.1 Message rejected due to policy")
	stranger("--from", "eve@spam-domain.com", "--to", "bob@partner.com", "--header", "Subject: partner-domain", "--body", "small")
	wantText(t, partner.wait(t, "Subject: partner-domain"), "X-Mail-Args: <eve@spam-domain.com>")

	// These go to the MX hosts of their recipients, so strangers may not use them.
	urgent := []string{"--from", "carol@trusted.com", "--to", "bob@elsewhere.com", "--header", "Subject: An EMERGENCY", "--header", "X-Priority: High"}
	alice(urgent...)
	wantText(t, mx.wait(t, "Subject: An EMERGENCY"), "!"+scanned)
	wantSaid(t, stranger(urgent...), "550 5.7.1 Authentication required")
	alice("--to", "bob@elsewhere.com", "--header", "Subject: Your Invoice 42", "--attach-name", "invoice.txt", "--attach", "@"+big)
	wantText(t, mx.wait(t, "Subject: Your Invoice 42"), scanned)
	alice("--to", "bob@elsewhere.com", "--header", "Subject: no Invoice is attached")
	wantText(t, mx.wait(t, "Subject: no Invoice is attached"), "!"+scanned, "with ESMTPSA")
	wantSaid(t, stranger("--to", "bob@elsewhere.com", "--header", "Subject: from nobody"), "550 5.7.1 Authentication required")

	out = stranger("--to", "bob@company.com", "--quit-after", "EHLO")
	wantSaid(t, out, "SIZE 52428800")
	p.limits(t)
	g.end(t)
	for _, line := range []string{"route=office-relay", "route=forward-to-internal", "route=process-notifications", "route=deliver-local", "route=reject-spam",
		"route=partner-domain", "route=urgent", "route=invoices", "route=authenticated-users"} {
		if !strings.Contains(g.Output(), line) {
			t.Errorf("the log has no %s", line)
		}
	}
}

// limits uses up what one client may have.
func (p *place) limits(t *testing.T) {
	t.Helper()
	var open []*smtp.Client
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for len(open) < 10 {
		open = append(open, p.smtp(t, atStranger))
	}
	if got, _ := p.readFrom(t, atStranger, p.port(25)); !strings.HasPrefix(got, "421 4.7.0") {
		t.Errorf("an eleventh connection: %q", got)
	}
	c := open[0]
	if err := c.Mail("someone@elsewhere.com"); err != nil {
		t.Fatal(err)
	}
	for i := range 51 {
		if err := c.Rcpt(fmt.Sprintf("user%d@marketing.company.com", i)); (err == nil) != (i < 50) || err != nil && !strings.HasPrefix(err.Error(), "452") {
			t.Fatalf("recipient %d: %v", i, err)
		}
	}
	if n := messagesAllowed(t, c, "bob@marketing.company.com"); n < 75 || n > 100 { // some have been sent
		t.Errorf("put off after %d messages", n)
	}
}

// smtp connects from a machine of the place.
func (p *place) smtp(t *testing.T, host int) *smtp.Client {
	t.Helper()
	conn, err := p.dialFrom(host, p.port(25))
	if err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, "mail.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Hello("client.elsewhere.com"); err != nil {
		t.Fatal(err)
	}
	return c
}

// messagesAllowed begins messages to somebody until the server puts one off, and
// returns how many those were.
func messagesAllowed(t *testing.T, c *smtp.Client, rcpt string) int {
	t.Helper()
	for n := range 500 {
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
		err := c.Mail("someone@elsewhere.com")
		if err == nil {
			err = c.Rcpt(rcpt)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "450") {
				t.Error(err)
			}
			return n
		}
	}
	return -1
}

func referenceEmailDomains(t *testing.T) {
	p := newPlace(t)
	target := p.sinkAt(t, atTarget, 25)
	g := p.run(t, p.load(t, "email-domains", func(c *dcrouter.Config) {
		p.mailCertificate(t)(c)
		c.Proxy.ACME = p.authority(t, atGateway)
		c.PublicIP = []string{p.at(atGateway)}
		c.Email.Resolvers = []string{p.at(atGateway), p.at(atWorld)} // as if the zone were delegated
	}))
	g.listens(t, p, "email", "25")
	g.listens(t, p, "dns", "53/udp", "53/tcp")
	g.listens(t, p, "proxy", "443")

	// internal-dns: all that others look up is there, with this priority and TTL.
	for _, want := range []struct{ name, rtype, answer string }{
		{"mail.example.com", "MX", "mail.example.com. 3600 IN MX 10 mail.example.com."},
		{"mail.example.com", "A", "IN A " + p.at(atGateway)},
		{"mail.example.com", "TXT", `mail.example.com. 3600 IN TXT "v=spf1 mx ip4:` + p.at(atGateway) + ` ~all"`},
		{"mail2024._domainkey.mail.example.com", "TXT", `3600 IN TXT "v=DKIM1; k=rsa; p=`},
		{"_dmarc.mail.example.com", "TXT", `_dmarc.mail.example.com. 3600 IN TXT "v=DMARC1; p=none`},
		{"example.com", "NS", "IN NS ns1.example.com."},
	} {
		testenv.WaitFor(t, patience, func() error { // a key takes a moment
			got := answers(tool(t, "dig", "apt-get install bind9-dnsutils", "@"+p.at(atGateway), "+time=10", "+noall", "+answer", want.name, want.rtype))
			if !strings.Contains(got, want.answer) {
				return fmt.Errorf("%s %s: %s, want %s", want.name, want.rtype, got, want.answer)
			}
			return nil
		})
	}
	// external-dns: it says what is missing, as it is to be written there.
	testenv.WaitFor(t, patience, func() error {
		for _, want := range []string{"kind=MX", "kind=SPF", "kind=DKIM", "kind=DMARC"} {
			found := false
			for line := range strings.Lines(g.Output()) {
				found = found || strings.Contains(line, "domain=mail.external.com") && strings.Contains(line, want) && strings.Contains(line, "record=")
			}
			if !found {
				return fmt.Errorf("nothing is said about %s", want)
			}
		}
		return nil
	})
	// forward: to the server that the domain names, which nobody checks records of.
	p.swaks(t, atStranger, 25, "--to", "bob@forwarded.com", "--header", "Subject: forwarded")
	wantText(t, target.wait(t, "Subject: forwarded"), "X-Rcpt-Args: <bob@forwarded.com>")
	for line := range strings.Lines(g.Output()) {
		if strings.Contains(line, "is missing") && !strings.Contains(line, "domain=mail.external.com") {
			t.Error(line)
		}
	}
	for _, domain := range []string{"mail.example.com", "mail.external.com"} {
		wantSaid(t, p.swaks(t, atStranger, 25, "--to", "bob@"+domain), "550 5.1.1 No such mailbox here")
	}
	// Sixty messages a minute by default, one of which has been sent.
	c := p.smtp(t, atStranger)
	defer c.Close()
	if n := messagesAllowed(t, c, "bob@forwarded.com"); n < 55 || n > 62 {
		t.Errorf("put off after %d messages", n)
	}
	p.wantCurl(t, "200", "-o", "/dev/null", "-w", "%{http_code}", "https://dns.example.com/resolve?name=mail.example.com&type=MX")
}
