package smtpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// chunk reads a chunk.
func (p *peer) chunk() (data string, last bool) {
	var n int
	var word string
	line := p.hear()
	if _, err := fmt.Sscanf(line, "BDAT %d %s", &n, &word); n == 0 && err != nil && line != "BDAT 0 LAST" {
		p.t.Errorf("the client said %q", line)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(p.r, buf); err != nil {
		p.t.Error(err)
	}
	return string(buf), word == "LAST"
}

func (p *peer) envelope() {
	p.hello("PIPELINING", "CHUNKING", "8BITMIME")
	p.want("MAIL", "250 ok")
	p.want("RCPT", "250 ok")
}

func TestChunks(t *testing.T) {
	testenv.Goroutines(t)
	long := "Subject: long\r\n\r\n" + strings.Repeat(".......\r\n", 3*chunkSize/9)
	for name, test := range map[string]struct {
		content, want string
	}{
		"short":           {letter, letter},
		"empty":           {"", ""},
		"without newline": {"a: b\r\n\r\nc", "a: b\r\n\r\nc\r\n"},
		"one chunk":       {long[:chunkSize-2] + "\r\n", long[:chunkSize-2] + "\r\n"},
		"one more byte":   {long[:chunkSize-1] + "\r\n", long[:chunkSize-1] + "\r\n"},
		"many":            {long, long},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(listen(t, func(p *peer) {
				p.envelope()
				var got strings.Builder
				for {
					data, last := p.chunk()
					got.WriteString(data)
					if last {
						break
					}
					p.say("250 chunk")
				}
				if got.String() != test.want {
					t.Errorf("%d bytes, not %d", got.Len(), len(test.want))
				}
				p.say("250 2.0.0 taken")
				p.want("MAIL", "550 5.7.1 no") // no RSET
				p.want("RCPT", "503 no")
				p.want("QUIT", "221 bye")
			}))
			cfg.Chunking = true
			c := dial(t, cfg)
			for _, want := range []string{"b@y.test delivered end 250", "b@y.test permanent mail 550"} {
				result, err := c.Send(t.Context(), Envelope{To: to("b@y.test")}, strings.NewReader(test.content))
				if got := outcome(result); got != want || err != nil {
					t.Errorf("%s, %v; want %s", got, err, want)
				}
			}
			if err := c.Quit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChunksEnd(t *testing.T) {
	broken := errors.New("disk")
	long := strings.Repeat("xxxxxxx\r\n", 20*chunkSize/9)
	for name, test := range map[string]struct {
		script  func(p *peer)
		content io.Reader
		want    string
		status  Status // of the error; 0: none
	}{
		"refused": {func(p *peer) {
			p.chunk()
			p.say("552 5.3.4 too much")
			for { // what was on its way
				line := p.hear()
				if line == "RSET" {
					break
				}
				var n int
				fmt.Sscanf(line, "BDAT %d", &n)
				io.CopyN(io.Discard, p.r, int64(n))
				p.say("503 5.5.1 RSET first")
			}
			p.say("250 ok")
		}, strings.NewReader(long), "b@y.test permanent end 552", 0},
		"refused at last": {func(p *peer) { p.chunk(); p.say("554 5.7.1 spam"); p.want("NOOP", "250 ok") }, strings.NewReader(letter), "b@y.test permanent end 554", 0},
		"421":             {func(p *peer) { p.chunk(); p.say("421 4.3.2 bye") }, strings.NewReader(long), "b@y.test temporary content 421", Temporary},
		"breaks off":      {func(p *peer) { p.chunk() }, strings.NewReader(long), "b@y.test temporary content 0", Temporary},
		"no last answer":  {func(p *peer) { p.chunk() }, strings.NewReader(letter), "b@y.test unknown end 0", Unknown},
		"source fails":    {func(p *peer) { p.nothing() }, io.MultiReader(strings.NewReader("a\r\n"), iotest.ErrReader(broken)), "b@y.test temporary content 0", Temporary},
		"bare LF":         {func(p *peer) { p.nothing() }, strings.NewReader("a\r\nb\n"), "b@y.test permanent content 550", Permanent},
		"bare CR at last": {func(p *peer) { p.nothing() }, strings.NewReader("a\r"), "b@y.test permanent content 550", Permanent},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(listen(t, func(p *peer) {
				p.envelope()
				test.script(p)
			}))
			cfg.Chunking = true
			c := dial(t, cfg)
			result, err := c.Send(t.Context(), Envelope{To: to("b@y.test")}, test.content)
			var e *Error
			if got := outcome(result); got != test.want || errors.As(err, &e) != (test.status != 0) || e != nil && e.Status != test.status {
				t.Errorf("%s, %v", got, err)
			}
			if c.Usable() != (test.status == 0) {
				t.Errorf("usable: %v", c.Usable())
			}
			if name == "refused" {
				err = c.Reset(t.Context())
			} else if c.Usable() {
				err = c.Noop(t.Context())
			}
			if c.Usable() && err != nil {
				t.Error(err)
			}
		})
	}
}

// nothing waits for the end of the connection, before which nothing may come.
func (p *peer) nothing() {
	if b, _ := io.ReadAll(p.r); len(b) > 0 {
		p.t.Errorf("%.60q", b)
	}
}

// With LMTP there is a reply for each recipient, and step by step it works too.
func TestChunksByStep(t *testing.T) {
	cfg := config(listen(t, func(p *peer) {
		p.say("220 peer.test LMTP")
		p.want("LHLO client.test", "250-peer.test", "250 CHUNKING")
		p.want("MAIL", "250 ok")
		p.want("RCPT", "250 ok")
		p.want("RCPT", "250 ok")
		if data, last := p.chunk(); data != letter || !last {
			t.Errorf("%q, %v", data, last)
		}
		p.say("250 2.0.0 ok", "452 4.2.2 full")
	}))
	cfg.LMTP, cfg.Chunking = true, true
	c := dial(t, cfg)
	if _, err := c.Mail(t.Context(), Envelope{}); err != nil {
		t.Fatal(err)
	}
	for _, rcpt := range to("b@y.test", "c@y.test") {
		if _, err := c.Rcpt(t.Context(), rcpt, false); err != nil {
			t.Fatal(err)
		}
	}
	replies, err := c.Data(t.Context(), bytes.NewReader([]byte(letter)))
	if err != nil || len(replies) != 2 || replies[0].Code != 250 || replies[1].Code != 452 {
		t.Error(replies, err)
	}
}

func TestLimits(t *testing.T) {
	for params, want := range map[string]Limits{
		"LIMITS":                              {},
		"LIMITS RCPTMAX=20 MAILMAX=5 X=7":     {MailMax: 5, RcptMax: 20},
		"LIMITS rcptmax=1":                    {RcptMax: 1},
		"LIMITS RCPTMAX=0 MAILMAX=-1":         {},
		"LIMITS RCPTMAX=x MAILMAX RCPTMAX2=3": {},
		"LIMITS RCPTMAX=12345678":             {},
		"SIZE":                                {},
	} {
		c := dial(t, config(listen(t, func(p *peer) { p.hello(params) })))
		if got := c.Limits(); got != want {
			t.Errorf("%s: %+v", params, got)
		}
	}
}

func TestIdle(t *testing.T) {
	testenv.Goroutines(t)
	for name, end := range map[string]func(p *peer){
		"closed": func(p *peer) {},
		"421":    func(p *peer) { p.say("421 4.4.2 idle"); p.closed() },
	} {
		t.Run(name, func(t *testing.T) {
			more := make(chan struct{})
			c := dial(t, config(listen(t, func(p *peer) {
				p.hello()
				p.want("NOOP", "250 ok")
				<-more
				end(p)
			})))
			// It is good for more after it was idle.
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- c.Idle(ctx) }()
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := c.Noop(t.Context()); err != nil {
				t.Fatal(err)
			}
			close(more)
			wantError(t, c.Idle(t.Context()), PhaseOther, Temporary, 0)
			if c.Usable() {
				t.Error("it is said to be usable")
			}
			wantError(t, c.Idle(t.Context()), PhaseOther, Temporary, 0)
		})
	}
}
