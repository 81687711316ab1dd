package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// ErrHeaderTooLarge is returned for a header section beyond the limit.
var ErrHeaderTooLarge = errors.New("the header section is too large")

// Field is one header field (RFC 5322 section 2.2).
type Field struct {
	// Name is the field's name as it was written.
	Name string
	// Raw is the whole field, folded as it was sent, with its line endings.
	Raw []byte
}

// Value is what follows the colon, unfolded (RFC 5322 section 2.2.3), without
// white space around it.
func (f Field) Value() string {
	_, body, _ := bytes.Cut(f.Raw, []byte(":"))
	if bytes.IndexByte(body, '\n') >= 0 {
		unfolded := make([]byte, 0, len(body))
		for _, b := range body {
			if b != '\r' && b != '\n' {
				unfolded = append(unfolded, b)
			}
		}
		body = unfolded
	}
	return string(bytes.Trim(body, " \t\r\n"))
}

// Header is a header section: its fields from top to bottom.
type Header []Field

// Get returns the value of the first field of this name, or "".
func (h Header) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value()
		}
	}
	return ""
}

// Has reports whether there is a field of this name with a value, as Date and
// Message-ID that a submission server adds where they lack (RFC 6409 section 8).
func (h Header) Has(name string) bool { return h.Get(name) != "" }

// All returns the fields of this name from top to bottom.
func (h Header) All(name string) []Field {
	var list []Field
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			list = append(list, f)
		}
	}
	return list
}

// ReadHeader reads the header section of a message or part, at most limit
// bytes of it, and returns how many bytes it took up with the empty line that
// ends it. What comes after that line is left in r.
//
// A line that is no header field ends the section too and belongs to the body,
// as it does for the mail servers that a message may come to after us: all of
// them have to see the same From.
func ReadHeader(r *bufio.Reader, limit int) (h Header, size int, err error) {
	return readHeader(r, limit, nil)
}

// readHeader also ends before a line for which stop is true, without using it up:
// a delimiter of MIME may look like a field, as "--a:b".
func readHeader(r *bufio.Reader, limit int, stop func(line []byte) bool) (h Header, size int, err error) {
	for {
		start, err := r.Peek(1)
		if err != nil {
			return h, size, eofIsEnd(err)
		}
		if stop != nil && start[0] == '-' && stop(peekLine(r)) {
			return h, size, nil
		}
		if start[0] == ' ' || start[0] == '\t' {
			if len(h) == 0 {
				return h, size, nil // white space continues nothing here
			}
		} else if ok, err := startsField(r, limit-size); err != nil || !ok {
			if err == nil {
				size += skipEmptyLine(r)
			}
			return h, size, err
		}
		line, err := readLine(r, limit-size)
		size += len(line)
		if err != nil && !(err == io.EOF && len(line) > 0) {
			return h, size, eofIsEnd(err)
		}
		if start := line[0]; start == ' ' || start == '\t' {
			last := &h[len(h)-1]
			last.Raw = append(last.Raw, line...)
			continue
		}
		name, _, _ := bytes.Cut(line, []byte(":"))
		h = append(h, Field{Name: string(bytes.TrimRight(name, " \t")), Raw: line})
	}
}

func eofIsEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// startsField reports whether the next line begins with a field's name, a colon
// behind it (RFC 5322 section 2.2; with white space between, section 4.5.8).
func startsField(r *bufio.Reader, limit int) (bool, error) {
	if limit <= 0 {
		return false, ErrHeaderTooLarge
	}
	for n := 16; ; n *= 2 {
		head, err := r.Peek(min(n, maxLine+1, r.Size()))
		for i, b := range head {
			switch {
			case b == ':':
				return len(bytes.TrimRight(head[:i], " \t")) > 0, nil
			case b == ' ' || b == '\t':
				if rest := bytes.TrimLeft(head[i:], " \t"); len(rest) > 0 && rest[0] != ':' {
					return false, nil
				}
			case b < '!' || b > '~':
				return false, nil
			}
		}
		if err != nil || len(head) < n {
			return false, eofIsEnd(err)
		}
	}
}

func skipEmptyLine(r *bufio.Reader) int {
	for _, end := range []string{"\r\n", "\n"} {
		if next, _ := r.Peek(len(end)); string(next) == end {
			n, _ := r.Discard(len(end))
			return n
		}
	}
	return 0
}

// peekLine returns the next line without its end, if it is short enough to be a
// delimiter, without using it up.
func peekLine(r *bufio.Reader) []byte {
	line, _ := r.Peek(min(maxBoundary+8, r.Size())) // "--", "--" and the line's end around it
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	return line
}

// readLine reads up to the end of a line.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return line, ErrHeaderTooLarge
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// Body returns what follows the header section of a message, without reading it.
func Body(msg *io.SectionReader) (*io.SectionReader, error) {
	r := bufio.NewReader(io.NewSectionReader(msg, 0, msg.Size()))
	_, size, err := ReadHeader(r, maxBodyHeader)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(msg, int64(size), msg.Size()-int64(size)), nil
}

// maxBodyHeader bounds the header section that Body passes over.
const maxBodyHeader = 1 << 20
