package smtpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

const letter = "Subject: hello\r\n\r\n.dot\r\n"

func TestSendPipelinesAndReports(t *testing.T) {
	testenv.Goroutines(t)
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("PIPELINING", "SIZE 1000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")
		// All commands are there before any is answered.
		for _, want := range []string{
			"MAIL FROM:<a@x.test> SIZE=24 BODY=8BITMIME RET=HDRS ENVID=id+20+2B",
			"RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+3Dc@y.test",
			"RCPT TO:<no@y.test>",
			"RCPT TO:<later@y.test>",
			"RCPT TO:<\"c d\"@y.test>",
			"DATA",
		} {
			if got := p.hear(); got != want {
				t.Errorf("the client said %q, not %q", got, want)
			}
		}
		p.say("250 ok", "250 ok", "550 5.1.1 no such user", "451 4.7.1 later", "250 ok", "354 go on")
		if got := p.content(); got != "Subject: hello\r\n\r\n..dot\r\n" {
			t.Errorf("the content is %q", got)
		}
		p.say("250 2.0.0 queued as 1")
		p.want("QUIT", "221 bye")
	})))
	env := Envelope{From: "a@x.test", Size: 24, EightBit: true, Ret: "HDRS", EnvID: "id +", To: []Rcpt{
		{Addr: "b@y.test", Notify: []string{"SUCCESS", "DELAY"}, ORcpt: "rfc822;b=c@y.test"},
		{Addr: "no@y.test"}, {Addr: "later@y.test"}, {Addr: `"c d"@y.test`}}}
	result, err := c.Send(t.Context(), env, strings.NewReader(letter))
	want := `b@y.test delivered end 250, no@y.test permanent rcpt 550, later@y.test temporary rcpt 451, "c d"@y.test delivered end 250`
	if got := outcome(result); got != want || err != nil {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
	if r := result.Recipients[1].Reply; r.Enhanced != "5.1.1" || r.Text() != "no such user" {
		t.Errorf("the refusal is %q", r)
	}
	if err := c.Quit(t.Context()); err != nil || c.Usable() {
		t.Errorf("after QUIT: %v, usable %v", err, c.Usable())
	}
}

func TestSendWithoutPipelining(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("SIZE")
		p.want("MAIL FROM:<>", "250 ok")
		p.want("RCPT TO:<b@y.test>", "550 no")
		p.want("RCPT TO:<c@y.test>", "250 ok")
		p.want("DATA", "354 go on")
		p.content()
		p.say("452 4.3.1 full")
		// The next message needs no RSET, as the transaction has ended.
		p.want("MAIL FROM:<a@x.test>", "550 5.7.1 not you")
		// Now it does; and no recipient means no DATA.
		p.want("RSET", "250 ok")
		p.want("MAIL FROM:<>", "250 ok")
		p.want("RCPT TO:<d@y.test>", "550 no")
		p.want("RSET", "250 ok")
		p.want("NOOP", "250 ok")
	})))
	for _, step := range []struct{ from, to, want string }{
		{"", "b@y.test,c@y.test", "b@y.test permanent rcpt 550, c@y.test temporary end 452"},
		{"a@x.test", "b@y.test,c@y.test", "b@y.test permanent mail 550, c@y.test permanent mail 550"},
		{"", "d@y.test", "d@y.test permanent rcpt 550"},
	} {
		result, err := c.Send(t.Context(), Envelope{From: step.from, To: to(strings.Split(step.to, ",")...)}, strings.NewReader(letter))
		if got := outcome(result); got != step.want || err != nil {
			t.Errorf("%s, %v; want %s", got, err, step.want)
		}
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Noop(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whose answers have got out of step is not asked again.
func TestOneReplyTooMany(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello()
		p.want("MAIL", "250 ok")
		p.want("RCPT", "250 ok")
		p.want("DATA", "354 go on")
		p.content()
		p.say("250 taken", "250 taken")
		p.closed()
	})))
	result, err := c.Send(t.Context(), Envelope{To: to("b@y.test")}, strings.NewReader(letter))
	if got := outcome(result); got != "b@y.test delivered end 250" || err != nil || c.Usable() {
		t.Errorf("%s, %v, usable %v", got, err, c.Usable())
	}
}

