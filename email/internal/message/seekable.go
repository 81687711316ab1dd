package message

import (
	"errors"
	"io"
	"sort"
	"sync"
)

// seekable gives access to decoded content at any offset. It keeps the state of
// the decoder at marks on the way, and decodes again from the last of them.
type seekable struct {
	src   *io.SectionReader
	size  int64
	marks []mark

	mu sync.Mutex
	r  *decodeReader
	at int64 // decoded offset of what r gives next
}

// A mark is a state of the decoder.
type mark struct {
	raw, decoded int64
	dec          decoder
}

const markDistance = 64 << 10

func newSeekable(src *io.SectionReader, e encoding) (*seekable, error) {
	s := &seekable{src: src, marks: []mark{{dec: e.decoder()}}}
	r := newDecodeReader(io.NewSectionReader(src, 0, src.Size()), e.decoder())
	for {
		err := r.fill()
		if err == io.EOF {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		s.size += int64(len(r.out))
		if s.size-s.marks[len(s.marks)-1].decoded >= markDistance {
			s.marks = append(s.marks, mark{r.read, s.size, r.dec.clone()})
		}
	}
}

func (s *seekable) section() *io.SectionReader { return io.NewSectionReader(s, 0, s.size) }

// ReadAt reads on where the last call has ended, or from the mark before off.
func (s *seekable) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= s.size {
		return 0, io.EOF
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].decoded > off }) - 1
	if m := s.marks[i]; s.r == nil || off < s.at || s.at < m.decoded {
		s.r = newDecodeReader(io.NewSectionReader(s.src, m.raw, s.src.Size()-m.raw), m.dec.clone())
		s.at = m.decoded
	}
	if s.at < off {
		skipped, err := io.CopyN(io.Discard, s.r, off-s.at)
		s.at += skipped
		if err != nil {
			s.r = nil
			return 0, err
		}
	}
	n, err = io.ReadFull(s.r, p)
	s.at += int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}
