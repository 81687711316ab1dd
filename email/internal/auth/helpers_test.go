package auth

import "io"

// section is all of r from an offset on.
func section(r io.ReaderAt, from int64) *io.SectionReader {
	size := int64(0)
	if s, ok := r.(interface{ Size() int64 }); ok {
		size = s.Size()
	}
	return io.NewSectionReader(r, from, size-from)
}

// counting counts what is read.
type counting struct {
	data []byte
	read int
}

func (c *counting) Size() int64 { return int64(len(c.data)) }

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, c.data[off:])
	c.read += n
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
