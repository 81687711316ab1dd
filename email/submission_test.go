package email

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// startTLS takes the conversation into TLS.
func (c *client) startTLS() *client {
	c.t.Helper()
	c.say("STARTTLS", "220")
	return c.tls()
}

func (c *client) tls() *client {
	c.t.Helper()
	conn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.Conn, c.r = conn, bufio.NewReader(conn)
	return c
}

// submission is a configuration with users and a port of this mode.
func submission(t testing.TB, mode string) Config {
	t.Helper()
	cert, key, _ := testenv.SelfSigned(t, "mx.example.com")
	hash, err := bcrypt.GenerateFromPassword([]byte("hunter2"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Ports: []Port{{Mode: mode}}, TLS: &TLS{CertPath: cert, KeyPath: key},
		Auth: &Auth{Users: []User{
			{Username: "alice@example.com", Password: "wonderland"},
			{Username: "bob", Password: Secret(hash)},
			{Username: "list", Password: "x", Senders: []string{"*@lists.example.com", "owner@example.com"}},
		}},
		Routes: []Route{{Name: "out", Match: Match{Authenticated: new(true)}, Action: Action{Type: Deliver}}},
	}
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

func TestSubmission(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, submission(t, Submission), WithMailbox(m.take))
	c := s.dial().hello()
	c.say("MAIL FROM:<alice@example.com>", "530 5.7.0")
	c.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "5") // not without TLS
	c.startTLS().say("EHLO client.example.net", "250")
	c.say("AUTH PLAIN "+plain("alice@example.com", "wrong"), "535 5.7.8")
	c.say("AUTH PLAIN "+plain("nobody", "wrong"), "535 5.7.8")
	c.say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "235 2.7.0")
	c.say("MAIL FROM:<bob@example.com>", "553 5.7.1")
	if got := c.send("alice@example.com", "x@elsewhere.example", "From: Alice <Alice@example.com>\r\nSubject: x\r\n\r\nHi"); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	got := m.all()[0].content
	for _, want := range []string{"\r\nDate: ", "\r\nMessage-ID: <", "@mx.example.com>\r\n", "with ESMTPSA id", "Received: from client.example.net\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "127.0.0.1") || strings.Contains(got, "Authentication-Results") {
		t.Errorf("%q tells where the user is", got)
	}
	c.send("alice@example.com", "x@elsewhere.example", hi[strings.Index(hi, "Subject"):])
	for from, want := range map[string]string{
		"From: alice@example.com\r\n" + hi[strings.Index(hi, "Subject"):]: "250",
		"From: bob@example.com\r\n\r\n":                                   "550 5.7.1",
		"From: alice@example.com, bob@example.com\r\n\r\n":                "550 5.7.1",
		"From: alice@example.com\r\nFrom: bob@example.com\r\n\r\n":        "550 5.6.0",
		"From: alice@example.com <bob@example.com>\r\n\r\n":               "550 5",
		"Subject: no author\r\n\r\n":                                      "550 5.6.0",
	} {
		if got := c.send("alice@example.com", "x@elsewhere.example", from); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %s", from, got, want)
		}
	}
	st := s.Stats()
	if st.SignIns != 1 || st.SignInFailures != 2 || len(s.seen(EventSignInFailed)) != 2 {
		t.Errorf("%+v", st)
	}
	for _, e := range s.seen(EventSignInFailed) {
		if !e.Security || strings.Contains(fmt.Sprint(e), "wrong") {
			t.Errorf("%+v", e)
		}
	}
}

func TestSendersOfUsers(t *testing.T) {
	s := start(t, submission(t, SMTPS), WithMailbox(newMailbox(nil).take))
	for _, test := range []struct{ user, password, from, want string }{
		{"bob", "hunter2", "bob@example.com", "250"},
		{"bob", "hunter2", "bob@elsewhere.example", "553 5.7.1"},
		{"bob", "hunter2", "alice@example.com", "553 5.7.1"},
		{"bob", "hunter2", "", "250"},
		{"list", "x", "a@lists.example.com", "250"},
		{"list", "x", "owner@example.com", "250"},
		{"list", "x", "list@example.com", "553 5.7.1"},
		{"alice@example.com", "wonderland", "ALICE@example.com", "250"},
	} {
		c := s.dial().tls().hello()
		c.say("AUTH PLAIN "+plain(test.user, test.password), "235")
		c.say("MAIL FROM:<"+test.from+">", test.want)
	}
}

