package message

import (
	"errors"
	"io"
	"sort"
	"sync"
)

// seekable gives access to decoded content at any offset. It keeps the state of
// the decoder at marks on the way, and what is between two of them, the page that
// was read last.
type seekable struct {
	src   *io.SectionReader
	size  int64
	marks []mark

	mu   sync.Mutex
	page []byte
	from int // the mark that page begins at; -1 for none
}

// A mark is a state of the decoder.
type mark struct {
	raw, decoded int64
	dec          decoder
}

const (
	pageSize = 64 << 10
	// maxPageRaw bounds what is read for a page: there may be little in it but
	// what is passed over.
	maxPageRaw = 4 * pageSize
)

func newSeekable(src *io.SectionReader, e encoding) (*seekable, error) {
	s := &seekable{src: src, marks: []mark{{dec: e.decoder()}}, from: -1}
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
		if last := s.marks[len(s.marks)-1]; s.size-last.decoded >= pageSize || r.read-last.raw >= maxPageRaw {
			s.marks = append(s.marks, mark{r.read, s.size, r.dec.clone()})
		}
	}
}

func (s *seekable) section() *io.SectionReader { return io.NewSectionReader(s, 0, s.size) }

// ReadAt implements [io.ReaderAt].
func (s *seekable) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) {
		at := off + int64(n)
		if at >= s.size {
			return n, io.EOF
		}
		i := sort.Search(len(s.marks), func(i int) bool { return s.marks[i].decoded > at }) - 1
		if err := s.load(i); err != nil {
			return n, err
		}
		n += copy(p[n:], s.page[at-s.marks[i].decoded:])
	}
	return n, nil
}

// load decodes what is between a mark and the next.
func (s *seekable) load(i int) error {
	if i == s.from {
		return nil
	}
	end := s.size
	if i+1 < len(s.marks) {
		end = s.marks[i+1].decoded
	}
	m := s.marks[i]
	if n := int(end - m.decoded); n > cap(s.page) {
		s.page = make([]byte, n)
	} else {
		s.page = s.page[:n]
	}
	s.from = -1
	r := newDecodeReader(io.NewSectionReader(s.src, m.raw, s.src.Size()-m.raw), m.dec.clone())
	if _, err := io.ReadFull(r, s.page); err != nil {
		return err
	}
	s.from = i
	return nil
}
