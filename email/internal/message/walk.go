package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var (
	// ErrTooDeep is returned for parts nested beyond the limit.
	ErrTooDeep = errors.New("the parts of the message are nested too deeply")
	// ErrTooManyParts is returned for more parts than the limit.
	ErrTooManyParts = errors.New("the message has too many parts")
	// ErrStop ends a walk without an error.
	ErrStop = errors.New("enough seen")
)

// Limits bounds what a walk takes upon itself. 0 means the default.
type Limits struct {
	// Depth is how deep parts may be nested; the message itself is at depth 0.
	// Default 50.
	Depth int
	// Parts is how many parts there may be, with those that hold others.
	// Default 1000.
	Parts int
	// HeaderBytes bounds the header section of the message and of each part.
	// Default 64 KiB.
	HeaderBytes int
}

func (l Limits) withDefaults() Limits {
	if l.Depth == 0 {
		l.Depth = 50
	}
	if l.Parts == 0 {
		l.Parts = 1000
	}
	if l.HeaderBytes == 0 {
		l.HeaderBytes = 64 << 10
	}
	return l
}

const (
	// maxBoundary bounds a boundary; RFC 2046 section 5.1.1 allows 70 bytes.
	maxBoundary = 1000
	// maxEncodedLayers is how many messages may be inside of each other with a
	// transfer encoding around each. RFC 2046 section 5.2.1 allows none, and each
	// costs reading all that is outside of it again.
	maxEncodedLayers = 3
	walkBuffer       = 32 << 10
)

// Walk calls visit for a message and each of its parts, from the first to the
// last: a part that holds others (multipart/*, message/rfc822) before those. It
// takes the same memory for any size.
//
// It is as lenient as mail clients are, and when in doubt shows rather more
// parts than one of them would: a multipart without a boundary has the one that
// its first delimiter shows, one that is not closed ends with what is around it,
// and parts after the closing delimiter are shown too.
//
// It returns the error of visit, but nil for [ErrStop]; [ErrTooDeep],
// [ErrTooManyParts] or [ErrHeaderTooLarge]; or one of reading msg.
func Walk(msg *io.SectionReader, limits Limits, visit func(*Part) error) error {
	count := 0
	w := &walker{msg: msg, limits: limits.withDefaults(), visit: visit, count: &count}
	err := w.walk(0)
	if err == ErrStop {
		return nil
	}
	return err
}

// A walker reads a message once, line by line, and knows the delimiters of all
// the multiparts that it is inside of.
type walker struct {
	msg    *io.SectionReader
	limits Limits
	visit  func(*Part) error
	count  *int // parts seen, over all layers
	layers int  // messages with a transfer encoding around this one

	r     *bufio.Reader
	at    int64 // where in msg the next line begins
	stack []enclosure
	leaf  *Part // the part whose content is being read, if it is one that holds no others
}

// An enclosure is a multipart that is being read.
type enclosure struct {
	part     *Part
	boundary []byte // nil as long as it is unknown
	parts    int
	closed   bool
}

func (w *walker) walk(depth int) error {
	w.r = bufio.NewReaderSize(io.NewSectionReader(w.msg, 0, w.msg.Size()), walkBuffer)
	if err := w.begin(depth, "text/plain"); err != nil {
		return err
	}
	for {
		end, level, closing, err := w.scan()
		if err != nil {
			return err
		}
		if err := w.finish(end, level); err != nil {
			return err
		}
		if level < 0 {
			return nil
		}
		e := &w.stack[level]
		e.closed = closing
		if closing {
			continue // what follows is an epilogue
		}
		e.parts++
		mediaType := "text/plain"
		if e.part.MediaType == "multipart/digest" {
			mediaType = "message/rfc822" // RFC 2046 section 5.1.5
		}
		if err := w.begin(e.part.Depth+1, mediaType); err != nil {
			return err
		}
	}
}

// begin reads the header of a part, and those of the messages in it.
func (w *walker) begin(depth int, mediaType string) error {
	for {
		h, size, err := readHeader(w.r, w.limits.HeaderBytes, func(line []byte) bool {
			level, _ := w.delimiter(line)
			return level >= 0
		})
		w.at += int64(size)
		if err != nil {
			return err
		}
		p := newPart(h, mediaType)
		p.Depth = depth
		p.Offset = w.at
		p.message = w.msg
		switch {
		case p.multipart():
			w.stack = append(w.stack, enclosure{part: p, boundary: boundaryOf(p)})
			return w.show(p)
		case p.IsMessage() && p.encoding == identity:
			if err := w.show(p); err != nil {
				return err
			}
			depth, mediaType = depth+1, "text/plain"
		default:
			w.leaf = p
			return nil
		}
	}
}

