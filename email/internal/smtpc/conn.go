package smtpc

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Conn is a connection on which mail can be sent, one message after the other.
// It is not safe for concurrent use. Every method honours its context: when it
// ends in the middle of something, the connection is lost.
type Conn struct {
	cfg  Config
	raw  net.Conn // what deadlines are set on
	conn net.Conn // raw, or TLS over it
	r    *bufio.Reader
	w    *bufio.Writer

	greeting   Reply
	extensions map[string]string // upper-case keyword: parameters
	tls        *TLSState
	tlsFailure error

	block []byte // a part of the content on its way, kept for the next message

	started  bool // a transaction was begun, so that RSET comes before the next
	accepted int  // recipients of this transaction
	lost     bool
}

// Extension tells whether the server offers an extension (RFC 5321 section
// 4.1.1.1), and with which parameters.
func (c *Conn) Extension(keyword string) (parameters string, ok bool) {
	parameters, ok = c.extensions[strings.ToUpper(keyword)]
	return parameters, ok
}

// Greeting returns what the server said first.
func (c *Conn) Greeting() Reply { return c.greeting }

// TLS describes the connection's TLS; nil means that there is none.
func (c *Conn) TLS() *TLSState { return c.tls }

// TLSFailure returns the failure of a handshake that [Opportunistic] has got over
// by connecting once more and doing without TLS. It is nil if there was none.
func (c *Conn) TLSFailure() error { return c.tlsFailure }

// RemoteAddr returns the server's address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// LocalAddr returns the address that was connected from.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// Limits are a server's, of RFC 9422; 0 means that it announces none.
type Limits struct {
	// MailMax is how many transactions a connection may have.
	MailMax int
	// RcptMax is how many recipients a transaction may have.
	RcptMax int
}

// Limits returns what the server announces.
func (c *Conn) Limits() Limits {
	var l Limits
	params, _ := c.Extension("LIMITS")
	for word := range strings.FieldsSeq(params) {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || len(value) > 6 { // RFC 9422 section 4.1
			continue
		}
		switch strings.ToUpper(name) {
		case "MAILMAX":
			l.MailMax = n
		case "RCPTMAX":
			l.RcptMax = n
		}
	}
	return l
}

// Usable says whether another message can be sent. It does not find out whether
// the server has closed the connection meanwhile: [Conn.Noop] and [Conn.Idle] do.
func (c *Conn) Usable() bool { return !c.lost }

// Reset gives up a transaction (RSET).
func (c *Conn) Reset(ctx context.Context) error {
	err := c.simple(ctx, "RSET")
	if err == nil {
		c.started, c.accepted = false, 0
	}
	return err
}

// Noop asks for a sign of life (NOOP).
func (c *Conn) Noop(ctx context.Context) error { return c.simple(ctx, "NOOP") }

// Idle waits until ctx ends, and then returns nil. If before that the server
// closes the connection or says something, which it has no reason to but to take
// leave, the connection is lost, and the error says so.
func (c *Conn) Idle(ctx context.Context) error {
	if c.lost {
		return temporary(PhaseOther, net.ErrClosed)
	}
	c.raw.SetDeadline(time.Time{})
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.raw.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	_, err := c.r.Peek(1)
	if !stop() {
		<-interrupted
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errUnasked
	}
	return c.lose(temporary(PhaseOther, err))
}

// Quit takes leave (QUIT) and closes the connection. A connection that is lost
// is just closed. The error is of no consequence for messages sent before.
func (c *Conn) Quit(ctx context.Context) error {
	var err error
	if !c.lost {
		err = c.during(ctx, func(ctx context.Context) error {
			_, err := c.command(ctx, PhaseOther, c.cfg.Timeouts.Quit, "QUIT")
			return err
		})
	}
	c.Close()
	return err
}

// Close closes the connection at once, without taking leave.
func (c *Conn) Close() error {
	c.lost = true
	return c.raw.Close() // not conn: the close_notify of TLS may wait for a peer that does not read
}

func (c *Conn) simple(ctx context.Context, line string) error {
	return c.during(ctx, func(ctx context.Context) error {
		reply, err := c.command(ctx, PhaseOther, c.cfg.Timeouts.Command, line)
		if err == nil && !reply.Positive() {
			err = refused(PhaseOther, reply)
		}
		return err
	})
}

// during runs f, whose reads and writes fail when ctx ends.
func (c *Conn) during(ctx context.Context, f func(context.Context) error) error {
	if c.lost {
		return temporary(PhaseOther, net.ErrClosed)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.raw.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	err := f(ctx)
	if !stop() {
		<-interrupted
	}
	var e *Error
	if errors.As(err, &e) && e.Err != nil && c.lost && ctx.Err() != nil {
		e.Err = context.Cause(ctx) // rather than a deadline that nobody set
	}
	return err
}

// setDeadline gives the next reads and writes this much time.
func (c *Conn) setDeadline(ctx context.Context, timeout time.Duration) {
	c.raw.SetDeadline(time.Now().Add(timeout))
	if ctx.Err() != nil { // it may have ended before the line above
		c.raw.SetDeadline(time.Unix(1, 0))
	}
}

// command sends a line and reads the reply to it.
func (c *Conn) command(ctx context.Context, phase Phase, timeout time.Duration, line string) (Reply, error) {
	if err := c.write(ctx, phase, timeout, line); err != nil {
		return Reply{}, err
	}
	return c.read(ctx, phase, timeout)
}

func (c *Conn) write(ctx context.Context, phase Phase, timeout time.Duration, lines ...string) error {
	c.setDeadline(ctx, timeout)
	for _, line := range lines {
		c.w.WriteString(line)
		c.w.WriteString("\r\n")
	}
	if err := c.w.Flush(); err != nil {
		return c.lose(temporary(phase, err))
	}
	return nil
}

// read reads a reply, all of it within timeout. Of one with which the server
// takes leave (421), nothing more can come.
func (c *Conn) read(ctx context.Context, phase Phase, timeout time.Duration) (Reply, error) {
	c.setDeadline(ctx, timeout)
	reply, err := readReply(c.r)
	if err != nil {
		return Reply{}, c.lose(temporary(phase, err))
	}
	if reply.Code == 421 {
		c.lost = true
	}
	return reply, nil
}

func (c *Conn) lose(err *Error) *Error {
	c.lost = true
	return err
}
