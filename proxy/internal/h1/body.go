package h1

import (
	"bytes"
	"io"
	"strconv"
)

// Body reads the body of a message from a Reader.
type Body struct {
	r       *Reader
	length  int64 // as in the head
	left    int64 // of the body or, if chunked, of the chunk
	inChunk bool  // the CRLF after the chunk's data is still to come
	done    bool
	err     error

	// The end of a chunked body may come in pieces, between which Read may time
	// out and be called again.
	inTrailer bool
	section   string

	// Trailer has the fields after a chunked body, once that has been read.
	Trailer Fields
}

// NewBody returns the body of a message of this length, as its head has it.
func NewBody(r *Reader, length int64) Body {
	return Body{r: r, length: length, left: max(length, 0), done: length == 0}
}

// Done reports whether the body has been read to its end.
func (b *Body) Done() bool { return b.done }

// Length is what is left of a body whose length is known, or else negative.
func (b *Body) Length() int64 {
	if b.length < 0 {
		return b.length
	}
	return b.left
}

// Took notes that n bytes of a body of known length have been taken past the
// Reader, which had nothing buffered.
func (b *Body) Took(n int64) {
	b.left -= n
	b.done = b.left == 0
}

// Ready reports whether Read would return something without waiting for the
// connection.
func (b *Body) Ready() bool {
	buf := b.r.Buffered()
	if b.done || b.length != Chunked || b.left > 0 {
		return b.done || len(buf) > 0
	}
	if b.inTrailer {
		return bytes.HasPrefix(buf, []byte("\r\n")) || bytes.Contains(buf, []byte("\r\n\r\n"))
	}
	if b.inChunk {
		buf = buf[min(2, len(buf)):]
	}
	line, rest, ok := bytes.Cut(buf, []byte("\n"))
	if !ok || len(rest) == 0 {
		return len(buf) > maxChunkLine
	}
	if len(line) == 0 || line[0] != '0' || bytes.HasPrefix(rest, []byte("\r\n")) {
		return true
	}
	return bytes.Contains(rest, []byte("\r\n\r\n")) // a trailer section
}

// Read reads a part of the body; io.EOF is its end, io.ErrUnexpectedEOF that
// of the connection before.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.read(p)
	switch {
	case err == io.EOF && !b.done:
		err = io.ErrUnexpectedEOF
		fallthrough
	case err != nil && err != io.EOF:
		if !isTimeout(err) {
			b.err = err
		}
	}
	return n, err
}

func (b *Body) read(p []byte) (int, error) {
	switch {
	case b.done:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	case b.length == UntilClose:
		n, err := b.r.Read(p)
		if n == 0 && err == io.EOF {
			b.done = true
		}
		return n, err
	case b.length == Chunked && b.left == 0:
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
		if b.done {
			return 0, io.EOF
		}
	}
	if b.length != Chunked && int64(len(p)) >= b.left && len(b.r.Buffered()) == 0 {
		// Read so that more than the body is noticed: a server that sends that has
		// lost count, and what comes would be taken for its next answer.
		if err := b.r.read(); err != nil {
			return 0, err
		}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if b.length != Chunked {
		b.done = b.left == 0
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

const (
	// maxChunkLine bounds a chunk's size and extensions, RFC 9112 section 7.1.1.
	maxChunkLine = 256
	maxTrailer   = 8 << 10
)

// nextChunk reads up to the data of the next chunk, or the end of the body.
func (b *Body) nextChunk() error {
	if b.inTrailer {
		return b.readTrailer()
	}
	if b.inChunk {
		line, err := b.line(2)
		if err != nil {
			return err
		}
		if line != "" {
			return malformed("a chunk is longer than it says")
		}
		b.inChunk = false
	}
	line, err := b.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, ok := parseChunkLine(line)
	if !ok {
		return malformed("not the size of a chunk")
	}
	if size > 0 {
		b.left, b.inChunk = size, true
		return nil
	}
	b.inTrailer = true
	return b.readTrailer()
}

// readTrailer reads the trailer section, RFC 9112 section 7.1.2.
func (b *Body) readTrailer() error {
	for {
		line, err := b.line(maxTrailer - len(b.section))
		if err != nil {
			return err
		}
		b.section += line + "\r\n"
		if line == "" {
			break
		}
	}
	var err error
	if b.section != "\r\n" {
		b.Trailer, err = parseFields(nil, b.section, false)
	}
	b.done = err == nil
	return err
}

// line reads a line of at most limit bytes, its end included.
func (b *Body) line(limit int) (string, error) {
	for from := 0; ; {
		buf := b.r.Buffered()
		for i := from; i < len(buf) && i < limit; i++ {
			if buf[i] != '\n' {
				continue
			}
			if i == 0 || buf[i-1] != '\r' {
				return "", malformed("a line of a chunked body does not end in CRLF")
			}
			line := string(buf[:i-1])
			b.r.Discard(i + 1)
			return line, nil
		}
		if len(buf) >= limit {
			return "", malformed("a line of a chunked body is too long")
		}
		from = len(buf)
		if err := b.r.Fill(); err != nil {
			return "", err
		}
	}
}

// parseChunkLine reads the size before any extensions.
func parseChunkLine(s string) (int64, bool) {
	end := 0
	for end < len(s) && isHex(s[end]) {
		end++
	}
	rest := trim(s[end:])
	if end == 0 || end > 15 || rest != "" && rest[0] != ';' || !isFieldValue(rest) {
		return 0, false
	}
	if rest == "" && end < len(s) {
		return 0, false // white space that belongs to nothing
	}
	n, err := strconv.ParseInt(s[:end], 16, 64)
	return n, err == nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// ChunkHead is the room that the line before a chunk of up to 2^28 bytes may
// take.
const ChunkHead = 9

// AppendChunkHead writes the line before a chunk.
func AppendChunkHead(b []byte, size int) []byte {
	return append(strconv.AppendInt(b, int64(size), 16), "\r\n"...)
}
