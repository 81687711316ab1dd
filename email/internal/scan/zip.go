package scan

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/text/encoding/charmap"
)

// errZip is returned for what is no ZIP file or a damaged one.
var errZip = errors.New("damaged ZIP file")

// A zipEntry is a file in a ZIP file (APPNOTE.TXT section 4.3.12). archive/zip is
// not used as it keeps all entries in memory.
type zipEntry struct {
	names            []string // by the directory, the entry's own header, and extra fields
	encrypted        bool
	method           uint16
	compressed, size uint64
	data             int64 // where the compressed bytes begin; -1 if that is unknown
	file             *io.SectionReader
	inflate          *inflater
}

// An inflater is used for one entry after the other.
type inflater struct {
	in  *bufio.Reader
	out io.ReadCloser
}

func newInflater() *inflater {
	in := bufio.NewReader(nil)
	return &inflater{in, flate.NewReader(in)}
}

func (i *inflater) open(r io.Reader) io.Reader {
	i.in.Reset(r)
	// It is documented to be a Resetter, and an error is not possible.
	_ = i.out.(flate.Resetter).Reset(i.in, nil)
	return i.out
}

const (
	zipEndSize     = 22
	zipEntrySize   = 46
	zipHeaderSize  = 30
	zipUTF8        = 1 << 11
	maxZipComment  = 1<<16 - 1
	zip64          = 1<<32 - 1
	zipExtraZip64  = 0x0001
	zipExtraPath   = 0x7075
	zip64Locator   = 20
	zip64EndSize   = 56
	zipStored      = 0
	zipDeflated    = 8
	maxZipNameSize = 4 << 10 // of a name that is looked at
)

// eachZipEntry calls visit for the entries of the directory, of which it keeps
// one at a time. What an entry opens is valid until the next is visited.
func eachZipEntry(file *io.SectionReader, visit func(*zipEntry) error) error {
	start, base, end, err := zipDirectory(file)
	if err != nil {
		return err
	}
	r := bufio.NewReader(io.NewSectionReader(file, start, end-start))
	inflate := newInflater()
	for {
		head := make([]byte, zipEntrySize)
		if _, err := io.ReadFull(r, head); err != nil || string(head[:4]) != "PK\x01\x02" {
			if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			return err
		}
		e, err := readZipEntry(r, head, file, base)
		if err != nil {
			return err
		}
		e.inflate = inflate
		if err := visit(e); err != nil {
			return err
		}
	}
}

// isZip reports whether there is a directory with something in it.
func isZip(file *io.SectionReader) bool {
	start, _, _, err := zipDirectory(file)
	if err != nil {
		return false
	}
	var signature [4]byte
	_, err = file.ReadAt(signature[:], start)
	return err == nil && string(signature[:]) == "PK\x01\x02"
}

// zipDirectory finds the directory by the record at the end, behind which there
// may be a comment. Offsets count from base: before it there may be a program that
// extracts the rest.
func zipDirectory(file *io.SectionReader) (start, base, end int64, err error) {
	tail := make([]byte, min(file.Size(), zipEndSize+maxZipComment))
	tailStart := file.Size() - int64(len(tail))
	if _, err := file.ReadAt(tail, tailStart); err != nil && err != io.EOF {
		return 0, 0, 0, err
	}
	i := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	if i < 0 || len(tail)-i < zipEndSize {
		return 0, 0, 0, errZip
	}
	end = tailStart + int64(i)
	size := uint64(binary.LittleEndian.Uint32(tail[i+12:]))
	offset := uint64(binary.LittleEndian.Uint32(tail[i+16:]))
	if size == zip64 || offset == zip64 || binary.LittleEndian.Uint16(tail[i+10:]) == 1<<16-1 {
		// Section 4.3.14: the true numbers are before it.
		locator := make([]byte, zip64Locator)
		record := make([]byte, zip64EndSize)
		if end >= zip64Locator {
			if _, err := file.ReadAt(locator, end-zip64Locator); err != nil {
				return 0, 0, 0, err
			}
		}
		if string(locator[:4]) == "PK\x06\x07" {
			at := binary.LittleEndian.Uint64(locator[8:])
			if at >= uint64(file.Size()) {
				return 0, 0, 0, errZip
			}
			if _, err := file.ReadAt(record, int64(at)); err != nil && err != io.EOF {
				return 0, 0, 0, err
			}
			if string(record[:4]) != "PK\x06\x06" {
				return 0, 0, 0, errZip
			}
			size = binary.LittleEndian.Uint64(record[40:])
			offset = binary.LittleEndian.Uint64(record[48:])
			end = int64(at)
		}
	}
	if size > uint64(end) || offset > uint64(end) {
		return 0, 0, 0, errZip
	}
	if base = end - int64(size) - int64(offset); base < 0 {
		base = 0
	}
	signature := make([]byte, 4)
	if _, err := file.ReadAt(signature, int64(offset)); err == nil && string(signature) == "PK\x01\x02" {
		base = 0
	}
	return base + int64(offset), base, end, nil
}

