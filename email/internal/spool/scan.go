package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// scanner reads the records of a segment from front to back. Where there is
// none it looks for the next, so what is damaged costs nothing but itself.
type scanner struct {
	seg  *segment
	off  int64
	salt [8]byte

	gaps []gap // places with something else than records, with records behind them

	window    []byte // of the file, at windowOff
	windowOff int64
}

type gap struct{ off, end int64 }

// scanned is a record in a segment.
type scanned struct {
	header
	off   int64
	whole bool // envelope and state are as they were written
}

const (
	scanWindow = 32 << 10
	scanPage   = 4 << 10
	// maxGaps bounds how many gaps are told apart.
	maxGaps = 1024
)

func newScanner(seg *segment) *scanner {
	s := &scanner{seg: seg}
	binary.LittleEndian.PutUint64(s.salt[:], seg.salt)
	return s
}

// next returns the next record; ok is false at the end. It fails only if a
// newer version wrote the segment.
func (s *scanner) next() (rec scanned, ok bool, err error) {
	h, ok, err := s.header(s.off)
	if err != nil {
		return scanned{}, false, err
	}
	if !ok {
		from := s.off
		if h, ok, err = s.find(); !ok {
			return scanned{}, false, err
		}
		if len(s.gaps) < maxGaps {
			s.gaps = append(s.gaps, gap{from, s.off})
		} else {
			s.gaps[maxGaps-1].end = s.off
		}
	}
	meta := s.read(s.off+headerSize, h.meta())
	rec = scanned{header: h, off: s.off, whole: int64(len(meta)) == h.meta() && crc32.Checksum(meta, castagnoli()) == h.metaCRC}
	s.off += h.size()
	return rec, true, nil
}

func (s *scanner) header(off int64) (header, bool, error) {
	return parseHeader(s.read(off, headerSize), s.seg.salt, off, s.seg.size)
}

// find moves on to the next record. If there is none it stays where it is.
func (s *scanner) find() (header, bool, error) {
	for at := s.off + recordAlign; at+headerSize <= s.seg.size; {
		b := s.read(at, min(scanWindow, s.seg.size-at))
		i := bytes.Index(b, s.salt[:])
		if i < 0 {
			if len(b) < scanWindow { // the end
				break
			}
			at += scanWindow - recordAlign // one may begin in the last bytes
			continue
		}
		at += int64(i)
		if at%recordAlign == 0 {
			if h, ok, err := s.header(at); ok || err != nil {
				s.off = at
				return h, ok, err
			}
		}
		at = at/recordAlign*recordAlign + recordAlign
	}
	return header{}, false, nil
}

// read returns n bytes at off, fewer where the file ends. They are good until
// the next call. What cannot be read is zero, which is no record.
func (s *scanner) read(off, n int64) []byte {
	n = max(0, min(n, s.seg.size-off))
	if off < s.windowOff || off+n > s.windowOff+int64(len(s.window)) {
		size := min(max(n, scanWindow), s.seg.size-off)
		if int64(cap(s.window)) < size || int64(cap(s.window)) > max(size, scanWindow) {
			s.window = make([]byte, size)
		}
		s.window = s.window[:size]
		s.windowOff = off
		s.fill()
	}
	b := s.window[min(off-s.windowOff, int64(len(s.window))):]
	return b[:min(n, int64(len(b)))]
}

func (s *scanner) fill() {
	n, err := s.seg.file.ReadAt(s.window, s.windowOff)
	if n == len(s.window) {
		return
	}
	clear(s.window[n:])
	if err == nil || isEOF(err) {
		return
	}
	// Perhaps it is only one sector.
	for at := n / scanPage * scanPage; at < len(s.window); at += scanPage {
		page := s.window[at:min(at+scanPage, len(s.window))]
		if n, _ := s.seg.file.ReadAt(page, s.windowOff+int64(at)); n < len(page) {
			clear(page[n:])
		}
	}
}
