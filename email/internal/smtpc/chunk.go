package smtpc

import (
	"bufio"
	"context"
	"io"
	"strconv"
)

const (
	// chunkSize is how much of the content goes into one chunk.
	chunkSize = 64 << 10
	// maxUnanswered is how many chunks may be under way to a server that takes
	// commands before it has answered those before.
	maxUnanswered = 4
)

// chunking says whether content goes out with BDAT instead of DATA.
func (c *Conn) chunking() bool {
	_, ok := c.Extension("CHUNKING")
	return ok && c.cfg.Chunking
}

// chunks is content under way in chunks (RFC 3030).
type chunks struct {
	c          *Conn
	unanswered int
	// refusal is the first reply that was none to go on.
	refusal Reply
}

// sendChunks sends the content with BDAT. The reply to the last chunk, which is
// that to the content, is left to the caller, unless the server refuses one before:
// then the rest is not sent.
//
// A chunk is announced when all of it is there, so that content that cannot be read
// to its end never looks like a whole chunk to a server that does not count.
func (c *Conn) sendChunks(ctx context.Context, content io.Reader) (refusal Reply, err error) {
	ch := &chunks{c: c}
	source := &sourceReader{r: content}
	r := bufio.NewReader(source)
	lines := newlines{lineStart: true}
	buf := make([]byte, chunkSize+2)
	window := 0
	if _, ok := c.Extension("PIPELINING"); ok {
		window = maxUnanswered
	}
	for {
		n, err := io.ReadFull(r, buf[:chunkSize])
		if err == nil {
			_, err = r.Peek(1)
		}
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		if err == nil || last {
			err = lines.check(buf[:n])
		}
		if err == nil && last {
			err = lines.end()
		}
		if err != nil {
			return Reply{}, c.contentError(ctx, source, err)
		}
		if !last {
			if err := ch.send(ctx, buf[:n], ""); err != nil {
				return Reply{}, err
			}
			if err := ch.answered(ctx, window); err != nil || ch.refusal.Code != 0 {
				return ch.refusal, err
			}
			continue
		}
		if err := ch.answered(ctx, 0); err != nil || ch.refusal.Code != 0 {
			return ch.refusal, err
		}
		if !lines.lineStart {
			n += copy(buf[n:], "\r\n") // as before the final dot of DATA
		}
		return Reply{}, ch.send(ctx, buf[:n], " LAST")
	}
}

func (ch *chunks) send(ctx context.Context, chunk []byte, last string) error {
	c := ch.c
	c.setDeadline(ctx, c.cfg.Timeouts.Block)
	c.w.WriteString("BDAT " + strconv.Itoa(len(chunk)) + last + "\r\n")
	c.w.Write(chunk)
	if err := c.w.Flush(); err != nil {
		return c.contentError(ctx, &sourceReader{}, err)
	}
	ch.unanswered++
	return nil
}

// answered reads replies until no more than n are missing, or all after a refusal.
func (ch *chunks) answered(ctx context.Context, n int) error {
	for ch.unanswered > n || ch.unanswered > 0 && ch.refusal.Code != 0 {
		reply, err := ch.c.read(ctx, PhaseContent, ch.c.cfg.Timeouts.Data)
		if err != nil {
			return err
		}
		ch.unanswered--
		if !reply.Positive() && ch.refusal.Code == 0 {
			ch.refusal = reply
		}
		if ch.c.lost { // 421: nothing more will come
			return refused(PhaseContent, reply)
		}
	}
	return nil
}
