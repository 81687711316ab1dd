package smtpd

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/addr"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMessageSize(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{}, func(c *Config) { c.MaxMessageSize = 1000 })
	c := dial(t, s)
	c.want("220")
	c.script(`
		C: EHLO x
		S: 250-
		C: MAIL FROM:<a@b.org> SIZE=1001
		S: 552 5.3.4
		C: MAIL FROM:<a@b.org> SIZE=99999999999999999999
		S: 552 5.3.4
		C: MAIL FROM:<a@b.org> SIZE=1000
		S: 250
		C: RCPT TO:<c@d.org>
		S: 250
		C: DATA
		S: 354`)
	exact := strings.Repeat("x", 998) + "\r\n"
	c.send("%s.\r\n", exact)
	c.want("250")

	// One octet more, undeclared. The connection goes on if it keeps within
	// reason.
	c.script("C: MAIL FROM:<a@b.org>\nS: 250\nC: RCPT TO:<c@d.org>\nS: 250\nC: DATA\nS: 354")
	c.send("x%s.\r\nNOOP\r\n", exact)
	c.want("552 5.3.4", "250 2.0.0 Done")
	c.script("C: MAIL FROM:<a@b.org>\nS: 250\nC: RCPT TO:<c@d.org>\nS: 250\nC: DATA\nS: 354")
	c.send("%s\r\n", strings.Repeat("x", 5000))
	c.want("552 5.3.4")
	c.wantEnd()

	// In chunks.
	c = dial(t, s)
	c.want("220")
	begin(c)
	c.send("BDAT 600\r\n%sBDAT 401 LAST\r\n%sBDAT 1 LAST\r\nxNOOP\r\n", strings.Repeat("x", 600), strings.Repeat("x", 401))
	c.want("250", "552 5.3.4", "503 5.5.1", "250 2.0.0 Done")
	c.script("C: MAIL FROM:<a@b.org>\nS: 250\nC: RCPT TO:<c@d.org>\nS: 250")
	c.send("BDAT 99999 LAST\r\n%s", strings.Repeat("x", 5000))
	c.want("552 5.3.4")
	c.wantEnd()

	if got := h.accepted(); len(got) != 1 || got[0] != exact {
		t.Errorf("accepted %d messages", len(got))
	}
}

func TestMaxRecipients(t *testing.T) {
	c := dial(t, serve(t, &host{}, Mode{}, func(c *Config) { c.MaxRecipients = 2 }))
	c.want("220")
	begin(c)
	c.script(`
		C: RCPT TO:<e@f.org>
		S: 250
		C: RCPT TO:<g@h.org>
		S: 452 4.5.3
		C: DATA
		S: 354
		C: .
		S: 250
		C: MAIL FROM:<a@b.org>
		S: 250
		C: RCPT TO:<e@f.org>
		S: 250`)
}

func TestMaxTransactions(t *testing.T) {
	h := &host{}
	c := dial(t, serve(t, h, Mode{}, func(c *Config) { c.MaxTransactions = 2 }))
	c.want("220")
	c.script(`
		C: EHLO x
		S: 250-
		C: MAIL FROM:<a@b.org>
		S: 250
		C: RSET
		S: 250
		C: MAIL FROM:<a@b.org>
		S: 250
		C: RSET
		S: 250
		C: MAIL FROM:<a@b.org>
		S: 421 4.7.0
		S.`)
	if !h.saw(TooManyMessages) {
		t.Error("there is no event")
	}
}

func TestMaxErrors(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{}, func(c *Config) { c.MaxErrors = 2 })
	c := dial(t, s)
	c.want("220")
	c.script(`
		C> "WHAT\r\nNO\r\nWHY\r\nNOOP\r\n"
		S: 500
		S: 500
		S: 500
		S: 421 4.7.0
		S.`)
	if !h.saw(TooManyErrors) {
		t.Error("there is no event")
	}
	// A message that is accepted makes up for them.
	c = dial(t, s)
	c.want("220")
	begin(c)
	c.script(`
		C> "WHAT\r\nNO\r\nDATA\r\n.\r\nWHAT\r\nNO\r\nNOOP\r\n"
		S: 500
		S: 500
		S: 354
		S: 250
		S: 500
		S: 500
		S: 250`)
}

