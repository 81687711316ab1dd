package smtpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

// guard is a connection. All of it but what mu protects belongs to the
// goroutine of its machine.
type guard struct {
	server   *Server
	conn     *Conn
	session  Session
	ctx      context.Context
	cancel   context.CancelCauseFunc
	unwatch  func() bool   // ends closing of raw by ctx
	over     chan struct{} // closed at the end
	raw      net.Conn      // as it came
	net      net.Conn      // raw at less cost, or TLS over it
	stage    *stage        // what the machine has as its connection
	deadline time.Time     // of the session

	in  input
	out []byte // replies not yet sent

	greeted   bool
	ended     bool   // a reply has ended the connection
	quit      bool   // it was the client who wanted to end
	torn      bool   // Shutdown has ended it while it did nothing
	pending   []byte // a command that has broken off a body
	dialogue  bool   // AUTH waits for the client
	path      envelopePath
	tx        transaction
	chunk     *chunk // the first of BDAT
	receiving bool   // a message: there is no interrupting

	messages, commands, errors int

	mu      sync.Mutex
	stopped bool  // by Shutdown
	idle    bool  // waits for a command
	watch   watch // for the end of the connection
	reading deadline
	writing deadline
}

// transaction is what one message needs.
type transaction struct {
	begun      bool
	recipients int
	utf8       bool
}

func newGuard(ctx context.Context, s *Server, c net.Conn, mode Mode) *guard {
	g := &guard{server: s, conn: newConn(ctx, c, mode), raw: c, net: nonblock.NewConn(c), over: make(chan struct{})}
	g.in.init()
	g.deadline = time.Now().Add(s.cfg.SessionTimeout)
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	g.unwatch = context.AfterFunc(g.ctx, func() { c.Close() })
	g.stage = newStage(g)
	return g
}

// next returns the next command for the machine of a stage. Nil means that there
// is none: the connection is over, or it is another stage's.
func (g *guard) next(of *stage) []byte {
	defer g.rescue("a command", new(error)) // go-smtp would let it end the process
	if !g.greeted {
		g.greeted = true
		g.greet()
	}
	for !g.ended && g.stage == of {
		line, err := g.nextLine()
		if g.dialogue && errors.Is(err, errLineTooLong) {
			g.stage.reply = newReply(500, 5, 5, 6, "Line too long") // RFC 4954 section 4
			return []byte("*\r\n")
		}
		if err != nil {
			reply := g.lineError(line, err)
			if reply == nil {
				return nil
			}
			g.send(reply)
			continue
		}
		if command := g.vet(line); command != nil {
			return command
		}
	}
	return nil
}

// nextLine is the next command, or what has interrupted BDAT.
func (g *guard) nextLine() ([]byte, error) {
	if line := g.pending; line != nil {
		g.pending = nil
		return line, nil
	}
	return g.readLine(g.lineLimit)
}

// lineError is what the client is told if there is no next line; start is that of
// one which was too long.
func (g *guard) lineError(start []byte, err error) *Reply {
	switch {
	case errors.Is(err, errLineTooLong):
		return g.refused(start, newReply(500, 5, 5, 2, "Line too long"))
	case errors.Is(err, errEndlessLine):
		g.event(NoSMTP, err)
		return newReply(500, 5, 5, 2, "Line too long").closing()
	case errors.Is(err, errInterrupted):
		return newReply(421, 4, 3, 2, g.server.cfg.Hostname+" is shutting down")
	case errors.Is(err, errTimeout):
		g.event(TimedOut, nil)
		return newReply(421, 4, 4, 2, g.server.cfg.Hostname+" has waited too long for you")
	}
	return nil // it has hung up
}

// send writes a reply, to be sent with others. Errors count.
func (g *guard) send(r *Reply) {
	if g.ended {
		return
	}
	g.out = r.appendTo(g.out)
	if r.Code >= 500 {
		g.errors++
	}
	if r.ends() {
		g.ended = true
	} else if g.errors > g.server.cfg.MaxErrors {
		g.event(TooManyErrors, nil)
		g.send(newReply(421, 4, 7, 0, g.server.cfg.Hostname+" has seen too many errors"))
	} else if len(g.out) > maxOut {
		_ = g.flush()
	}
}

const (
	maxOut  = 8 << 10
	keepOut = 1 << 10
)

// flush sends what there is to send.
func (g *guard) flush() error { return g.flushWithin(g.server.cfg.CommandTimeout) }

func (g *guard) flushWithin(limit time.Duration) error {
	if len(g.out) == 0 {
		return nil
	}
	g.mu.Lock()
	g.writing.begin(time.Now().Add(limit), g.raw.SetWriteDeadline)
	g.mu.Unlock()
	_, err := g.net.Write(g.out)
	g.mu.Lock()
	g.writing.end()
	g.mu.Unlock()
	if g.out = g.out[:0]; cap(g.out) > keepOut {
		g.out = nil
	}
	if err != nil {
		g.ended = true
		g.in.err = err
	}
	return err
}

