package smtpd

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// body is a message on its way in: after DATA, or in the chunks of BDAT.
type body interface {
	io.Reader
	// drain reads what belongs to a message that nobody wants.
	drain()
	state() *intake
}

// intake is what both kinds of body have in common.
type intake struct {
	g       *guard
	size    int64         // of the message so far
	waiting time.Duration // for the client, without what its bytes since have made up for
	err     error         // what the session is told; io.EOF is the only good end
	refusal *Reply        // what the client is told instead of what the session says
	over    bool          // nothing of the message is still to come
	aborted bool          // by another command: there is nobody to tell
}

func (t *intake) state() *intake { return t }

// fail ends the body without a message. What ends the connection too has
// precedence: an end of the message that was not found must never be forgotten.
func (t *intake) fail(r *Reply) error {
	if t.refusal == nil || r.ends() && !t.refusal.ends() {
		t.refusal = r
	}
	t.err = r
	return r
}

// complete ends the body well. From now on the session works.
func (t *intake) complete() {
	t.err = io.EOF
	t.g.startWatch()
}

// lose ends the connection with the body, whose end will not be found.
func (t *intake) lose(r *Reply) error {
	t.over = true
	return t.fail(r.closing())
}

// fill reads on. The client has DataTimeout for that, less what it has fallen behind
// MinDataRate before.
func (t *intake) fill() error {
	start := time.Now()
	err := t.g.fill(start.Add(t.allowance()), false)
	t.waiting += time.Since(start)
	return t.check(err)
}

func (t *intake) check(err error) error {
	switch {
	case err == nil && t.allowance() > 0:
		return nil
	case err == nil || errors.Is(err, errTimeout):
		t.g.event(TimedOut, nil)
		if t.refusal != nil {
			verdict := *t.refusal // which the client need not come back for
			return t.lose(&verdict)
		}
		return t.lose(newReply(421, 4, 4, 2, "The message takes too long"))
	}
	_ = t.lose(newReply(421, 4, 4, 2, "The connection broke"))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	t.err = err
	t.g.cancel(errHungUp)
	return err
}

func (t *intake) allowance() time.Duration {
	cfg := &t.g.server.cfg
	if cfg.MinDataRate < 0 {
		return cfg.DataTimeout
	}
	return cfg.DataTimeout - t.waiting
}

// use takes bytes out of the buffer, wanted or not. They make up for the wait, but
// save up no time for later.
func (t *intake) use(n int) {
	t.g.in.r += n
	if rate := t.g.server.cfg.MinDataRate; rate > 0 && t.waiting > 0 {
		t.waiting = max(0, t.waiting-time.Duration(n)*time.Second/time.Duration(rate))
	}
}

// grow counts bytes of the message.
func (t *intake) grow(n int) error {
	if t.size += int64(n); t.size > t.g.server.cfg.MaxMessageSize && t.refusal == nil {
		return t.fail(newReply(552, 5, 3, 4, "Message too large"))
	}
	return nil
}

// hold refuses what would not be the same message everywhere.
func (t *intake) hold(bad badBytes) error {
	switch bad {
	case bareNewline:
		if t.refusal == nil || !t.refusal.ends() {
			t.g.event(BareNewline, nil)
		}
		return t.fail(newReply(550, 5, 6, 11, "The message has a bare CR or LF").closing())
	case nulByte:
		return t.fail(newReply(550, 5, 6, 0, "The message has a NUL"))
	}
	return nil
}

// ends says whether a session wants the connection to end.
func ends(reply *Reply, err error) bool {
	if err != nil {
		var refusal *Reply
		if errors.As(err, &refusal) && refusal != nil {
			return refusal.ends()
		}
	}
	return reply != nil && reply.ends()
}

// receive gives the message to the session and returns the reply.
func (g *guard) receive() *Reply {
	g.in.enlarge(g.server)
	var b body = &dotBody{intake: intake{g: g}, lineStart: true}
	if g.chunk != nil {
		b = &chunkBody{intake: intake{g: g}, chunk: *g.chunk}
		g.chunk = nil
	}
	g.receiving = true
	defer func() { g.receiving = false }()
	t := b.state()

	var reply *Reply
	err := func() (err error) {
		defer g.rescue("Data", &err)
		reply, err = g.session.Data(g.ctx, b)
		return err
	}()
	if err == nil && t.err == nil {
		_, _ = io.Copy(io.Discard, b) // it must be complete even so
	}
	if t.err == io.EOF {
		g.stopWatch()
	}
	if err != nil && t.refusal == nil && !t.aborted {
		t.refusal = g.localError(err, "Data")
	}
	ends := ends(reply, err)
	if !t.aborted && !g.ended && !ends {
		b.drain()
	}
	switch {
	case t.aborted:
		g.stage.mute = true
		return newReply(451, 4, 0, 0, "Aborted")
	case t.refusal != nil && ends:
		refusal := *t.refusal
		return refusal.closing()
	case t.refusal != nil:
		return t.refusal
	case reply == nil:
		reply = &Reply{Code: 250, Text: "Accepted"}
	case reply.Code < 200 || reply.Code/100 == 3 || reply.Code > 599:
		return g.localError(fmt.Errorf("a reply to a message cannot have the code %d", reply.Code), "Data")
	}
	if reply.Code < 300 {
		g.commands, g.errors = 0, 0
	}
	return reply
}