// A server that wants content for nobody gets none (RFC 2920 section 3.1).
func TestNobodyIsAccepted(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("PIPELINING")
		p.want("MAIL", "250 ok")
		p.want("RCPT", "550 no")
		p.want("DATA", "354 go on")
		if got := p.content(); got != "" {
			t.Errorf("content for nobody: %q", got)
		}
		p.say("554 no valid recipients")
		p.want("RSET", "250 ok")
		p.want("MAIL", "451 busy")
		p.want("RCPT", "503 need MAIL")
		p.want("DATA", "503 need RCPT")
	})))
	for _, want := range []string{"b@y.test permanent rcpt 550", "b@y.test temporary mail 451"} {
		result, err := c.Send(t.Context(), Envelope{To: to("b@y.test")}, strings.NewReader(letter))
		if got := outcome(result); got != want || err != nil {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

// Many recipients go out in batches, so that two full buffers never wait for
// each other.
func TestBatches(t *testing.T) {
	const n = 1000
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("PIPELINING")
		p.want("MAIL", "250 ok")
		for i := range n {
			p.want("RCPT")
			if i == 0 { // what comes without an answer
				var unanswered [2 * maxBatch]byte
				p.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				got, _ := io.ReadFull(p.r, unanswered[:])
				p.conn.SetReadDeadline(time.Now().Add(time.Minute))
				if got > maxBatch {
					t.Errorf("%d bytes came at once", got)
				}
				p.r = bufio.NewReader(io.MultiReader(bytes.NewReader(unanswered[:got]), p.conn))
			}
			p.say("250 " + strings.Repeat("x", 400))
		}
		p.want("DATA", "354 go on")
		p.content()
		p.say("250 ok")
	})))
	env := Envelope{}
	for range n {
		env.To = append(env.To, Rcpt{Addr: strings.Repeat("u", 60) + "@y.test"})
	}
	result, err := c.Send(t.Context(), env, strings.NewReader(letter))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range result.Recipients {
		if r.Status != Delivered {
			t.Fatal(outcome(result))
		}
	}
}

func TestLMTP(t *testing.T) {
	script := func(end func(p *peer)) func(p *peer) {
		return func(p *peer) {
			p.say("220 peer.test LMTP")
			p.want("LHLO client.test", "250-peer.test", "250 PIPELINING")
			p.want("MAIL", "250 ok")
			p.want("RCPT TO:<b@y.test>", "250 ok")
			p.want("RCPT TO:<c@y.test>", "550 no")
			p.want("RCPT TO:<d@y.test>", "250 ok")
			p.want("DATA", "354 go on")
			p.content()
			end(p)
		}
	}
	for name, test := range map[string]struct {
		end  func(p *peer)
		want string
		ends Status
	}{
		"answers for each":    {func(p *peer) { p.say("250 ok", "452 4.2.2 full") }, "b@y.test delivered end 250, c@y.test permanent rcpt 550, d@y.test temporary end 452", 0},
		"breaks off between":  {func(p *peer) { p.say("250 ok") }, "b@y.test delivered end 250, c@y.test permanent rcpt 550, d@y.test unknown end 0", Unknown},
		"takes leave between": {func(p *peer) { p.say("250 ok", "421 bye") }, "b@y.test delivered end 250, c@y.test permanent rcpt 550, d@y.test temporary end 421", 0},
		"takes leave at once": {func(p *peer) { p.say("421 bye") }, "b@y.test temporary end 421, c@y.test permanent rcpt 550, d@y.test temporary end 421", Temporary},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(listen(t, script(test.end)))
			cfg.LMTP = true
			c := dial(t, cfg)
			result, err := c.Send(t.Context(), Envelope{To: to("b@y.test", "c@y.test", "d@y.test")}, strings.NewReader(letter))
			if got := outcome(result); got != test.want {
				t.Errorf("%s\nwant %s", got, test.want)
			}
			var e *Error
			if errors.As(err, &e) != (test.ends != 0) || e != nil && e.Status != test.ends {
				t.Errorf("the dialogue ended with %v", err)
			}
		})
	}
}