func readZipEntry(r *bufio.Reader, head []byte, file *io.SectionReader, base int64) (*zipEntry, error) {
	flags := binary.LittleEndian.Uint16(head[8:])
	e := &zipEntry{
		encrypted:  flags&1 != 0,
		method:     binary.LittleEndian.Uint16(head[10:]),
		compressed: uint64(binary.LittleEndian.Uint32(head[20:])),
		size:       uint64(binary.LittleEndian.Uint32(head[24:])),
		data:       -1,
		file:       file,
	}
	offset := uint64(binary.LittleEndian.Uint32(head[42:]))
	name := make([]byte, binary.LittleEndian.Uint16(head[28:]))
	extra := make([]byte, binary.LittleEndian.Uint16(head[30:]))
	comment := int(binary.LittleEndian.Uint16(head[32:]))
	if _, err := io.ReadFull(r, name); err != nil {
		return nil, errZip
	}
	if _, err := io.ReadFull(r, extra); err != nil {
		return nil, errZip
	}
	if _, err := r.Discard(comment); err != nil {
		return nil, errZip
	}
	e.addName(name, flags)
	e.readExtra(extra, &offset)
	if at := base + int64(offset); offset <= uint64(file.Size()) && at+zipHeaderSize <= file.Size() {
		e.readHeader(at)
	}
	return e, nil
}

func (e *zipEntry) addName(name []byte, flags uint16) {
	name = name[:min(len(name), maxZipNameSize)]
	s := string(name)
	if flags&zipUTF8 == 0 {
		if decoded, err := charmap.CodePage437.NewDecoder().Bytes(name); err == nil {
			s = string(decoded)
		}
	}
	for _, known := range e.names {
		if known == s {
			return
		}
	}
	e.names = append(e.names, s)
}

// readExtra reads the extra fields that hold sizes (section 4.5.3) and a name
// (section 4.6.9).
func (e *zipEntry) readExtra(extra []byte, offset *uint64) {
	for len(extra) >= 4 {
		id, size := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; size > len(extra) {
			return
		}
		field := extra[:size]
		extra = extra[size:]
		switch {
		case id == zipExtraPath && len(field) > 5:
			e.addName(field[5:], zipUTF8)
		case id == zipExtraZip64:
			for _, n := range []*uint64{&e.size, &e.compressed, offset} {
				if *n == zip64 && len(field) >= 8 {
					*n = binary.LittleEndian.Uint64(field)
					field = field[8:]
				}
			}
		}
	}
}

// readHeader finds the data behind the entry's own header, which has a name too:
// some programs go by that one.
func (e *zipEntry) readHeader(at int64) {
	head := make([]byte, zipHeaderSize)
	if _, err := e.file.ReadAt(head, at); err != nil || string(head[:4]) != "PK\x03\x04" {
		return
	}
	nameSize := int64(binary.LittleEndian.Uint16(head[26:]))
	extraSize := int64(binary.LittleEndian.Uint16(head[28:]))
	name := make([]byte, min(nameSize, maxZipNameSize))
	if _, err := e.file.ReadAt(name, at+zipHeaderSize); err != nil && err != io.EOF {
		return
	}
	e.addName(name, binary.LittleEndian.Uint16(head[6:]))
	if data := at + zipHeaderSize + nameSize + extraSize; data <= e.file.Size() {
		e.data = data
	}
}

// open returns the content, or nil if it cannot be read.
func (e *zipEntry) open() io.Reader {
	if e.data < 0 || e.encrypted {
		return nil
	}
	rest := e.file.Size() - e.data
	switch e.method {
	case zipStored:
		return io.NewSectionReader(e.file, e.data, int64(min(uint64(rest), e.compressed)))
	case zipDeflated:
		return e.inflate.open(io.NewSectionReader(e.file, e.data, rest))
	}
	return nil
}