// Users are who they are in whatever form their names and domains are written.
func TestNamesOfUsers(t *testing.T) {
	cfg := submission(t, SMTPS)
	cfg.Auth = &Auth{Users: []User{{Username: "Ⅸ", Password: "x", Senders: []string{"*@example.com"}}, {Username: "ü@münchen.example", Password: "x"}}}
	s := start(t, cfg)
	for _, name := range []string{"Ⅸ", "IX", "I\u00adX"} { // the same by RFC 4013
		s.dial().tls().hello().say("AUTH PLAIN "+plain(name, "x"), "235")
	}
	c := s.dial().tls().hello()
	c.say("AUTH PLAIN "+plain("ü@münchen.example", "x"), "235")
	c.say("MAIL FROM:<ü@xn--mnchen-3ya.example> SMTPUTF8", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	if got := c.data("From: ü@münchen.example\r\n\r\nHi"); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	for i, names := range [][]string{{"Ⅸ", "IX"}, {"a\u0007"}} {
		var users []User
		for _, name := range names {
			users = append(users, User{Username: name, Password: "x"})
		}
		_, err := New(Config{Ports: Ports(25), Hostname: "x.example.com", Auth: &Auth{Users: users}})
		if want := fmt.Sprintf("auth.users[%d].username: ", 1-i); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A user's limit is the user's, from however many addresses, and nobody else's.
func TestLimitOfUsers(t *testing.T) {
	clk := newClock()
	cfg := submission(t, SMTPS)
	cfg.RateLimits.Inbound.MessagesPerMinutePerUser = 2
	cfg.UseSocketHandler = true
	s := start(t, cfg, WithClock(clk.Now))
	from := func(addr, user, password string) *client {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(t.Context(), ours, SMTPS, ConnInfo{Client: mustAddrPort(addr)}) }()
		t.Cleanup(func() { theirs.Close(); <-done })
		theirs.SetDeadline(time.Now().Add(time.Minute))
		c := (&client{t, theirs, bufio.NewReader(theirs)}).tls().hello()
		c.say("AUTH PLAIN "+plain(user, password), "235")
		return c
	}
	bob := from("192.0.2.1:1", "bob", "hunter2")
	for range 2 {
		bob.say("MAIL FROM:<bob@example.com>", "250")
		bob.say("RSET", "250")
	}
	bob.say("MAIL FROM:<bob@example.com>", "450 4.7.1 Too much mail")
	from("192.0.2.2:1", "bob", "hunter2").say("MAIL FROM:<bob@example.com>", "450 4.7.1 Too much mail")
	from("192.0.2.1:2", "alice@example.com", "wonderland").say("MAIL FROM:<alice@example.com>", "250")
	if e := s.seen(EventRefused); len(e) != 2 || e[0].User != "bob" || e[0].From != "bob@example.com" {
		t.Errorf("%+v", e)
	}
	clk.Advance(2 * time.Minute)
	bob.say("MAIL FROM:<bob@example.com>", "250")
}

func TestAuthenticator(t *testing.T) {
	cfg := submission(t, SMTPS)
	cfg.Auth = nil
	s := start(t, cfg, WithMailbox(newMailbox(nil).take), WithAuthenticator(AuthenticatorFunc(func(_ context.Context, name string) (User, error) {
		switch name {
		case "carol":
			return User{Password: "secret", Senders: []string{"carol@*"}}, nil
		case "empty":
			return User{}, nil
		case "broken":
			return User{}, errors.New("the directory is down")
		}
		return User{}, ErrUnknownUser
	})))
	c := s.dial().tls().hello()
	c.say("AUTH PLAIN "+plain("broken", "x"), "454 4.7.0")
	c.say("AUTH PLAIN "+plain("empty", ""), "5")
	c.say("AUTH PLAIN "+plain("nobody", "x"), "535")
	c.say("AUTH LOGIN", "334 ")
	c.say(base64.StdEncoding.EncodeToString([]byte("carol")), "334 ")
	c.say(base64.StdEncoding.EncodeToString([]byte("secret")), "235")
	c.say("MAIL FROM:<carol@anywhere.example>", "250")
}

func TestGuessingIsSlowedDown(t *testing.T) {
	cfg := submission(t, SMTPS)
	s := start(t, cfg)
	last := ""
	for range 3 {
		c := s.dial().tls().hello()
		for i := range 5 {
			fmt.Fprintf(c, "AUTH PLAIN %s\r\n", plain("alice@example.com", fmt.Sprint("guess", i)))
			last = c.reply()
		}
	}
	if !strings.HasPrefix(last, "454 4.7.0 Too many failures") {
		t.Error(last)
	}
	// The right password from there has to wait as well.
	s.dial().tls().hello().say("AUTH PLAIN "+plain("alice@example.com", "wonderland"), "454 4.7.0")
}

func TestServeConn(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, Config{Routes: routes(t, `[{"name":"lan","match":{"clientIp":"192.0.2.0/24"},"action":{"type":"deliver"}}]`), UseSocketHandler: true}, WithMailbox(m.take))
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- s.ServeConn(t.Context(), ours, SMTP, ConnInfo{ID: "conn-1", Client: mustAddrPort("192.0.2.7:4321")})
	}()
	theirs.SetDeadline(time.Now().Add(time.Minute))
	c := (&client{t, theirs, bufio.NewReader(theirs)}).hello()
	if got := c.send("a@example.net", "x@example.org", hi); !strings.HasPrefix(got, "250") {
		t.Fatal(got)
	}
	c.say("QUIT", "221")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := m.all()[0]; got.Client.Addr.String() != "192.0.2.7" || got.Client.ID != "conn-1" {
		t.Errorf("%+v", got.Client)
	}
	if len(s.Addrs()) != 0 {
		t.Error(s.Addrs())
	}
	s.Stop(t.Context())
	if err := s.ServeConn(t.Context(), ours, SMTP, ConnInfo{}); err != ErrNotRunning {
		t.Error(err)
	}
}
