package smtpd

import "bytes"

// badBytes says what is wrong with a part of a message.
type badBytes int

const (
	goodBytes badBytes = iota
	bareNewline
	nulByte
)

// purity looks for what no message may have in it: CR without LF, LF without
// CR, NUL (RFC 5321 section 2.3.8, RFC 5322 section 2.3).
type purity struct {
	cr bool // the last byte was one
}

// scan looks at the next bytes, which have no LF but as their last, and says
// whether they end a line.
func (p *purity) scan(b []byte) (ends bool, bad badBytes) {
	last := len(b) - 1
	if p.cr && b[0] != '\n' {
		bad = bareNewline
	}
	before := b[:last] // where no CR may be
	if b[last] == '\n' {
		ends = last == 0 && p.cr || last > 0 && b[last-1] == '\r'
		if !ends {
			bad = bareNewline
		}
		before = b[:max(last-1, 0)]
	}
	p.cr = b[last] == '\r'
	if bytes.IndexByte(before, '\r') >= 0 {
		bad = bareNewline
	}
	if bad == goodBytes && bytes.IndexByte(b, 0) >= 0 {
		bad = nulByte
	}
	return ends, bad
}

// dotBody is the message behind DATA, up to CRLF "." CRLF (RFC 5321 section
// 4.5.2) and nothing else.
type dotBody struct {
	intake
	purity
	lineStart bool
}

// Read is for the session.
func (b *dotBody) Read(p []byte) (n int, err error) {
	for n < len(p) && b.err == nil && (n == 0 || b.ready()) {
		segment, bad := b.next(len(p) - n)
		switch {
		case segment == nil && b.err == nil:
			b.complete()
		case segment != nil && b.hold(bad) == nil && b.grow(len(segment)) == nil:
			n += copy(p[n:], segment)
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// ready says whether next need not wait for the client.
func (b *dotBody) ready() bool {
	pending := b.g.in.pending()
	return len(pending) > 2 || len(pending) > 0 && !b.lineStart
}

// next takes up to limit bytes of the message out of the buffer, at most a
// line. It returns nil at the end, however that came.
func (b *dotBody) next(limit int) ([]byte, badBytes) {
	for !b.over {
		pending := b.g.in.pending()
		switch {
		case len(pending) == 0, b.lineStart && pending[0] == '.' && len(pending) < 3:
			_ = b.fill()
			continue
		case b.lineStart && pending[0] == '.':
			if b.over = pending[1] == '\r' && pending[2] == '\n'; b.over {
				b.use(3)
				return nil, goodBytes
			}
			b.use(1) // the client has put it there
			b.lineStart = false
			continue
		}
		segment := pending[:min(len(pending), limit)]
		if i := bytes.IndexByte(segment, '\n'); i >= 0 {
			segment = segment[:i+1]
		}
		b.use(len(segment))
		ends, bad := b.scan(segment)
		b.lineStart = ends
		return segment, bad
	}
	return nil, goodBytes
}

// drain looks for the end of the message, over as many bytes as a message may
// have. Beyond that the connection ends.
func (b *dotBody) drain() {
	for skipped := int64(0); !b.over; {
		segment, bad := b.next(bodyBuffer)
		_ = b.hold(bad)
		if skipped += int64(len(segment)); skipped > b.g.server.cfg.MaxMessageSize {
			_ = b.lose(newReply(552, 5, 3, 4, "Message too large"))
		}
	}
}