// What the server would have to be able to do, and cannot, is a refusal for
// good, and nothing is sent.
func TestWhatServersLack(t *testing.T) {
	for name, test := range map[string]struct {
		env      Envelope
		code     int
		enhanced string
	}{
		"8BITMIME":              {Envelope{EightBit: true}, 554, "5.6.3"},
		"SMTPUTF8 in header":    {Envelope{UTF8: true}, 554, "5.6.9"},
		"SMTPUTF8 in sender":    {Envelope{UTF8: true, From: "é@x.test"}, 553, "5.6.7"},
		"SMTPUTF8 in recipient": {Envelope{UTF8: true, To: to("é@x.test")}, 553, "5.6.7"},
		"size":                  {Envelope{Size: 1001}, 552, "5.3.4"},
		"TLS":                   {Envelope{RequireTLS: true}, 550, "5.7.10"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, config(listen(t, func(p *peer) {
				p.hello("SIZE 1000")
				p.want("NOOP", "250 ok")
			})))
			if test.env.To == nil {
				test.env.To = to("b@y.test")
			}
			result, err := c.Send(t.Context(), test.env, strings.NewReader(letter))
			e := wantError(t, err, PhaseMail, Permanent, test.code)
			if e.Reply.Enhanced != test.enhanced || result.Recipients[0].Reply.Enhanced != test.enhanced {
				t.Errorf("the code is %s, not %s", e.Reply.Enhanced, test.enhanced)
			}
			if err := c.Noop(t.Context()); err != nil {
				t.Error("the connection is lost:", err)
			}
		})
	}
}

