package email

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var toMailboxes = []Route{{Name: "local", Match: Match{Recipients: []string{"*@example.com"}}, Action: Action{Type: Deliver}}}

func TestMaildir(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{DataPath: dir, Routes: toMailboxes})
	c := s.dial().hello()
	if got := c.send("a@example.net", "b@example.com", hi); !strings.HasPrefix(got, "250 2.0.0") {
		t.Fatal(got)
	}
	box := mailbox(t, filepath.Join(dir, "mail/example.com/b"))
	if len(box) != 1 {
		t.Fatalf("%d messages", len(box))
	}
	head, body, _ := strings.Cut(box[0], "\nFrom: ")
	if want := strings.ReplaceAll(hi, "\r\n", "\n") + "\n"; "From: "+body != want {
		t.Errorf("the message became %q", body)
	}
	for _, want := range []string{"Return-Path: <a@example.net>\n", "Delivered-To: b@example.com\n", "Received: from client.example.net (unknown [127.0.0.1])\n\tby mx.example.com with ESMTP id ",
		"\n\tfor <b@example.com>;", "\nAuthentication-Results: mx.example.com;"} {
		if !strings.Contains(head, want) {
			t.Errorf("%q lacks %q", head, want)
		}
	}
	c.say("QUIT", "221")
	st := s.Stats()
	if st.Messages.Accepted != 1 || st.Routes["local"] != 1 || st.Deliveries.Mailboxes != 1 || st.SPF["none"] != 1 || st.Connections.Total != 1 {
		t.Errorf("%+v", st)
	}
	if e := s.seen(EventDelivered); len(e) != 1 || e[0].MessageID == "" || e[0].ConnID != s.seen(EventConnected)[0].ConnID {
		t.Errorf("%+v", e)
	}
}

// Upper and lower case make no two Maildirs of an address. Other servers, and the
// host, get it as it came.
func TestMaildirOfAnyCase(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{DataPath: dir, Routes: []Route{
		{Name: "local", Match: Match{Recipients: []string{"bob@example.com", "sören@example.com"}}, Action: Action{Type: Deliver}}}})
	c := s.dial().hello()
	for _, to := range []string{"bob@example.com", "Bob@Example.com", `"BOB"@EXAMPLE.COM`} {
		if got := c.send("a@example.net", to, hi); !strings.HasPrefix(got, "250 2.0.0") {
			t.Error(to, got)
		}
	}
	c.say("MAIL FROM:<a@example.net> SMTPUTF8", "250")
	c.say("RCPT TO:<SÖREN@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250 2.0.0") {
		t.Error(got)
	}
	for name, want := range map[string]int{"bob": 3, "s%c3%b6ren": 1} {
		if got := mailbox(t, filepath.Join(dir, "mail/example.com", name)); len(got) != want {
			t.Errorf("%s has %d messages", name, len(got))
		}
	}
	folders, err := os.ReadDir(filepath.Join(dir, "mail/example.com"))
	if err != nil || len(folders) != 2 {
		t.Errorf("%v, %v", folders, err)
	}

	m := newMailbox(nil)
	s = start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	s.dial().hello().send("a@example.net", "Bob@example.com", hi)
	if got := m.all(); len(got) != 1 || got[0].Recipient != "Bob@example.com" {
		t.Errorf("%+v", got)
	}
}

// A message without header must not become part of the fields in front of it.
func TestNothingJoinsOurHeader(t *testing.T) {
	for _, content := range []string{
		" ; dkim=pass header.d=bank.example\r\nSubject: x\r\n\r\nbody", "no header\r\n\r\nbody", "\tx", "", ".",
	} {
		m := newMailbox(nil)
		s := start(t, Config{Routes: toMailboxes, Defaults: Defaults{DMARC: MonitorDMARC}}, WithMailbox(m.take))
		if got := s.dial().hello().send("", "b@example.com", dotStuffed(content)); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		got := m.all()[0].content
		want := "policy.iprev=127.0.0.1\r\n\r\n" + content + "\r\n"
		if content == "" { // an empty line, which ends a header
			want = "policy.iprev=127.0.0.1\r\n\r\n"
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("%q became %q", content, got)
		}
	}
}

func dotStuffed(s string) string {
	if strings.HasPrefix(s, ".") {
		return "." + s
	}
	return s
}