func boundaryOf(p *Part) []byte {
	b := bytes.TrimRight([]byte(p.Params["boundary"]), " \t")
	if len(b) == 0 || len(b) > maxBoundary {
		p.Defects = append(p.Defects, "multipart without a boundary")
		return nil
	}
	return b
}

// show numbers a part and hands it to the visitor.
func (w *walker) show(p *Part) error {
	if p.Depth > w.limits.Depth {
		return ErrTooDeep
	}
	if *w.count >= w.limits.Parts {
		return ErrTooManyParts
	}
	p.Index = *w.count
	*w.count++
	return w.visit(p)
}

// finish is called where content has come to its end at a delimiter of the
// enclosure at this level, or of the message at -1.
func (w *walker) finish(end int64, level int) error {
	if p := w.leaf; p != nil {
		w.leaf = nil
		if err := w.showLeaf(p, end); err != nil {
			return err
		}
	}
	for i := len(w.stack) - 1; i > level; i-- {
		if e := w.stack[i]; e.parts == 0 {
			// What was said to be a multipart is none. Someone may show it as text.
			p := *e.part
			p.Depth++
			p.MediaType = "text/plain"
			if err := w.showLeaf(&p, end); err != nil {
				return err
			}
		}
	}
	w.stack = w.stack[:level+1]
	return nil
}

func (w *walker) showLeaf(p *Part, end int64) error {
	p.Size = max(0, end-p.Offset)
	if !p.IsMessage() {
		p.leaf = true
		return w.show(p)
	}
	if err := w.show(p); err != nil {
		return err
	}
	if w.layers >= maxEncodedLayers {
		return ErrTooDeep
	}
	inner, err := newSeekable(p.Raw(), p.encoding)
	if err != nil {
		return err
	}
	return (&walker{msg: inner.section(), limits: w.limits, visit: w.visit, count: w.count, layers: w.layers + 1}).walk(p.Depth + 1)
}

// scan reads on to the next delimiter and returns where the content before it
// ends, and the enclosure that it belongs to: -1 at the end of the message.
func (w *walker) scan() (end int64, level int, closing bool, err error) {
	lineStart := true
	lastEnd := 0 // length of the line ending before this line
	for {
		line, err := w.r.ReadSlice('\n')
		if lineStart && len(line) > 2 && line[0] == '-' {
			if level, closing = w.delimiter(line); level >= 0 {
				end = w.at - int64(lastEnd)      // it belongs to the delimiter, RFC 2046 section 5.1.1
				for err == bufio.ErrBufferFull { // white space, without end
					w.at += int64(len(line))
					line, err = w.r.ReadSlice('\n')
				}
				w.at += int64(len(line))
				return end, level, closing, eofIsEnd(err)
			}
		}
		w.at += int64(len(line))
		switch {
		case err == bufio.ErrBufferFull:
			lineStart = false
			continue
		case err != nil:
			return w.at, -1, false, eofIsEnd(err)
		}
		lineStart = true
		lastEnd = 1
		if bytes.HasSuffix(line, []byte("\r\n")) {
			lastEnd = 2
		}
	}
}

// delimiter finds the enclosure that a line delimits, and whether it closes it.
// Of several with the same boundary the innermost is meant, as long as it is not
// closed.
func (w *walker) delimiter(line []byte) (level int, closing bool) {
	rest, ok := bytes.CutPrefix(line, []byte("--"))
	if !ok {
		return -1, false
	}
	rest = bytes.TrimRight(rest, " \t\r\n")
	if len(rest) == 0 || len(rest) > maxBoundary+2 {
		return -1, false
	}
	level = -1
	for i := len(w.stack) - 1; i >= 0; i-- {
		e := &w.stack[i]
		after, ok := bytes.CutPrefix(rest, e.boundary)
		if e.boundary == nil || !ok || len(after) > 0 && string(after) != "--" {
			continue
		}
		if !e.closed {
			return i, len(after) > 0
		}
		if level < 0 {
			level, closing = i, len(after) > 0
		}
	}
	if top := len(w.stack) - 1; level < 0 && top >= 0 && w.stack[top].boundary == nil && w.leaf == nil {
		// Some clients take the first line that looks like one.
		w.stack[top].boundary = bytes.Clone(rest)
		return top, false
	}
	return level, closing
}
