package smtpd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"time"
)

const (
	idleBuffer = 1 << 10  // for commands
	bodyBuffer = 32 << 10 // for bodies, shared
)

const maxSkip = 64 << 10 // of a line that is too long

// Why reading has ended.
var (
	errTimeout     = errors.New("the client took too long")
	errInterrupted = errors.New("the server is shutting down")
	errLineTooLong = errors.New("a line is too long")
	errEndlessLine = errors.New("a line does not end")
)

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// input is what has come from the client and was not used yet: buf[r:w].
type input struct {
	buf  []byte
	r, w int
	idle [idleBuffer]byte
	lent *[]byte // from the pool
	err  error   // that reading has ended with
}

func (in *input) init()           { in.buf = in.idle[:] }
func (in *input) pending() []byte { return in.buf[in.r:in.w] }

// room moves what is pending to the front and returns the space behind it.
func (in *input) room() []byte {
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	return in.buf[in.w:]
}

func (in *input) move(to []byte) {
	in.w = copy(to, in.pending())
	in.buf, in.r = to, 0
}

// shrink gives a large buffer back once the small one is enough.
func (in *input) shrink(s *Server) {
	if len(in.buf) == idleBuffer || in.w-in.r > idleBuffer {
		return
	}
	in.move(in.idle[:])
	if in.lent != nil {
		s.buffers.Put(in.lent)
		in.lent = nil
	}
}

// enlarge makes room for bodies.
func (in *input) enlarge(s *Server) {
	if len(in.buf) >= bodyBuffer {
		return
	}
	in.lent = s.buffers.Get().(*[]byte)
	in.move(*in.lent)
}

// grow makes room for a longer line.
func (in *input) grow() { in.move(make([]byte, min(2*len(in.buf), bodyBuffer))) }

// fill reads from the connection, once, until deadline. Whoever waits for the
// client has let go of the replies first: one write for a group of commands
// (RFC 2920 section 3.2).
func (g *guard) fill(deadline time.Time, interruptible bool) error {
	if g.in.err != nil {
		return g.in.err
	}
	if err := g.flush(); err != nil {
		return err
	}
	if !g.wait(deadline, interruptible) {
		return errInterrupted
	}
	n, err := g.net.Read(g.in.room())
	interrupted := g.waited()
	g.in.w += n
	switch {
	case n > 0:
		return nil
	case err == nil:
		err = io.ErrNoProgress
	case isTimeout(err):
		if interrupted {
			g.torn = len(g.in.pending()) == 0
			return errInterrupted
		}
		return errTimeout
	}
	g.in.err = err
	return err
}

// readLine reads a line of up to limit octets and returns it with its line end.
// It is valid until the next read. Of a longer line all is read, as long as it
// keeps within reason; its start is returned, and the error is errLineTooLong.
func (g *guard) readLine(limit func(start []byte) int) ([]byte, error) {
	if !g.receiving {
		g.in.shrink(g.server)
	}
	deadline := time.Now().Add(g.server.cfg.CommandTimeout)
	if g.deadline.Before(deadline) && !g.receiving {
		deadline = g.deadline
	}
	var start []byte // of a line that is too long
	for scanned, skipped := 0, 0; ; {
		pending := g.in.pending()
		if i := bytes.IndexByte(pending[scanned:], '\n'); i >= 0 {
			line := pending[:scanned+i+1]
			g.in.r += len(line)
			switch {
			case skipped > 0:
				return start, errLineTooLong
			case len(line) > limit(line):
				return line, errLineTooLong
			}
			return line, nil
		}
		scanned = len(pending)
		if skipped > 0 || scanned >= limit(pending) {
			if skipped == 0 {
				start = bytes.Clone(pending[:min(4, scanned)])
			}
			skipped += scanned
			g.in.r, g.in.w, scanned = 0, 0, 0
			if skipped > maxSkip {
				return nil, errEndlessLine
			}
		} else if scanned == len(g.in.buf) {
			g.in.grow()
		}
		if err := g.fill(deadline, !g.receiving); err != nil {
			return nil, err
		}
	}
}