// What comes behind a line that is no field is no header for any reader: the
// authors that DMARC has looked at are the ones that people are shown.
func TestHeaderEndsForEverybody(t *testing.T) {
	for content, want := range map[string]string{
		"From: a@example.net\r\nnot a field\r\nFrom: boss@bank.example\r\n\r\nHi": "From: a@example.net\r\n\r\nnot a field\r\nFrom: boss@bank.example\r\n\r\nHi\r\n",
		"F:\r\nx": "F:\r\n\r\nx\r\n",
		"Authentication-Results: mx.example.com; spf=pass\r\nSubject: x\r\n-\r\n\r\nHi": "Subject: x\r\n\r\n-\r\n\r\nHi\r\n",
		hi:                        hi + "\r\n",
		"From: a@example.net\r\n": "From: a@example.net\r\n\r\n",
		"From: a@example.net":     "From: a@example.net\r\n",
	} {
		m := newMailbox(nil)
		s := start(t, Config{Routes: toMailboxes, Defaults: Defaults{DMARC: MonitorDMARC}}, WithMailbox(m.take))
		if got := s.dial().hello().send("", "b@example.com", content); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if got := m.all()[0].content; !strings.HasSuffix(got, "policy.iprev=127.0.0.1\r\n"+want) {
			t.Errorf("%q became %q", content, got)
		}
	}
}

func TestForgedResultsAreRemoved(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(m.take))
	s.dial().hello().send("a@example.net", "b@example.com",
		"X: 1\r\nAuthentication-Results: mx.example.com;\r\n\tdkim=pass header.d=bank.example\r\nAuthentication-Results: other.example; spf=pass\r\n"+hi)
	got := m.all()[0].content
	if strings.Contains(got, "bank.example") || !strings.Contains(got, "other.example; spf=pass") || !strings.Contains(got, "X: 1\r\nAuthentication-Results: other") {
		t.Error(got)
	}
}

func TestContentIsRefused(t *testing.T) {
	s := start(t, Config{Routes: toMailboxes, MaxMessageSize: 100_000}, WithMailbox(newMailbox(nil).take))
	for _, test := range []struct{ name, content, want string }{
		{"header", "X: " + strings.Repeat("x\r\n ", 20_000) + "\r\n\r\n", "554 5.6.0"},
		{"loop", strings.Repeat("Received: from x by y; now\r\n", 51) + hi, "554 5.4.6"},
		{"size", hi + strings.Repeat("0123456789\r\n", 10_000), "552 5.3.4"},
	} {
		c := s.dial().hello()
		c.say("MAIL FROM:<>", "250")
		c.say("RCPT TO:<b@example.com>", "250")
		if got := c.data(test.content); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %s", test.name, got, test.want)
		}
	}
	c := s.dial().hello()
	c.say("MAIL FROM:<> SIZE=100001", "552 5.3.4")
}

// A message that is made to be taken apart for ever is refused where a route
// looks into it.
func TestNestedContentIsRefused(t *testing.T) {
	s := start(t, Config{Routes: routes(t, `[
		{"name":"files","priority":1,"match":{"hasAttachments":true},"action":{"type":"reject"}},
		{"name":"rest","match":{"recipients":"*@example.com"},"action":{"type":"deliver"}}]`)})
	deep := ""
	for i := range 60 {
		deep += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	wide := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 1100)
	for _, content := range []string{deep, wide} {
		if got := s.dial().hello().send("a@example.net", "b@example.com", "From: a@example.net\r\nMIME-Version: 1.0\r\n"+content); !strings.HasPrefix(got, "554 5.6.0 The ") {
			t.Error(got)
		}
	}
}

