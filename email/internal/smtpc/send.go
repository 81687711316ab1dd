package smtpc

import (
	"context"
	"errors"
	"io"
)

// Result is what became of a message, for each recipient.
type Result struct {
	// Recipients are in the order of [Envelope.To].
	Recipients []RcptResult
	// TLS describes the TLS that was used; nil means that there was none.
	TLS *TLSState
}

// RcptResult is what became of a message for one recipient.
type RcptResult struct {
	Addr   string
	Status Status
	// Phase is where that was decided.
	Phase Phase
	// Reply is what the server said to it, if it did.
	Reply Reply
	// Err is the reason beside or instead of a reply, as [Error.Err].
	Err error
}

// Send makes one transaction, with the commands pipelined as far as the server
// allows it. The result has an entry for each recipient, whatever happens. The
// error is nil if the server has decided on each of them; otherwise it is the
// [*Error] that ended the dialogue, which the entries of those that were not
// decided by then repeat.
func (c *Conn) Send(ctx context.Context, env Envelope, content io.Reader) (Result, error) {
	t := &transaction{c: c, result: Result{TLS: c.tls, Recipients: make([]RcptResult, len(env.To))}}
	for i, to := range env.To {
		t.result.Recipients[i].Addr = to.Addr
	}
	err := c.during(ctx, func(ctx context.Context) error { return t.run(ctx, env, content) })
	var e *Error
	if errors.As(err, &e) {
		t.decideRest(e)
	}
	return t.result, err
}

// transaction is one under way.
type transaction struct {
	c      *Conn
	result Result
	// asked has the index of the recipient of each RCPT that is sent.
	asked []int
	// accepted has the index of each recipient that the server will take mail
	// for.
	accepted []int
	// data says that DATA is among the commands.
	data bool
}

func (t *transaction) decide(i int, e *Error) {
	if r := &t.result.Recipients[i]; r.Status == 0 {
		r.Status, r.Phase, r.Reply, r.Err = e.Status, e.Phase, e.Reply, e.Err
	}
}

// decideRest gives all that are not decided the same end.
func (t *transaction) decideRest(e *Error) {
	for i := range t.result.Recipients {
		t.decide(i, e)
	}
}

func (t *transaction) run(ctx context.Context, env Envelope, content io.Reader) error {
	commands, err := t.commands(env)
	if err != nil {
		return err
	}
	if err := t.c.clear(ctx); err != nil {
		return err
	}
	t.c.started = true
	data, err := t.exchange(ctx, commands)
	if err != nil {
		return err
	}
	switch {
	case len(t.accepted) == 0 && data.Code != 354:
		return nil // all are decided
	case len(t.accepted) == 0:
		return t.sendNothing(ctx)
	}
	if t.data {
		if err := t.c.mayContinue(data); err != nil {
			var e *Error
			if errors.As(err, &e) && !t.c.lost {
				t.decideRest(e)
				return nil
			}
			return err
		}
	}
	t.c.accepted = len(t.accepted)
	replies, err := t.c.finish(ctx, content)
	for n, i := range t.accepted {
		switch {
		case !t.c.cfg.LMTP && len(replies) == 1:
			t.end(i, replies[0])
		case n < len(replies):
			t.end(i, replies[n])
		}
	}
	return err
}

func (t *transaction) end(i int, reply Reply) {
	t.decide(i, &Error{Phase: PhaseEnd, Status: reply.status(), Reply: reply})
}

// commands writes all commands up to the content. Recipients that can't be asked about
// are decided.
func (t *transaction) commands(env Envelope) ([]string, error) {
	mail, refusal := t.c.mailCommand(env)
	if refusal != nil {
		return nil, refusal
	}
	commands := []string{mail}
	for i, to := range env.To {
		rcpt, refusal := t.c.rcptCommand(to, env.UTF8)
		if refusal != nil {
			t.decide(i, refusal)
			continue
		}
		t.asked = append(t.asked, i)
		commands = append(commands, rcpt)
	}
	if len(t.asked) == 0 {
		return nil, &Error{Phase: PhaseRcpt, Status: Permanent, Err: errors.New("there is no recipient that could be asked about")}
	}
	if t.data = !t.c.chunking(); t.data {
		commands = append(commands, "DATA")
	}
	return commands, nil
}

// exchange sends the commands and reads the replies. It returns the one to
// DATA, unless there was no need to send that.
func (t *transaction) exchange(ctx context.Context, commands []string) (data Reply, err error) {
	var mail *Error // MAIL's refusal
	for at := 0; at < len(commands); {
		if mail != nil || t.phase(commands, at) == PhaseData && len(t.accepted) == 0 {
			break
		}
		n := t.c.batch(commands[at:])
		if err := t.c.write(ctx, t.phase(commands, at), t.c.timeout(t.phase(commands, at)), commands[at:at+n]...); err != nil {
			return data, err
		}
		for i := at; i < at+n; i++ {
			phase := t.phase(commands, i)
			reply, err := t.c.read(ctx, phase, t.c.timeout(phase))
			if err != nil {
				return data, err
			}
			switch phase {
			case PhaseMail:
				if !reply.Positive() {
					mail = refused(phase, reply)
					t.decideRest(mail)
				}
			case PhaseRcpt:
				t.answered(t.asked[i-1], reply)
			default:
				data = reply
			}
			if t.c.lost { // 421: nothing more will come
				return data, refused(phase, reply)
			}
		}
		at += n
	}
	return data, nil
}

func (t *transaction) phase(commands []string, i int) Phase {
	switch {
	case i == 0:
		return PhaseMail
	case t.data && i == len(commands)-1:
		return PhaseData
	default:
		return PhaseRcpt
	}
}

func (t *transaction) answered(i int, reply Reply) {
	if !reply.Positive() {
		t.decide(i, refused(PhaseRcpt, reply))
		return
	}
	if t.result.Recipients[i].Status == 0 { // MAIL was not refused
		t.accepted = append(t.accepted, i)
	}
}

// maxBatch bounds what is sent before replies are read, in bytes, so that the
// two sides never wait for each other with full buffers (RFC 2920 section 3.1).
const maxBatch = 4 << 10

// batch says how many of the commands to send at once.
func (c *Conn) batch(commands []string) int {
	if _, ok := c.Extension("PIPELINING"); !ok {
		return 1
	}
	n, size := 0, 0
	for n < len(commands) && (n == 0 || size+len(commands[n])+2 <= maxBatch) {
		size += len(commands[n]) + 2
		n++
	}
	return n
}

// sendNothing answers a server that wants content though it has accepted nobody
// (RFC 2920 section 3.1).
func (t *transaction) sendNothing(ctx context.Context) error {
	if t.c.cfg.LMTP { // which must not happen, and how many replies come is anybody's guess
		t.c.lost = true
		return nil
	}
	_, err := t.c.command(ctx, PhaseEnd, t.c.cfg.Timeouts.Data, ".")
	return err
}
