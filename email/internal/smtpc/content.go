package smtpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrBareNewline says that the content has a CR without LF or an LF without CR.
// It was not sent to its end.
var ErrBareNewline = errors.New("the content has a bare CR or LF, which SMTP cannot carry")

// ErrUnreadable says that the content could not be read to its end; why comes along
// with it. The server is not to blame.
var ErrUnreadable = errors.New("the content cannot be read")

// sendContent sends the content and the final dot. Until the last byte of that
// is with the kernel the server cannot have the message.
func (c *Conn) sendContent(ctx context.Context, content io.Reader) error {
	if c.block == nil {
		c.block = make([]byte, 32<<10)
	}
	source := &sourceReader{r: content}
	dots := &dotWriter{w: c.w, lines: newlines{lineStart: true}}
	_, err := io.CopyBuffer(&blockWriter{c, ctx, dots}, source, c.block)
	if err == nil {
		err = dots.end()
	}
	if err == nil {
		c.setDeadline(ctx, c.cfg.Timeouts.Block)
		err = c.w.Flush()
	}
	if err != nil {
		return c.contentError(ctx, source, err)
	}
	return nil
}

// contentError says what it means that the content did not get to its end.
func (c *Conn) contentError(ctx context.Context, source *sourceReader, err error) error {
	switch {
	case errors.Is(err, ErrBareNewline):
		return c.lose(&Error{Phase: PhaseContent, Status: Permanent, Reply: Reply{Code: 550, Enhanced: "5.6.0"}, Err: err})
	case source.err != nil:
		return c.lose(temporary(PhaseContent, fmt.Errorf("%w: %w", ErrUnreadable, err)))
	case ctx.Err() != nil:
		return c.lose(temporary(PhaseContent, err))
	}
	// A server that has enough says why and closes.
	c.setDeadline(ctx, min(early, c.cfg.Timeouts.Block))
	if reply, replyErr := readReply(c.r); replyErr == nil && reply.Code >= 400 {
		return c.lose(&Error{Phase: PhaseContent, Status: reply.status(), Reply: reply, Err: err})
	}
	return c.lose(temporary(PhaseContent, err))
}

// sourceReader remembers whether it was reading that failed, and hides other
// methods, so that nothing is copied past the dotWriter.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// blockWriter gives each block its time.
type blockWriter struct {
	c   *Conn
	ctx context.Context
	w   io.Writer
}

func (b *blockWriter) Write(p []byte) (int, error) {
	b.c.setDeadline(b.ctx, b.c.cfg.Timeouts.Block)
	return b.w.Write(p)
}

// dotWriter doubles dots at the beginning of lines (RFC 5321 section 4.5.2).
type dotWriter struct {
	w     *bufio.Writer
	lines newlines
}

func (d *dotWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		if d.lines.lineStart && line[0] == '.' {
			d.w.WriteByte('.')
		}
		if err := d.lines.checkLine(line); err != nil {
			return 0, err
		}
		if _, err := d.w.Write(line); err != nil {
			return 0, err
		}
		rest = rest[len(line):]
	}
	return len(p), nil
}

// end writes the final dot, on a line of its own.
func (d *dotWriter) end() error {
	if err := d.lines.end(); err != nil {
		return err
	}
	if !d.lines.lineStart {
		d.w.WriteString("\r\n")
	}
	_, err := d.w.WriteString(".\r\n")
	return err
}

// newlines follows content for CR and LF without each other.
type newlines struct {
	lineStart bool
	afterCR   bool
}

// check looks at the next part of the content.
func (n *newlines) check(p []byte) error {
	for len(p) > 0 {
		line := p
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			line = p[:i+1]
		}
		if err := n.checkLine(line); err != nil {
			return err
		}
		p = p[len(line):]
	}
	return nil
}

// checkLine looks at a line, or a part of one.
func (n *newlines) checkLine(line []byte) error {
	if n.afterCR && line[0] != '\n' {
		return ErrBareNewline
	}
	if end := len(line) - 1; line[end] == '\n' {
		if !(end > 0 && line[end-1] == '\r' || end == 0 && n.afterCR) {
			return ErrBareNewline
		}
	}
	if i := bytes.IndexByte(line, '\r'); i >= 0 && i < len(line)-1 && line[i+1] != '\n' {
		return ErrBareNewline
	}
	last := line[len(line)-1]
	n.lineStart, n.afterCR = last == '\n', last == '\r'
	return nil
}

// end looks at how the content ends.
func (n *newlines) end() error {
	if n.afterCR {
		return ErrBareNewline
	}
	return nil
}

// early is how long to wait for the reason of a server that stops reading.
const early = 5 * time.Second