func TestMaxCommands(t *testing.T) {
	h := &host{}
	s := serve(t, h, Mode{}, func(c *Config) { c.MaxCommands = 3 })
	c := dial(t, s)
	c.want("220")
	c.script(`
		C> "NOOP\r\nRSET\r\nNOOP\r\nNOOP\r\nNOOP\r\n"
		S: 250
		S: 250
		S: 250
		S: 421 4.7.0
		S.`)
	if !h.saw(TooManyCommands) {
		t.Error("there is no event")
	}
	c = dial(t, s)
	c.want("220")
	begin(c)
	for range 10 {
		c.ask("RCPT TO:<c@d.org>", "250")
	}
	c.script(`
		C> "BDAT 0\r\nBDAT 0\r\nBDAT 0\r\n"
		S: 250
		S: 250
		S: 421 4.7.0
		S.`)
}

// Recipients that are refused count: neither those beyond the limit nor those that
// the session defers can be tried forever.
func TestMaxRefusedRecipients(t *testing.T) {
	for _, limit := range []int{1, 1000} {
		h := &host{rcpt: func(to addr.Address) error {
			if to.Local == "later" {
				return newReply(450, 4, 7, 1, "later")
			}
			return nil
		}}
		s := serve(t, h, Mode{}, func(c *Config) { c.MaxRecipients, c.MaxCommands = limit, 5 })
		c := dial(t, s)
		c.want("220")
		begin(c) // two commands that count
		c.script(`
			C> "RCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nDATA\r\n"
			S: 45
			S: 45
			S: 45
			S: 354
			C: .
			S: 250
			C: MAIL FROM:<a@b.org>
			S: 250
			C: RCPT TO:<c@d.org>
			S: 250`)
		// Who is accepted is not lost by what comes behind.
		for range 50 {
			c.script(`
				C: RCPT TO:<later@d.org>
				S: 45`)
		}
		c.script(`
			C: DATA
			S: 354
			C: .
			S: 250
			C: MAIL FROM:<a@b.org>
			S: 250
			C> "RCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\nRCPT TO:<later@d.org>\r\n"
			S: 45
			S: 45
			S: 45
			S: 45
			S: 45
			S: 421 4.7.0
			S.`)
		if !h.saw(TooManyCommands) {
			t.Error("there is no event")
		}
	}
}

// A line without end is no reason to read on forever.
func TestEndlessLine(t *testing.T) {
	h := &host{}
	c := dial(t, serve(t, h, Mode{}))
	c.want("220")
	go func() { _, _ = io.Copy(c.conn, io.LimitReader(endless{}, 64<<20)) }()
	c.want("500 5.5.2")
	_, _ = io.Copy(io.Discard, c.r)
	if !h.saw(NoSMTP) {
		t.Error("there is no event")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestMaxConnections(t *testing.T) {
	for event, change := range map[Event]func(*Config){
		ServerFull:         func(c *Config) { c.MaxConnections = 2 },
		TooManyConnections: func(c *Config) { c.MaxConnectionsPerIP = 2 },
	} {
		h := &host{}
		s := serve(t, h, Mode{}, change)
		first, second, third := dial(t, s), dial(t, s), dial(t, s)
		first.want("220")
		second.want("220")
		third.want("421 4.")
		third.wantEnd()
		if !h.saw(event) {
			t.Errorf("there is no event %q", event)
		}
		first.ask("QUIT", "221")
		first.wantEnd()
		testenv.WaitFor(t, 20*time.Second, func() error {
			c := dial(t, s)
			defer c.conn.Close()
			if got, err := c.reply(); err != nil || !strings.HasPrefix(got, "220") {
				return fmt.Errorf("got %q, %v", got, err)
			}
			return nil
		})
	}
}

func TestClientIP(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:25":             "192.0.2.1",
		"[::ffff:192.0.2.1]:25":    "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::",
		"[fe80::1%eth0]:25":        "fe80::",
		"pipe":                     "invalid IP",
	} {
		if got := clientIP(addrOf(in)).String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
		if tcp, err := net.ResolveTCPAddr("tcp", in); err == nil && in != "pipe" {
			if got := clientIP(tcp).String(); got != want {
				t.Errorf("%s as TCP: got %s, want %s", in, got, want)
			}
		}
	}
	_ = clientIP(nil)
}

type addrOf string

func (addrOf) Network() string  { return "tcp" }
func (a addrOf) String() string { return string(a) }