// No address can be more than one argument of one command.
func TestAddressesCannotInject(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("PIPELINING", "DSN")
		p.want("NOOP", "250 ok")
	})))
	for _, addr := range []string{
		"a@x.test>\r\nRCPT TO:<b@y.test", "a@x.test> NOTIFY=NEVER", "a b@x.test", "a@x.test\n", "a\x00@x.test", "<a@x.test>", "a@x.test>",
		`"a@x.test`, `"a\`, `"a` + "\r" + `"@x.test`, `"a\` + "\n" + `"@x.test`, "é@x.test", strings.Repeat("a", 2000), `"a">b"@x.test`,
	} {
		_, err := c.Send(t.Context(), Envelope{From: addr, To: to("b@y.test")}, strings.NewReader(letter))
		wantError(t, err, PhaseMail, Permanent, 553)
		result, err := c.Send(t.Context(), Envelope{To: to(addr)}, strings.NewReader(letter))
		wantError(t, err, PhaseRcpt, Permanent, 0)
		if got := result.Recipients[0]; got.Status != Permanent || got.Reply.Code != 553 {
			t.Errorf("%q: %+v", addr, got)
		}
	}
	for _, env := range []Envelope{
		{Ret: "FULL\r\nDATA", To: to("b@y.test")},
		{To: []Rcpt{{Addr: "b@y.test", Notify: []string{"NEVER ORCPT=x"}}}},
		{To: to("")},
		{},
	} {
		if _, err := c.Send(t.Context(), env, strings.NewReader(letter)); err == nil {
			t.Errorf("%+v went out", env)
		}
	}
	if err := c.Noop(t.Context()); err != nil {
		t.Error("something else was sent:", err)
	}
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@x.test", `"a b"@x.test`, `"a\"> <"@x.test`, "a> b", "é@x.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		if checkAddress(addr, true) != nil {
			return
		}
		if strings.ContainsAny(addr, "\r\n\x00") {
			t.Fatalf("%q passed", addr)
		}
		// Read <addr> as a server does: the path ends at the first '>' outside
		// of quotes.
		quoted, end := false, -1
		for i, line := 0, addr+"> X"; i < len(line); i++ {
			if line[i] == '\\' && quoted {
				i++
			} else if line[i] == '"' {
				quoted = !quoted
			} else if line[i] == '>' && !quoted {
				end = i
				break
			}
		}
		if end != len(addr) {
			t.Fatalf("%q ends at %d", addr, end)
		}
	})
}

// Where the connection breaks decides what is known of the message.
func TestLostConnections(t *testing.T) {
	upTo := func(n int, end func(p *peer)) func(p *peer) {
		return func(p *peer) {
			steps := []func(){
				func() { p.say("220 peer.test") },
				func() { p.ehlo("X-NONE") },
				func() { p.want("MAIL", "250 ok") },
				func() { p.want("RCPT", "250 ok") },
				func() { p.want("DATA", "354 go on") },
				func() { p.content() },
			}
			for _, step := range steps[:n] {
				step()
			}
			end(p)
		}
	}
	hear := func(p *peer) { p.hear() }
	kinds := map[string]func(read func(*peer)) func(p *peer){
		"closed": func(read func(*peer)) func(p *peer) { return func(p *peer) { read(p) } },
		"silent": func(read func(*peer)) func(p *peer) { return func(p *peer) { read(p); p.closed() } },
		"421":    func(read func(*peer)) func(p *peer) { return func(p *peer) { read(p); p.say("421 4.3.2 closing") } },
		"garbage": func(read func(*peer)) func(p *peer) {
			return func(p *peer) { read(p); p.say("HTTP/1.1 400 Bad Request"); p.closed() }
		},
		"endless": func(read func(*peer)) func(p *peer) {
			return func(p *peer) {
				read(p)
				for {
					if _, err := io.WriteString(p.conn, "250-more\r\n"); err != nil {
						return
					}
				}
			}
		},
	}
	nothing := func(*peer) {}
	for i, step := range []struct {
		phase Phase
		read  func(*peer)
	}{{PhaseGreeting, nothing}, {PhaseHello, hear}, {PhaseMail, hear}, {PhaseRcpt, hear}, {PhaseData, hear}, {PhaseContent, nothing}, {PhaseEnd, nothing}} {
		if step.phase == PhaseContent {
			continue // below
		}
		n := i
		if step.phase == PhaseEnd {
			n = 6
		}
		for kind, end := range kinds {
			t.Run(string(step.phase)+" "+kind, func(t *testing.T) {
				t.Parallel()
				cfg := config(listen(t, upTo(n, end(step.read))))
				if kind == "silent" {
					short := 200 * time.Millisecond
					switch step.phase {
					case PhaseGreeting:
						cfg.Timeouts.Greeting = short
					case PhaseHello:
						cfg.Timeouts.Command = short
					case PhaseMail:
						cfg.Timeouts.Mail = short
					case PhaseRcpt:
						cfg.Timeouts.Rcpt = short
					case PhaseData:
						cfg.Timeouts.Data = short
					case PhaseEnd:
						cfg.Timeouts.End = short
					}
				}
				status, code := Temporary, 0
				switch {
				case kind == "421":
					code = 421
				case step.phase == PhaseEnd:
					status = Unknown
				}
				c, err := Dial(t.Context(), cfg)
				if err == nil {
					defer c.Close()
					var result Result
					result, err = c.Send(t.Context(), Envelope{To: to("b@y.test")}, strings.NewReader(letter))
					if got := result.Recipients[0]; got.Status != status || got.Phase != step.phase {
						t.Errorf("the recipient: %s", outcome(result))
					}
					if c.Usable() {
						t.Error("the connection is taken to be usable")
					}
				}
				if kind == "421" && step.phase == PhaseEnd { // all is decided
					if err != nil {
						t.Error(err)
					}
					return
				}
				wantError(t, err, step.phase, status, code)
			})
		}
	}
}

// A server that has enough in the middle of the content can say why.
func TestRefusalWithinContent(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello()
		p.want("MAIL", "250 ok")
		p.want("RCPT", "250 ok")
		p.want("DATA", "354 go on")
		p.hear()
		p.say("552 5.3.4 enough")
		p.conn.(interface{ CloseRead() error }).CloseRead() // resets what comes
	})))
	endless := io.MultiReader(strings.NewReader("A: b\r\n\r\n"), repeat(strings.Repeat("x", 70)+"\r\n"))
	result, err := c.Send(t.Context(), Envelope{To: to("b@y.test")}, endless)
	var e *Error
	if !errors.As(err, &e) || e.Phase != PhaseContent || e.Status == Unknown {
		t.Fatal(err)
	}
	// Where the reset comes first, the reply is gone.
	if e.Reply.Code != 0 && (e.Reply.Code != 552 || e.Status != Permanent) {
		t.Errorf("%v, %s", err, outcome(result))
	}
}

// repeat is s without end.
func repeat(s string) io.Reader { return &repeater{s: s} }

type repeater struct {
	s  string
	at int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := copy(p, r.s[r.at:])
	r.at = (r.at + n) % len(r.s)
	return n, nil
}

// Whatever ends the content early, the server must not take what it has for all.
func TestUnfinishedContentHasNoEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	broken := errors.New("disk")
	for name, test := range map[string]struct {
		ctx     context.Context
		content io.Reader
		cause   error
		status  Status
	}{
		"source fails": {t.Context(), io.MultiReader(strings.NewReader("a\r\n"), iotest.ErrReader(broken)), broken, Temporary},
		"bare LF":      {t.Context(), strings.NewReader("a\r\nb\n.\n"), ErrBareNewline, Permanent},
		"context ends": {ctx, io.MultiReader(strings.NewReader("a\r\n"), readerFunc(func([]byte) (int, error) { cancel(); <-ctx.Done(); return 0, ctx.Err() })), context.Canceled, Temporary},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan string, 1)
			c := dial(t, config(listen(t, func(p *peer) {
				p.hello()
				p.want("MAIL", "250 ok")
				p.want("RCPT", "250 ok")
				p.want("DATA", "354 go on")
				b, _ := io.ReadAll(p.r)
				seen <- string(b)
			})))
			_, err := c.Send(test.ctx, Envelope{To: to("b@y.test")}, test.content)
			e := wantError(t, err, PhaseContent, test.status, map[Status]int{Permanent: 550}[test.status])
			if !errors.Is(e, test.cause) || c.Usable() {
				t.Errorf("%v, usable %v", err, c.Usable())
			}
			c.Close()
			if got := <-seen; strings.HasSuffix(got, "\r\n.\r\n") || got == ".\r\n" {
				t.Errorf("the server has seen an end: %q", got)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A context ends what waits.
func TestContextEndsSend(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello()
		p.want("MAIL")
		cancel()
		p.closed()
	})))
	_, err := c.Send(ctx, Envelope{To: to("b@y.test")}, strings.NewReader(letter))
	if e := wantError(t, err, PhaseMail, Temporary, 0); !errors.Is(e, context.Canceled) {
		t.Error(err)
	}
	c.Close()
	if _, err := Dial(ctx, config(listen(t))); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Step by step, the next hop's answers come through as they are.
func TestSteps(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.hello("PIPELINING", "8BITMIME")
		p.want("MAIL FROM:<a@x.test> BODY=8BITMIME", "250 2.1.0 sender fine")
		p.want("RCPT TO:<no@y.test>", "550-5.1.1 no", "550 5.1.1 such user")
		p.want("RCPT TO:<b@y.test>", "251 2.1.5 will forward")
		p.want("DATA", "354 go on")
		p.content()
		p.say("554 5.7.1 spam")
		p.want("MAIL", "250 ok")
		p.want("RCPT", "452 4.5.3 too many")
		p.want("RSET", "250 ok")
		p.want("MAIL", "550 no")
	})))
	ctx := t.Context()
	reply, err := c.Mail(ctx, Envelope{From: "a@x.test", EightBit: true})
	if err != nil || reply.String() != "250 2.1.0 sender fine" {
		t.Error(reply, err)
	}
	reply, err = c.Rcpt(ctx, Rcpt{Addr: "no@y.test"}, false)
	wantError(t, err, PhaseRcpt, Permanent, 550)
	if reply.Code != 550 || reply.Enhanced != "5.1.1" || len(reply.Lines) != 2 {
		t.Errorf("%+v", reply)
	}
	if _, err := c.Data(ctx, strings.NewReader(letter)); err == nil {
		t.Error("DATA without a recipient")
	}
	reply, err = c.Rcpt(ctx, Rcpt{Addr: "b@y.test"}, false)
	if err != nil || reply.Code != 251 {
		t.Error(reply, err)
	}
	replies, err := c.Data(ctx, strings.NewReader(letter))
	if err != nil || len(replies) != 1 || replies[0].String() != "554 5.7.1 spam" {
		t.Error(replies, err)
	}
	if reply, err := c.Mail(ctx, Envelope{}); err != nil || reply.Code != 250 {
		t.Error(reply, err)
	}
	if reply, err := c.Rcpt(ctx, Rcpt{Addr: "b@y.test"}, false); err == nil || reply.Code != 452 {
		t.Error(reply, err)
	}
	if reply, err := c.Mail(ctx, Envelope{UTF8: true}); err == nil || reply.Enhanced != "5.6.9" {
		t.Error(reply, err)
	}
	if reply, err := c.Mail(ctx, Envelope{}); err == nil || reply.Code != 550 {
		t.Error(reply, err)
	}
}
