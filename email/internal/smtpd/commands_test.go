package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/addr"
)

// Each script begins behind the greeting.
func TestCommands(t *testing.T) {
	tests := []struct{ name, script string }{
		{"EHLO", `
			C: EHLO client.example.org
			S: 250-mx.example.com`},
		{"EHLO in any case", `
			C: eHlO client.example.org
			S: 250-mx`},
		{"EHLO with address literals", `
			C: EHLO [192.0.2.1]
			S: 250-mx
			C: EHLO [IPv6:2001:db8::1]
			S: 250-mx`},
		{"EHLO without or with a bad name", `
			C: EHLO
			S: 501 5.5.4
			C: EHLO two names
			S: 501 5.5.4
			C: EHLO <script>
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org>
			S: 503 5.5.1`},
		{"EHLO again ends the transaction", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: EHLO x
			S: 250-
			C: RCPT TO:<a@b.org>
			S: 503 5.5.1`},
		{"HELO", `
			C: HELO client
			S: 250 mx.example.com
			C: HELO
			S: 501 5.5.4`},
		{"LHLO is another protocol", `
			C: LHLO x
			S: 500 5.5.1`},

		{"MAIL FROM", `
			C: EHLO x
			S: 250-
			C: mail from:<a@b.org>
			S: 250 2.1.0`},
		{"MAIL FROM with a space behind the colon", `
			C: EHLO x
			S: 250-
			C: MAIL FROM: <a@b.org>
			S: 250 2.1.0`},
		{"MAIL FROM of bounces", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<>
			S: 250 2.1.0`},
		{"MAIL FROM before EHLO", `
			C: MAIL FROM:<a@b.org>
			S: 503 5.5.1`},
		{"MAIL FROM twice", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: MAIL FROM:<c@d.org>
			S: 503 5.5.1`},
		{"MAIL FROM malformed", `
			C: EHLO x
			S: 250-
			C: MAIL
			S: 501 5.5.4
			C: MAIL a@b.org
			S: 501 5.5.4
			C: MAIL TO:<a@b.org>
			S: 501 5.5.4
			C: MAIL FROM:
			S: 501 5.1.7
			C: MAIL FROM:a@b.org
			S: 501 5.1.7
			C: MAIL FROM:<a@b.org
			S: 501 5.1.7
			C: MAIL FROM:<a>
			S: 501 5.1.7
			C: MAIL FROM:<a@>
			S: 501 5.1.7
			C: MAIL FROM:<a@b@c>
			S: 501 5.1.7
			C: MAIL FROM:<@a.org:b@c.org>
			S: 501 5.1.7
			C: MAIL FROM:<a@b.org>SIZE=1
			S: 501 5.5.4`},
		{"parameters", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org> size=100 body=8bitmime ret=hdrs envid=a+2Bb smtputf8 auth=<>
			S: 250
			C: RCPT TO:<a@b.org> notify=success,failure orcpt=rfc822;a+40b.org
			S: 250`},
		{"parameters of MAIL with RCPT", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org> SMTPUTF8
			S: 250
			C: RCPT TO:<a@b.org> SIZE=5
			S: 555 5.5.4
			C: RCPT TO:<a@b.org> AUTH=<>
			S: 555 5.5.4
			C: RCPT TO:<a@b.org> SMTPUTF8
			S: 555 5.5.4`},
		{"an original recipient", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<a@b.org> ORCPT=utf-8;\x{FC}@b.org
			S: 250
			C: RCPT TO:<a@b.org> ORCPT=utf-8;ü@b.org
			S: 553 5.6.7
			C: RSET
			S: 250
			C: MAIL FROM:<a@b.org> SMTPUTF8
			S: 250
			C: RCPT TO:<a@b.org> ORCPT=utf-8;ü@b.org
			S: 250
			C: RCPT TO:<a@b.org> ORCPT=utf-8;a\x{01}@b.org
			S: 501 5.5.4
			C: RCPT TO:<a@b.org> ORCPT=utf-8;a\x{7F}@b.org
			S: 501 5.5.4
			C: RCPT TO:<a@b.org> ORCPT=utf-8;a\x{85}@b.org
			S: 501 5.5.4
			C: RCPT TO:<a@b.org> ORCPT=utf-8;a\x{2028}@b.org
			S: 501 5.5.4`},
		{"parameters malformed", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org> SIZE=1 SIZE=2
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> SIZE=-1
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> SIZE
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> =1
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> SIZE=1=2
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> BODY=9BIT
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> BODY=BINARYMIME
			S: 504 5.5.4
			C: MAIL FROM:<a@b.org> RET=SOME
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> ENVID=
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> SMTPUTF8=1
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org> XUNKNOWN=1
			S: 555 5.5.4
			C> "MAIL FROM:<a@b.org> BODY=7BIT\u00a0SMTPUTF8\r\n"
			S: 501 5.5.4
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<a@b.org> NOTIFY=NEVER,FAILURE
			S: 501 5.5.4
			C: RCPT TO:<a@b.org> ORCPT=a
			S: 501 5.5.4
			C: RCPT TO:<a@b.org> SIZE=1 XUNKNOWN
			S: 555 5.5.4`},
		{"REQUIRETLS without TLS", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org> REQUIRETLS
			S: 530 5.7.10`},

		{"RCPT TO", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<c@d.org>
			S: 250 2.1.5
			C: rcpt to:<"quoted @ part"@d.org>
			S: 250 2.1.5
			C: RCPT TO:<c@[192.0.2.1]>
			S: 250 2.1.5
			C: RCPT TO:<Postmaster>
			S: 250 2.1.5`},
		{"RCPT TO out of order", `
			C: RCPT TO:<c@d.org>
			S: 503 5.5.1
			C: EHLO x
			S: 250-
			C: RCPT TO:<c@d.org>
			S: 503 5.5.1`},
		{"RCPT TO malformed", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT
			S: 501 5.5.4
			C: RCPT TO:
			S: 501 5.1.3
			C: RCPT TO:<>
			S: 501 5.1.3
			C: RCPT TO:<nobody>
			S: 501 5.1.3
			C: RCPT TO:<@a.org,@b.org:c@d.org>
			S: 501 5.1.3
			C: RCPT TO:<c d@e.org>
			S: 501 5.1.3
			C: RCPT FROM:<c@d.org>
			S: 501 5.5.4
			C: DATA
			S: 503 5.5.1`},

		{"DATA", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<a@b.org>
			S: 250
			C: DATA now
			S: 501 5.5.4
			C: DATA
			S: 354
			C: .
			S: 250 2.0.0 queued as 1
			C: DATA
			S: 503 5.5.1`},
		{"DATA out of order", `
			C: DATA
			S: 503 5.5.1
			C: EHLO x
			S: 250-
			C: DATA
			S: 503 5.5.1
			C: MAIL FROM:<a@b.org>
			S: 250
			C: DATA
			S: 503 5.5.1`},

		{"RSET", `
			C: RSET
			S: 250 2.0.0
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<a@b.org>
			S: 250
			C: RSET
			S: 250 2.0.0
			C: RCPT TO:<a@b.org>
			S: 503
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RSET now
			S: 501 5.5.4`},
		{"NOOP", `
			C: NOOP
			S: 250 2.0.0
			C: NOOP with words
			S: 250 2.0.0`},
		{"QUIT", `
			C: QUIT
			S: 221 2.0.0
			S.`},
		{"QUIT within a transaction", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: QUIT now
			S: 501 5.5.4
			C: quit
			S: 221
			S.`},
		{"VRFY, EXPN, HELP", `
			C: VRFY someone
			S: 252 2.5.0
			C: VRFY
			S: 501 5.5.4
			C: EXPN list
			S: 502 5.5.1
			C: HELP
			S: 214 2.0.0
			C: HELP MAIL
			S: 214 2.0.0`},
		{"unknown and empty", `
			C: HELLO
			S: 500 5.5.1
			C: XYZZY plugh
			S: 500 5.5.1
			C:
			S: 500 5.5.1
			C: MAILFROM:<a@b.org>
			S: 500 5.5.1
			C: STARTTLSNOW
			S: 500 5.5.1
			C: ETRN x
			S: 502 5.5.1
			C: NOOP
			S: 250`},
		{"control characters", `
			C> "NOOP\x00\r\n"
			S: 500 5.5.2
			C> "NOOP\rQUIT\r\n"
			S: 500 5.5.2
			C> "NOOP\tx\r\n"
			S: 500 5.5.2
			C> "EHLO \xff\r\n"
			S: 500 5.5.2
			C> "NOOP\n"
			S: 500 5.5.2
			C: RſET
			S: 500 5.5.2
			C: EHLO x
			S: 250-
			C: MAıL FROM:<a@b.org>
			S: 500 5.5.2
			C: NOOP
			S: 250`},
		{"control characters in addresses", `
			C: EHLO x
			S: 250-
			C> "MAIL FROM:<\"a\x00\"@b.org>\r\n"
			S: 500 5.5.2
			C> "MAIL FROM:<\"a\rb\"@b.org>\r\n"
			S: 500 5.5.2
			C> "MAIL FROM:<a@b.org\x00.c.org>\r\n"
			S: 500 5.5.2
			C> "MAIL FROM:<\xff@b.org> SMTPUTF8\r\n"
			S: 501 5.1.7`},
		{"long lines", fmt.Sprintf(`
			C: NOOP %[1]s
			S: 250
			C: NOOP %[1]sx
			S: 500 5.5.2
			C: NOOP %[2]s
			S: 500 5.5.2
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org> ENVID=%[3]s
			S: 250`, strings.Repeat("x", 512-7), strings.Repeat("x", 60000), strings.Repeat("x", 1900))},
		{"UTF-8 only with SMTPUTF8", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<jürgen@b.org>
			S: 550 5.6.7
			C: MAIL FROM:<a@bücher.example>
			S: 550 5.6.7
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<jürgen@b.org>
			S: 553 5.6.7
			C: RSET
			S: 250
			C: MAIL FROM:<jürgen@bücher.example> SMTPUTF8
			S: 250
			C: RCPT TO:<ä@b.org>
			S: 250`},
		{"HTTP", `
			C> "POST / HTTP/1.1\r\nHost: mx.example.com\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.org>\r\n"
			S: 500 5.5.1
			S.`},
		{"a header field", `
			C> "Subject: hello\r\nEHLO x\r\n"
			S: 500 5.5.1
			S.`},
		{"several messages", `
			C: EHLO x
			S: 250-
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<a@b.org>
			S: 250
			C: DATA
			S: 354
			C> "one\r\n.\r\n"
			S: 250
			C: MAIL FROM:<c@d.org>
			S: 250
			C: RCPT TO:<a@b.org>
			S: 250
			C: DATA
			S: 354
			C> "two\r\n.\r\n"
			S: 250`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, serve(t, &host{}, Mode{}))
			c.want("220 mx.example.com ESMTP")
			c.script(test.script)
		})
	}
}

func TestAnnounced(t *testing.T) {
	h := &host{mechanisms: []string{"PLAIN", "LOGIN"}}
	s := serve(t, h, Mode{}, func(c *Config) { c.MaxMessageSize, c.MaxRecipients, c.MaxTransactions = 1000, 7, 3 })
	c := dial(t, s)
	c.want("220")
	const always = "250-mx.example.com\n250-PIPELINING\n250-SIZE 1000\n250-8BITMIME\n250-SMTPUTF8\n250-CHUNKING\n250-DSN\n" +
		"250-ENHANCEDSTATUSCODES\n250-LIMITS RCPTMAX=7 MAILMAX=3\n"
	c.ask("EHLO x", always+"250 STARTTLS")
	c = c.startTLS(s)
	c.ask("EHLO x", always+"250-REQUIRETLS\n250 AUTH PLAIN LOGIN")
	c.ask("MAIL FROM:<a@b.org> REQUIRETLS", "250")

	c = dial(t, serve(t, &host{}, Mode{}, func(c *Config) { c.TLS = nil }))
	c.want("220")
	c.send("EHLO x\r\n")
	if got, err := c.reply(); err != nil || strings.Contains(got, "STARTTLS") {
		t.Errorf("without a certificate: %q, %v", got, err)
	}
	c.ask("STARTTLS", "502 5.5.1")
}

// What the session sees is what the client has meant, to the byte.
func TestEnvelope(t *testing.T) {
	h := &host{}
	c := dial(t, serve(t, h, Mode{}))
	c.want("220")
	c.ask("EHLO client.example.org", "250-")
	c.ask(`MAIL FROM:<"a b"@EXAMPLE.org> SIZE=123 BODY=8BITMIME RET=HDRS ENVID=q+2Br`, "250")
	c.ask(`RCPT TO:<"v@other.com> NOTIFY=NEVER "@d.org>`, "250")
	c.ask(`RCPT TO:<c@d.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@d.org`, "250")
	c.ask("RSET", "250")
	c.ask("MAIL FROM:<ü@bücher.example> SMTPUTF8", "250")
	c.ask("QUIT", "221")
	c.wantEnd()
	want := `helo client.example.org esmtp=true tls=false
mail <"a b"@example.org> {Size:123 Body:8BITMIME UTF8:false RequireTLS:false Return:HDRS EnvelopeID:q+r}
rcpt <"v@other.com> NOTIFY=NEVER "@d.org> {Notify:[] OriginalType: Original:}
rcpt <c@d.org> {Notify:[SUCCESS DELAY] OriginalType:RFC822 Original:x+y@d.org}
reset
mail <ü@xn--bcher-kva.example> {Size:0 Body: UTF8:true RequireTLS:false Return: EnvelopeID:}`
	if got := h.log(); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Whatever the session answers is what the client reads, and nothing else.
func TestSessionReplies(t *testing.T) {
	h := &host{}
	refuse := errors.New("secret password 123")
	h.helo = func(name string) error {
		if name == "bad" {
			return newReply(550, 5, 7, 1, "go away\nplease")
		}
		return nil
	}
	h.mail = func(_ context.Context, from addr.Address) error {
		switch from.Local {
		case "internal":
			return refuse
		case "wrapped":
			return fmt.Errorf("while testing: %w", newReply(452, 4, 3, 1, "disk full"))
		case "evil":
			return newReply(550, 5, 1, 0, "no\r250 yes\x00ü"+strings.Repeat("x", 600))
		case "panic":
			var none *int
			*none = 1
		}
		return nil
	}
	h.rcpt = func(to addr.Address) error {
		if to.Local == "last" {
			return &Reply{Code: 550, Enhanced: [3]int{5, 7, 1}, Text: "that was it", Close: true}
		}
		if to.Local == "busy" {
			return &Reply{Code: 421, Text: "later"}
		}
		return nil
	}
	s := serve(t, h, Mode{})
	c := dial(t, s)
	c.want("220")
	c.ask("EHLO bad", "550-5.7.1 go away\n550 5.7.1 please")
	c.ask("MAIL FROM:<a@b.org>", "503")
	c.ask("EHLO good", "250-")
	c.ask("MAIL FROM:<internal@b.org>", "451 4.3.0 Local error, try again later")
	c.ask("MAIL FROM:<wrapped@b.org>", "452 4.3.1 disk full")
	c.send("MAIL FROM:<evil@b.org>\r\n")
	got, err := c.reply()
	if want := "550-5.1.0 no?250 yes??" + strings.Repeat("x", 467) + "\n550 5.1.0 xxx"; err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	c.ask("MAIL FROM:<a@b.org>", "250")
	c.ask("RCPT TO:<last@b.org>", "550 5.7.1 that was it")
	c.wantEnd()

	c = dial(t, s)
	c.want("220")
	c.script(`
		C: EHLO x
		S: 250-
		C: MAIL FROM:<a@b.org>
		S: 250
		C: RCPT TO:<busy@b.org>
		S: 421 4.0.0 later
		S.`)

	c = dial(t, s)
	c.want("220")
	c.ask("EHLO x", "250-")
	c.ask("MAIL FROM:<panic@b.org>", "421 4.3.0")
	c.wantEnd()
}

// A session that refuses a message is not given the rest, and what comes behind
// it is still read as commands where the message has ended as it should.
func TestRefusedMessage(t *testing.T) {
	h := &host{}
	h.data = func(_ context.Context, r io.Reader) (*Reply, error) {
		_, _ = io.ReadFull(r, make([]byte, 10))
		return nil, newReply(554, 5, 7, 1, "spam")
	}
	c := dial(t, serve(t, h, Mode{}))
	c.want("220")
	begin(c)
	c.send("DATA\r\n")
	c.want("354")
	c.send("%s\r\n.\r\nNOOP\r\n", strings.Repeat("0123456789\r\n", 20000))
	c.want("554 5.7.1 spam", "250 2.0.0 Done")
}

// Data may return any reply that answers a message, and end the connection with it
// also where the message was refused before.
func TestRepliesOfData(t *testing.T) {
	closing := newReply(554, 5, 7, 1, "go away").closing()
	for _, test := range []struct {
		reply *Reply
		err   error
		body  string
		want  string // a script
	}{
		{&Reply{Code: 251, Text: "fine"}, nil, "x", "S: 251 2.0.0 fine\nS: 250 2.0.0 Done"},
		{newReply(452, 4, 3, 1, "full"), nil, "x", "S: 452 4.3.1 full\nS: 250 2.0.0 Done"},
		{&Reply{Code: 354, Text: "go on"}, nil, "x", "S: 451 4.3.0\nS: 250 2.0.0 Done"},
		{&Reply{Text: "no code"}, nil, "x", "S: 451 4.3.0\nS: 250 2.0.0 Done"},
		{&Reply{Code: 600}, nil, "x", "S: 451 4.3.0\nS: 250 2.0.0 Done"},
		{nil, closing, "x", "S: 554 5.7.1 go away\nS."},
		{nil, closing, "x\x00", "S: 550 5.6.0\nS."},
		{&Reply{Code: 250, Close: true}, nil, "x\x00", "S: 550 5.6.0\nS."},
		{&Reply{Code: 250, Close: true}, nil, "x", "S: 250 2.0.0\nS."},
	} {
		h := &host{data: func(_ context.Context, r io.Reader) (*Reply, error) {
			_, _ = io.Copy(io.Discard, r)
			return test.reply, test.err
		}}
		c := dial(t, serve(t, h, Mode{}))
		c.want("220")
		begin(c)
		c.ask("DATA", "354")
		c.send("%s\r\n.\r\nNOOP\r\n", test.body)
		c.script(test.want)
	}
}

// A session that accepts a message without having read it.
func TestUnreadMessage(t *testing.T) {
	h := &host{}
	h.data = func(context.Context, io.Reader) (*Reply, error) { return nil, nil }
	s := serve(t, h, Mode{})
	c := dial(t, s)
	c.want("220")
	begin(c)
	c.script(`
		C: DATA
		S: 354
		C> "one\r\ntwo\r\n.\r\nNOOP\r\n"
		S: 250 2.0.0 Accepted
		S: 250 2.0.0 Done
		C: MAIL FROM:<a@b.org>
		S: 250
		C: RCPT TO:<a@b.org>
		S: 250
		C> "BDAT 5\r\none\r\nBDAT 4 LAST\r\ntwo\nNOOP\r\n"
		S: 250 2.0.0 5 bytes
		S: 550 5.6.11
		S.`)
}

// begin brings a connection to where a message may come.
func begin(c *client) {
	c.t.Helper()
	c.ask("EHLO x", "250-")
	c.ask("MAIL FROM:<a@b.org>", "250")
	c.ask("RCPT TO:<c@d.org>", "250")
}