func TestRoutesByContent(t *testing.T) {
	m := newMailbox(nil)
	s := start(t, Config{Routes: routes(t, `[
		{"name":"big","priority":3,"match":{"senders":"*@spam.example","sizeRange":{"min":1000}},"action":{"type":"reject","reject":{"code":554,"message":"Too big"}}},
		{"name":"files","priority":2,"match":{"hasAttachments":true},"action":{"type":"reject","reject":{"message":"No attachments"}}},
		{"name":"urgent","priority":1,"match":{"headers":{"X-Priority":"high"},"recipients":"*@example.com"},"action":{"type":"deliver"}},
		{"name":"nobody","match":{"recipients":"nobody@example.com"},"action":{"type":"reject","reject":{"code":450,"message":"Not now"}}},
		{"name":"rest","match":{"recipients":"*@example.com"},"action":{"type":"deliver"}}]`)}, WithMailbox(m.take))
	attachment := strings.Replace(hi, "Hello.", "--b\r\n\r\ntext\r\n--b\r\nContent-Type: application/pdf; name=a.pdf\r\n\r\nx\r\n--b--", 1)
	attachment = strings.Replace(attachment, "\r\n\r\n", "\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n", 1)
	for _, test := range []struct{ from, to, content, want, route string }{
		{"a@spam.example", "b@example.com", hi, "250", "rest"},
		{"a@spam.example", "b@example.com", hi + strings.Repeat("\r\n0123456789", 100), "554 5.7.1 Too big", ""},
		{"a@example.net", "b@example.com", attachment, "550 5.7.1 No attachments", ""},
		{"a@example.net", "nobody@example.com", "X-Priority: High\r\n" + hi, "250", "urgent"},
		{"a@example.net", "nobody@example.com", hi, "450 4.7.1 Not now", ""},
	} {
		before := s.Stats().Routes[test.route]
		if got := s.dial().hello().send(test.from, test.to, test.content); !strings.HasPrefix(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
		if test.route != "" && s.Stats().Routes[test.route] != before+1 {
			t.Errorf("%+v: %v", test, s.Stats().Routes)
		}
	}
	// Recipients whose fate the content decides differently come apart.
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<nobody@example.com>", "452 4.5.3")
	c.say("RCPT TO:<c@example.com>", "250")
}

func TestOpenRelay(t *testing.T) {
	s := start(t, Config{Routes: routes(t, `[
		{"name":"all","action":{"type":"process"}},
		{"name":"partner","priority":1,"match":{"recipients":"*@partner.example"},"action":{"type":"process"}}]`)})
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.com>", "250") // to call oneself so gives no right
	for rcpt, want := range map[string]string{
		"x@elsewhere.example":                      "550 5.7.1",
		"x@partner.example":                        "250",
		"x@example.com":                            "250",
		"x%elsewhere.example@example.com":          "553 5.1.3",
		"elsewhere.example!x@example.com":          "553 5.1.3",
		`"x@elsewhere.example"@example.com`:        "553 5.1.3",
		"@example.com:x@elsewhere.example":         "5",
		"x@elsewhere.example@example.com":          "5",
		"x@[127.0.0.1]":                            "550 5.7.1",
		"x":                                        "5",
		`"x@elsewhere.example> NOTIFY=NEVER "@d.e`: "5",
	} {
		c.say("RCPT TO:<"+rcpt+">", want)
	}
}

// Mail to the postmaster has to come somewhere, also without a domain, if the
// routes have one for him.
func TestPostmaster(t *testing.T) {
	for _, test := range []struct{ hostname, want string }{{"mx.example.com", "postmaster@example.com"}, {"example.org", "postmaster@example.org"}} {
		m := newMailbox(nil)
		s := start(t, Config{Hostname: test.hostname, Domains: []Domain{{Domain: "example.com"}, {Domain: "example.org"}},
			Routes: routes(t, `[{"name":"p","match":{"recipients":"postmaster@example.*"},"action":{"type":"deliver"}}]`)}, WithMailbox(m.take))
		if got := s.dial().hello().send("a@example.net", "postmaster", hi); !strings.HasPrefix(got, "250") || m.all()[0].Recipient != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// Routes that look at the content and only refuse do not make recipients valid:
// scanners for open relays go by the reply to RCPT.
func TestRefusingByContentTakesNobody(t *testing.T) {
	s := start(t, Config{Routes: routes(t, `[
		{"name":"word","priority":2,"match":{"subject":"/free money/i"},"action":{"type":"reject"}},
		{"name":"closed","priority":1,"match":{"recipients":"closed@example.com"},"action":{"type":"reject","reject":{"message":"Closed"}}},
		{"name":"alice","match":{"recipients":"alice@example.com"},"action":{"type":"deliver"}},
		{"name":"out","match":{"recipients":"*@*"},"action":{"type":"process"}}]`)}, WithMailbox(newMailbox(nil).take))
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<x@elsewhere.example>", "550 5.7.1 Relaying denied")
	c.say("RCPT TO:<closed@example.com>", "550 5.7.1 Closed")
	c.say("RCPT TO:<alice@example.com>", "250")

	s = start(t, Config{Routes: s.Routes()[:3]}, WithMailbox(newMailbox(nil).take))
	c = s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<x@elsewhere.example>", "550 5.7.1 Relaying denied")
	c.say("RCPT TO:<nobody@example.com>", "550 5.1.1 No such mailbox here")
	c.say("RCPT TO:<alice@example.com>", "250")
	if got := c.data(strings.Replace(hi, "Subject: hi", "Subject: Free Money", 1)); !strings.HasPrefix(got, "550 5.7.1 Rejected by policy") {
		t.Error(got)
	}
}

// Where a route might take mail by its content but may not relay it, the route
// that refuses the rest has its say.
func TestRefusalInTheOperatorsWords(t *testing.T) {
	s := start(t, Config{Routes: routes(t, `[
		{"name":"invoices","match":{"subject":"/invoice/i"},"action":{"type":"process"}},
		{"name":"closed","match":{"authenticated":false},"action":{"type":"reject","reject":{"code":554,"message":"Authentication required"}}}]`)})
	c := s.dial().hello()
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<x@elsewhere.example>", "554 5.7.1 Authentication required")
}

func TestMailboxRefuses(t *testing.T) {
	var refuse error
	m := newMailbox(func(d *Delivery) error {
		if d.Recipient == "bad@example.com" {
			return refuse
		}
		return nil
	})
	s := start(t, Config{Routes: toMailboxes, Queue: Queue{RetryDelay: 1}}, WithMailbox(m.take))
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("disk on fire"), "451 4.3.0 Local error"},
		{&Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "Nobody here"}, "550 5.1.1 Nobody here"},
		{&Reply{Code: 200}, "451 4.3.0"},
	} {
		refuse = test.err
		if got := s.dial().hello().send("a@example.net", "bad@example.com", hi); !strings.HasPrefix(got, test.want) {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
	if n := s.Stats().Spool.Messages; n != 0 {
		t.Errorf("%d messages are left in the spool", n)
	}
}

func TestHooks(t *testing.T) {
	deny := &Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "No"}
	var asked []string
	h := Hooks{
		OnConnect: func(_ context.Context, c *Client) error {
			asked = append(asked, fmt.Sprint("connect ", c.Addr, " ", c.Mode, " ", c.ID != ""))
			return nil
		},
		OnMail: func(_ context.Context, m *Envelope) error {
			asked = append(asked, "mail "+m.From+" "+m.Client.Helo)
			if m.From == "bad@example.net" {
				return deny
			}
			return nil
		},
		OnRcpt: func(_ context.Context, m *Envelope, rcpt string) error {
			asked = append(asked, fmt.Sprint("rcpt ", m.Recipients, rcpt))
			if rcpt == "bad@example.com" {
				return errors.New("a secret reason")
			}
			return nil
		},
		OnMessage: func(_ context.Context, m *Message) error {
			b, err := io.ReadAll(m.Content)
			asked = append(asked, fmt.Sprint("message ", m.Recipients, " ", strings.HasPrefix(string(b), "Received: "), strings.HasSuffix(string(b), "Hello.\r\n"), err))
			if strings.Contains(string(b), "forbidden") {
				return deny
			}
			return nil
		},
	}
	s := start(t, Config{Routes: toMailboxes}, WithMailbox(newMailbox(nil).take), WithHooks(h))
	c := s.dial().hello()
	c.say("MAIL FROM:<bad@example.net>", "550 5.7.1 No")
	c.say("MAIL FROM:<a@example.net>", "250")
	c.say("RCPT TO:<bad@example.com>", "451 4.3.0 Local error, try again later")
	c.say("RCPT TO:<b@example.com>", "250")
	c.say("RCPT TO:<c@example.com>", "250")
	if got := c.data(hi); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	if got := c.send("a@example.net", "b@example.com", "X: forbidden\r\n"+hi); !strings.HasPrefix(got, "550 5.7.1 No") {
		t.Error(got)
	}
	want := []string{"connect 127.0.0.1 smtp true", "mail bad@example.net client.example.net", "mail a@example.net client.example.net",
		"rcpt []bad@example.com", "rcpt []b@example.com", "rcpt [b@example.com]c@example.com", "message [b@example.com c@example.com] true true <nil>"}
	if len(asked) < len(want) || !slices.Equal(asked[:len(want)], want) {
		t.Errorf("%q", asked)
	}

	refusing := start(t, Config{Routes: toMailboxes}, WithHooks(Hooks{OnConnect: func(context.Context, *Client) error { return deny }}))
	refusing.dial().want("", "550 5.7.1 No")
}
