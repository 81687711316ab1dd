package dkim

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
)

// Body is the body of a message under its signatures. It is read once, for all
// hashes that are wanted until the first of them is asked for.
type Body struct {
	r    io.Reader
	want []*bodyHash
	done bool
	err  error
}

// NewBody returns the body that r has: all that follows the empty line after
// the header section.
func NewBody(r io.Reader) *Body { return &Body{r: r} }

type bodyHash struct {
	canon  Canon
	length int64 // what l= says, or -1
	sum    hash.Hash
	left   int64 // of length
	total  int64 // canonical bytes in all
}

func (b *Body) find(c Canon, length int64) *bodyHash {
	for _, h := range b.want {
		if h.canon == c && h.length == length {
			return h
		}
	}
	return nil
}

// Want says that a hash will be asked for. The length is that of a tag l, -1
// for all of the body.
func (b *Body) Want(c Canon, length int64) {
	if !b.done && b.find(c, length) == nil {
		b.want = append(b.want, &bodyHash{canon: c, length: length, left: length, sum: sha256.New()})
	}
}

// Sum returns the SHA-256 hash of the canonical body, or of its first length
// bytes, and how many bytes there are in all. The first call reads the body.
// What was not wanted before is an error.
func (b *Body) Sum(c Canon, length int64) (sum []byte, total int64, err error) {
	if !b.done {
		b.Want(c, length)
		b.done, b.err = true, b.read()
	}
	h := b.find(c, length)
	if b.err != nil || h == nil {
		if b.err == nil {
			b.err = io.ErrUnexpectedEOF
		}
		return nil, 0, b.err
	}
	return h.sum.Sum(nil), h.total, nil
}

func (h *bodyHash) Write(p []byte) {
	h.total += int64(len(p))
	if h.length >= 0 {
		p = p[:min(int64(len(p)), h.left)]
		h.left -= int64(len(p))
	}
	h.sum.Write(p)
}

// bufferSize is that of each buffer.
const bufferSize = 16 << 10

// read gives the body to all hashes. Memory is that of the buffers here.
func (b *Body) read() error {
	var simple, relaxed sinks
	for _, h := range b.want {
		if h.canon == Simple {
			simple = append(simple, h)
		} else {
			relaxed = append(relaxed, h)
		}
	}
	size := int64(bufferSize)
	if r, ok := b.r.(interface{ Size() int64 }); ok { // most messages are short
		size = min(size, r.Size()+1)
	}
	buf := make([]byte, size)
	s, r := simpleBody{to: simple}, relaxedBody{to: relaxed}
	if len(relaxed) > 0 {
		r.out = make([]byte, 0, size+size/16)
	}
	for {
		n, err := b.r.Read(buf)
		if len(simple) > 0 {
			s.write(buf[:n])
		}
		if len(relaxed) > 0 {
			r.write(buf[:n])
		}
		if err == io.EOF {
			s.end()
			r.end()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type sinks []*bodyHash

func (s sinks) write(p []byte) {
	for _, h := range s {
		h.Write(p)
	}
}

// simpleBody drops empty lines at the end, and ends the last line (RFC 6376
// section 3.4.3).
type simpleBody struct {
	to      sinks
	pending int64 // line ends that may be the last
	cr      bool  // a CR after them
	ends    []byte
}

func (s *simpleBody) write(p []byte) {
	if len(p) == 0 {
		return
	}
	if s.cr && p[0] == '\n' {
		s.pending, s.cr, p = s.pending+1, false, p[1:]
	}
	text := len(p)
	cr := text > 0 && p[text-1] == '\r'
	if cr {
		text--
	}
	var ends int64
	for text >= 2 && p[text-2] == '\r' && p[text-1] == '\n' {
		text, ends = text-2, ends+1
	}
	if text == 0 && !s.cr {
		s.pending, s.cr = s.pending+ends, cr
		return
	}
	s.flush()
	s.to.write(p[:text])
	s.pending, s.cr = ends, cr
}

func (s *simpleBody) flush() {
	if s.ends == nil {
		s.ends = bytes.Repeat([]byte("\r\n"), 512)
	}
	for s.pending > 0 {
		n := min(s.pending, int64(len(s.ends)/2))
		s.to.write(s.ends[:2*n])
		s.pending -= n
	}
	if s.cr {
		s.to.write(s.ends[:1])
	}
	s.cr = false
}

func (s *simpleBody) end() {
	if s.cr { // content, as no LF follows
		s.flush()
	}
	s.to.write([]byte("\r\n"))
}

// relaxedBody also drops white space at the ends of lines and makes any other
// run of it one space (RFC 6376 section 3.4.4).
type relaxedBody struct {
	to      sinks
	out     []byte
	pending int64 // line ends that may be the last
	cr      bool
	space   bool // white space that may be the last of its line
	any     bool // there is text
}

func (r *relaxedBody) write(p []byte) {
	for i := 0; i < len(p); {
		c := p[i]
		if r.cr {
			r.cr = false
			if c == '\n' {
				r.pending, r.space = r.pending+1, false
				i++
				continue
			}
			r.text([]byte{'\r'})
		}
		switch c {
		case ' ', '\t':
			r.space = true
			i++
		case '\r':
			r.cr = true
			i++
		default:
			start := i
			for i < len(p) && p[i] != ' ' && p[i] != '\t' && p[i] != '\r' {
				i++
			}
			r.text(p[start:i])
		}
	}
	r.to.write(r.out)
	r.out = r.out[:0]
}

func (r *relaxedBody) text(p []byte) {
	for ; r.pending > 0; r.pending-- {
		if len(r.out) > bufferSize {
			r.to.write(r.out)
			r.out = r.out[:0]
		}
		r.out = append(r.out, "\r\n"...)
	}
	if r.space {
		r.out = append(r.out, ' ')
		r.space = false
	}
	r.out = append(r.out, p...)
	r.any = true
}

func (r *relaxedBody) end() {
	if r.cr {
		r.text([]byte{'\r'})
	}
	r.to.write(r.out)
	if r.any {
		r.to.write([]byte("\r\n"))
	}
}
