package email

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// piece is a run of bytes of something else.
type piece struct {
	from   io.ReaderAt
	offset int64 // in from
	size   int64
}

// splice is what pieces are in a row.
type splice struct {
	pieces []piece
	size   int64
}

// newSplice puts prefix in front of body, leaves ranges of body out, which must be
// in order, and puts a line end in at blank, which is behind them, if it is not 0.
func newSplice(prefix []byte, body *io.SectionReader, cuts []span, blank int64) *io.SectionReader {
	s := &splice{}
	s.add(bytes.NewReader(prefix), 0, int64(len(prefix)))
	var at int64
	for _, c := range cuts {
		s.add(body, at, c.Start-at)
		at = c.End
	}
	if blank > 0 {
		s.add(body, at, blank-at)
		s.add(strings.NewReader("\r\n"), 0, 2)
		at = blank
	}
	s.add(body, at, body.Size()-at)
	return io.NewSectionReader(s, 0, s.size)
}

// span is a range of bytes, End not included.
type span struct{ Start, End int64 }

func (s *splice) add(from io.ReaderAt, offset, size int64) {
	if size > 0 {
		s.pieces = append(s.pieces, piece{from, offset, size})
		s.size += size
	}
}

func (s *splice) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d, before the beginning", off)
	}
	for _, c := range s.pieces {
		if off >= c.size {
			off -= c.size
			continue
		}
		want := min(int64(len(p)-n), c.size-off)
		got, err := c.from.ReadAt(p[n:n+int(want)], c.offset+off)
		n += got
		if int64(got) < want {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the piece has become shorter
			}
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}