// wait prepares to wait for the client, and says whether there is time for it.
func (g *guard) wait(deadline time.Time, interruptible bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if interruptible && g.stopped {
		return false
	}
	g.idle = interruptible
	g.reading.begin(deadline, g.raw.SetReadDeadline)
	g.writing.begin(deadline, g.raw.SetWriteDeadline) // TLS answers some of what it reads
	return true
}

func (g *guard) waited() (interrupted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading.end()
	g.writing.end()
	interrupted = g.idle && g.stopped
	g.idle = false
	return interrupted
}

// interrupt ends the wait for a command, now or whenever it begins.
func (g *guard) interrupt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	if g.idle {
		g.reading.begin(past(), g.raw.SetReadDeadline)
		g.writing.begin(past(), g.raw.SetWriteDeadline) // in a handshake
	}
}

// call runs code of the session. What it panics with ends the connection, and only
// that.
func (g *guard) call(what string, f func() error) (err error) {
	g.startWatch()
	defer g.stopWatch()
	defer g.rescue(what, &err)
	return f()
}

func (g *guard) rescue(what string, err *error) {
	if v := recover(); v != nil {
		g.server.log.Error("an SMTP session panicked", "conn_id", g.conn.id, "in", what, "panic", v, "stack", string(debug.Stack()))
		reply := newReply(421, 4, 3, 0, "Internal error")
		*err = reply
		g.send(reply) // whatever becomes of err: the session is broken
	}
}

// replyTo makes a reply of an error of the session.
func (g *guard) replyTo(err error, what string, code int, enhanced [3]int, text string) *Reply {
	var reply *Reply
	if errors.As(err, &reply) && reply != nil && reply.Code >= 400 && reply.Code <= 599 {
		return reply
	}
	level := slog.LevelWarn
	if g.ctx.Err() != nil {
		level = slog.LevelDebug
	}
	g.server.log.Log(context.Background(), level, "an SMTP session failed", "conn_id", g.conn.id, "in", what, "err", err)
	return &Reply{Code: code, Enhanced: enhanced, Text: text}
}

func (g *guard) localError(err error, what string) *Reply {
	return g.replyTo(err, what, 451, [3]int{4, 3, 0}, "Local error, try again later")
}

// event tells the host and the log about the client.
func (g *guard) event(e Event, err error) {
	g.server.log.Debug("SMTP client refused", "conn_id", g.conn.id, "remote", g.conn.remote, "reason", string(e), "err", err)
	if f := g.server.cfg.OnEvent; f != nil {
		defer g.rescue("OnEvent", new(error))
		f(g.conn, e)
	}
}

// refuse ends a connection that was never served.
func (g *guard) refuse(r *Reply) {
	if !g.conn.mode.ImplicitTLS || g.conn.tls != nil {
		// It fits into the socket's buffer: this does not wait, unless raw is TLS
		// without its handshake.
		g.raw.SetDeadline(time.Now().Add(time.Second))
		g.raw.Write(r.appendTo(nil))
	}
	g.unwatch()
	g.cancel(r)
	g.raw.Close()
}

// end closes the connection.
func (g *guard) end() {
	_ = g.flushWithin(farewellTime)
	if g.session != nil {
		_ = g.call("Close", func() error { g.session.Close(); return nil })
	}
	if g.ended && !g.quit && g.in.err == nil {
		g.linger()
	}
	g.unwatch()
	g.cancel(net.ErrClosed)
	g.net.Close()
	g.in.r, g.in.w = 0, 0
	g.in.shrink(g.server)
	g.server.release(g)
	close(g.over)
}

// farewellTime is how long the client may take to take in the last replies. Most of
// them it has no more time for anyway.
const farewellTime = 5 * time.Second

// lingerTime and lingerBytes bound what is still read of a client that was told
// to go; lingerIdle is for one that had nothing under way when Shutdown began,
// which waits for it: enough for a command that crosses the reply.
const (
	lingerTime  = 2 * time.Second
	lingerIdle  = 200 * time.Millisecond
	lingerBytes = 1 << 20
)

// linger reads on until the client has seen the last reply: to close at once
// with its bytes unread would make a reset of it, which takes the reply away.
func (g *guard) linger() {
	half, ok := g.net.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if half, ok := g.raw.(interface{ CloseWrite() error }); ok && g.conn.tls != nil {
		_ = half.CloseWrite() // TLS has only said goodbye
	}
	atMost := lingerTime
	if g.torn {
		atMost = lingerIdle
	}
	if g.wait(time.Now().Add(atMost), false) {
		buf := g.in.buf
		for n := 0; n < lingerBytes; {
			m, err := g.raw.Read(buf)
			if err != nil {
				return
			}
			n += m
		}
	}
}
