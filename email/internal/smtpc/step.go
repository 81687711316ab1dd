package smtpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// Mail begins a transaction (MAIL); env.To is ignored. The reply is the
// server's, or if it was not asked, for what it lacks, the one that RFCs give
// for that. The error is nil if the sender was accepted, and an [*Error]
// otherwise.
func (c *Conn) Mail(ctx context.Context, env Envelope) (Reply, error) {
	var reply Reply
	err := c.during(ctx, func(ctx context.Context) error {
		line, refusal := c.mailCommand(env)
		if refusal != nil {
			reply = refusal.Reply
			return refusal
		}
		if err := c.clear(ctx); err != nil {
			return err
		}
		c.started = true
		return c.step(ctx, &reply, PhaseMail, line)
	})
	return reply, err
}

// Rcpt adds a recipient to the transaction (RCPT); utf8 is as in the envelope.
// Reply and error are as for [Conn.Mail].
func (c *Conn) Rcpt(ctx context.Context, to Rcpt, utf8 bool) (Reply, error) {
	var reply Reply
	err := c.during(ctx, func(ctx context.Context) error {
		line, refusal := c.rcptCommand(to, utf8)
		if refusal != nil {
			reply = refusal.Reply
			return refusal
		}
		if err := c.step(ctx, &reply, PhaseRcpt, line); err != nil {
			return err
		}
		c.accepted++
		return nil
	})
	return reply, err
}

// Data sends the content and ends the transaction (DATA, or BDAT). With SMTP there is
// one reply, with LMTP one for each recipient that was accepted, in their order.
//
// The error is nil if the server has answered for all; what it answered may
// still be a refusal. Otherwise it is an [*Error], and the replies are those
// that came before. An error of content itself, before its end, is one too: the
// server then does not have the message.
func (c *Conn) Data(ctx context.Context, content io.Reader) ([]Reply, error) {
	var replies []Reply
	err := c.during(ctx, func(ctx context.Context) error {
		if c.accepted == 0 {
			return &Error{Phase: PhaseData, Status: Permanent, Reply: Reply{Code: 503, Enhanced: "5.5.1"}, Err: errors.New("there is no recipient")}
		}
		if !c.chunking() {
			reply, err := c.command(ctx, PhaseData, c.cfg.Timeouts.Data, "DATA")
			if err != nil {
				return err
			}
			if err := c.mayContinue(reply); err != nil {
				return err
			}
		}
		var err error
		replies, err = c.finish(ctx, content)
		return err
	})
	return replies, err
}

// step sends a command and wants a success.
func (c *Conn) step(ctx context.Context, reply *Reply, phase Phase, line string) error {
	var err error
	if *reply, err = c.command(ctx, phase, c.timeout(phase), line); err == nil && !reply.Positive() {
		err = refused(phase, *reply)
	}
	return err
}

func (c *Conn) timeout(phase Phase) time.Duration {
	switch phase {
	case PhaseMail:
		return c.cfg.Timeouts.Mail
	case PhaseRcpt:
		return c.cfg.Timeouts.Rcpt
	default:
		return c.cfg.Timeouts.Data
	}
}

// clear ends the transaction before, if it was left in the middle.
func (c *Conn) clear(ctx context.Context) error {
	if !c.started {
		return nil
	}
	reply, err := c.command(ctx, PhaseOther, c.cfg.Timeouts.Command, "RSET")
	if err != nil {
		return err
	}
	if !reply.Positive() {
		return c.lose(refused(PhaseOther, reply))
	}
	c.started, c.accepted = false, 0
	return nil
}

// mayContinue looks at the reply to DATA.
func (c *Conn) mayContinue(reply Reply) error {
	switch {
	case reply.Code == 354:
		return nil
	case reply.Code >= 400:
		return refused(PhaseData, reply)
	default: // neither yes nor no: who knows what it waits for
		return c.lose(&Error{Phase: PhaseData, Status: Temporary, Reply: reply, Err: errReplyMalformed})
	}
}

// finish sends the content and reads what is said to it. From the final dot on,
// what is not answered is unknown.
func (c *Conn) finish(ctx context.Context, content io.Reader) ([]Reply, error) {
	want := 1
	if c.cfg.LMTP {
		want = c.accepted
	}
	if c.chunking() {
		refusal, err := c.sendChunks(ctx, content)
		if err != nil {
			return nil, err
		}
		if refusal.Code != 0 {
			return slices.Repeat([]Reply{refusal}, want), nil
		}
	} else if err := c.sendContent(ctx, content); err != nil {
		return nil, err
	}
	replies := make([]Reply, 0, want)
	for range want {
		reply, err := c.read(ctx, PhaseEnd, c.cfg.Timeouts.End)
		var e *Error
		if errors.As(err, &e) {
			e.Status = Unknown
			return replies, e
		}
		if reply.Code/100 == 3 {
			return replies, c.lose(&Error{Phase: PhaseEnd, Status: Unknown, Reply: reply, Err: errReplyMalformed})
		}
		replies = append(replies, reply)
		if c.lost && len(replies) < want { // 421
			return replies, &Error{Phase: PhaseEnd, Status: Temporary, Reply: reply}
		}
	}
	c.started, c.accepted = false, 0
	if c.r.Buffered() > 0 { // more than was asked for: what comes next would be taken for other answers
		c.lost = true
	}
	return replies, nil
}
