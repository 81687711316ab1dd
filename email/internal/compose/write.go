package compose

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"

	"github.com/emersion/go-message/textproto"
)

// Write writes the message, with CRLF at all line ends, and at its own. What it
// takes of memory does not grow with attachments that are opened. It can be called
// again, and writes the same as long as these stay the same.
func (p *Prepared) Write(w io.Writer) (Written, error) {
	out := &counter{w: w, left: p.maxSize}
	buf := bufio.NewWriterSize(out, 32<<10)
	ww := &writer{Writer: buf}
	err := textproto.WriteHeader(ww, header(p.root.fields))
	if err == nil {
		err = ww.body(p.root)
	}
	if err == nil && string(ww.tail[:]) != "\r\n" {
		_, err = io.WriteString(ww, "\r\n")
	}
	if err == nil {
		err = buf.Flush()
	}
	return Written{Size: out.written, EightBit: ww.eightBit}, err
}

// writer knows how what went through it ends.
type writer struct {
	io.Writer
	tail     [2]byte
	eightBit bool
}

func (w *writer) Write(b []byte) (int, error) {
	switch len(b) {
	case 0:
	case 1:
		w.tail = [2]byte{w.tail[1], b[0]}
	default:
		w.tail = [2]byte(b[len(b)-2:])
	}
	return w.Writer.Write(b)
}

// body writes what follows the header section of a part, by way of the writer.
func (w *writer) body(p *part) error { return w.bodyTo(w, p) }

func (w *writer) bodyTo(to io.Writer, p *part) error {
	switch {
	case p.boundary != "":
		return w.multipart(to, p)
	case p.file != nil:
		if err := w.file(to, p.file); err != nil {
			return fmt.Errorf("attachments[%d] (%q): %w", p.index, p.file.Filename, err)
		}
		return nil
	case p.base64:
		text := strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(p.text)
		return encodeBase64(to, strings.NewReader(text))
	}
	qp := quotedprintable.NewWriter(to) // writes CRLF for line ends of any kind
	if _, err := io.WriteString(qp, p.text); err != nil {
		return err
	}
	return qp.Close()
}

func (w *writer) multipart(to io.Writer, p *part) error {
	mw := textproto.NewMultipartWriter(to)
	if err := mw.SetBoundary(p.boundary); err != nil {
		return err
	}
	for _, inner := range p.parts {
		pw, err := mw.CreatePart(header(inner.fields))
		if err != nil {
			return err
		}
		if err := w.bodyTo(pw, inner); err != nil {
			return err
		}
	}
	return mw.Close()
}

func (w *writer) file(to io.Writer, f *file) error {
	var r io.Reader = bytes.NewReader(f.Content)
	if f.Open != nil {
		opened, err := f.Open()
		if err != nil {
			return err
		}
		if opened == nil {
			return errors.New("there is nothing to read from")
		}
		defer opened.Close()
		r = opened
	}
	if f.mediaType == "message/rfc822" {
		asIs := &asIs{w: to}
		_, err := io.Copy(asIs, struct{ io.Reader }{r}) // not its WriteTo, which may hand over all at once
		w.eightBit = w.eightBit || asIs.eightBit
		if err == nil {
			err = asIs.end()
		}
		return err
	}
	return encodeBase64(to, r)
}

// rawLine is how many bytes make a line of base64 (RFC 2045 section 6.8).
const rawLine = 57

// encodeBase64 writes lines of base64, some hundreds at a time, without a line break
// at the end.
func encodeBase64(w io.Writer, r io.Reader) error {
	const lines = 400
	raw, out := make([]byte, lines*rawLine), make([]byte, 0, lines*(preferredLine+2))
	for first := true; ; first = false {
		n, err := io.ReadFull(r, raw)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		out = out[:0]
		for at := 0; at < n; at += rawLine {
			if !first || at > 0 {
				out = append(out, "\r\n"...)
			}
			out = base64.StdEncoding.AppendEncode(out, raw[at:min(n, at+rawLine)])
		}
		if _, werr := w.Write(out); werr != nil || err != nil {
			return werr
		}
	}
}

// asIs writes a message within a message, which has to be one that can be sent
// (RFC 5321 section 4.5.3.1.6).
type asIs struct {
	w        io.Writer
	line     int
	cr       bool
	eightBit bool
}

func (a *asIs) Write(b []byte) (int, error) {
	start := 0 // of what is not written yet
	for i, c := range b {
		switch {
		case a.cr && c != '\n':
			return start, errors.New("the message has a carriage return without line feed")
		case c == 0:
			return start, errors.New("the message has a NUL character")
		case c == '\n':
			if !a.cr {
				if _, err := a.w.Write(b[start:i]); err != nil {
					return start, err
				}
				if _, err := io.WriteString(a.w, "\r"); err != nil {
					return start, err
				}
				start = i
			}
			a.line = -1
		case c != '\r' && a.line >= 998:
			return start, errors.New("the message has a line of more than 998 characters")
		case c >= 0x80:
			a.eightBit = true
		}
		a.cr = c == '\r'
		a.line++
	}
	if _, err := a.w.Write(b[start:]); err != nil {
		return start, err
	}
	return len(b), nil
}

func (a *asIs) end() error {
	if a.cr {
		return errors.New("the message has a carriage return without line feed")
	}
	return nil
}

// counter counts, and stops at a limit.
type counter struct {
	w             io.Writer
	written, left int64
}

func (c *counter) Write(b []byte) (int, error) {
	if int64(len(b)) > c.left {
		return 0, ErrTooLarge
	}
	n, err := c.w.Write(b)
	c.written += int64(n)
	c.left -= int64(n)
	return n, err
}
