package smtpd

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// chunk is what BDAT announces (RFC 3030 section 2).
type chunk struct {
	left int64 // of its bytes
	last bool
}

func parseChunk(arg string) (c chunk, ok bool) {
	size, last, has := strings.Cut(arg, " ")
	n, err := strconv.ParseUint(size, 10, 62)
	if err != nil || has && !strings.EqualFold(last, "LAST") {
		return chunk{}, false
	}
	return chunk{left: int64(n), last: has}, true
}

// bdat vets the first BDAT of a message. For the machine it is DATA, so that one
// goroutine does everything in order; the further ones are the body's.
func (g *guard) bdat(arg string) []byte {
	c, ok := parseChunk(arg)
	switch {
	case !ok:
		g.send(malformedBDAT())
	case g.tx.recipients == 0:
		g.refuseChunk(c)
	default:
		g.chunk = &c
		g.stage.mute = true // no 354
		return []byte("DATA\r\n")
	}
	return nil
}

// malformedBDAT ends the connection: where the next command begins is anyone's
// guess.
func malformedBDAT() *Reply {
	return newReply(501, 5, 5, 4, "Syntax: BDAT size [LAST]").closing()
}

// refuseChunk reads a chunk that comes at the wrong time, as it does behind one
// that was refused in a group of commands.
func (g *guard) refuseChunk(c chunk) {
	g.in.enlarge(g.server)
	b := &chunkBody{intake: intake{g: g}, chunk: c}
	_ = b.fail(newReply(503, 5, 5, 1, "BDAT needs recipients"))
	b.drain()
	g.send(b.refusal)
}

// chunkBody is the message in the chunks of BDAT.
type chunkBody struct {
	intake
	purity
	chunk
}

// Read is for the session. At the end of a chunk it answers, and goes on with
// the next one.
func (b *chunkBody) Read(p []byte) (n int, err error) {
	for n < len(p) && b.err == nil {
		switch {
		case b.left > 0:
			if len(b.g.in.pending()) == 0 {
				if n > 0 {
					return n, nil
				}
				if b.fill() != nil {
					break
				}
			}
			n += b.take(p[n:])
		case b.last:
			b.over = true
			if b.cr {
				_ = b.hold(bareNewline)
			} else {
				b.complete()
			}
		case n > 0:
			return n, nil
		default:
			b.nextChunk()
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// take moves bytes of the chunk into p.
func (b *chunkBody) take(p []byte) (n int) {
	pending := b.g.in.pending()
	pending = pending[:min(int64(len(pending)), int64(len(p)), b.left)]
	for n < len(pending) {
		line := pending[n:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		b.use(len(line))
		b.left -= int64(len(line))
		if _, bad := b.scan(line); b.hold(bad) != nil || b.grow(len(line)) != nil {
			break
		}
		n += copy(p[n:], line)
	}
	return n
}

// nextChunk answers a chunk and finds the next one. Whatever else would change
// the transaction ends the body.
func (b *chunkBody) nextChunk() {
	g := b.g
	g.send(&Reply{Code: 250, Text: strconv.FormatInt(b.size, 10) + " bytes so far"})
	for b.err == nil && !g.ended {
		start := time.Now()
		line, err := g.readLine(g.lineLimit)
		b.waiting += time.Since(start)
		if errors.Is(err, errLineTooLong) || errors.Is(err, errEndlessLine) {
			g.send(g.lineError(line, err))
			line, err = nil, nil
		}
		if b.check(err) != nil {
			return
		}
		if line == nil {
			continue
		}
		// One that is refused changes nothing (RFC 5321 section 4.1.4).
		switch verb, arg, _ := parseCommand(line); {
		case verb == "BDAT":
			b.begin(arg)
			return
		case (verb == "RSET" || verb == "QUIT") && arg == "", (verb == "EHLO" || verb == "HELO") && isHeloName(arg):
			b.abort(line)
			return
		case slices.Contains([]string{"MAIL", "RCPT", "DATA", "AUTH", "STARTTLS"}, verb):
			g.send(g.refused(line, newReply(503, 5, 5, 1, "There is a message in transfer")))
		default:
			g.vet(line)
		}
	}
	if b.err == nil {
		b.abort(nil)
	}
}

// begin starts the next chunk.
func (b *chunkBody) begin(arg string) {
	c, ok := parseChunk(arg)
	if !ok {
		_ = b.lose(malformedBDAT())
		return
	}
	b.chunk = c
	if c.left == 0 && !c.last {
		b.g.commands++
		if b.g.commands > b.g.server.cfg.MaxCommands {
			b.g.event(TooManyCommands, nil)
			_ = b.lose(newReply(421, 4, 7, 0, "Too many empty chunks"))
		}
		return
	}
	if b.size+c.left > b.g.server.cfg.MaxMessageSize {
		_ = b.fail(newReply(552, 5, 3, 4, "Message too large"))
	}
}

// abort ends the body with a command that comes instead of its next chunk.
func (b *chunkBody) abort(line []byte) {
	b.over, b.aborted = true, true
	b.err = errAborted
	b.g.pending = bytes.Clone(line)
}

var errAborted = errors.New("the client has broken off the message")

// drain reads what the client sends of a message that was refused: the rest of
// the chunk, behind which there is the next command. Of one that the session has
// accepted before its end, that is all.
func (b *chunkBody) drain() {
	for skipped := int64(0); !b.over && b.left > 0; {
		if skipped > b.g.server.cfg.MaxMessageSize {
			_ = b.lose(newReply(552, 5, 3, 4, "Message too large"))
			return
		}
		if len(b.g.in.pending()) == 0 && b.fill() != nil {
			return
		}
		n := min(int64(len(b.g.in.pending())), b.left)
		b.use(int(n))
		b.left -= n
		skipped += n
	}
	b.over = true
}
