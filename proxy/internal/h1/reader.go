package h1

import (
	"bytes"
	"io"
	"net"
	"slices"
	"sync"
)

// Reader reads from a connection through a buffer that it holds only while
// there is something in it. It is not safe for concurrent use.
type Reader struct {
	conn   io.Reader
	raw    rawReader // reads without a buffer in hand, where that can be had
	pool   *sync.Pool
	pooled *[]byte // what buf is part of, nil if it has outgrown the pool's size
	buf    []byte  // nil while nothing is buffered
	r, w   int     // what is buffered is buf[r:w]
	looked int     // how much of it Head has looked at
	early  [1]byte // read while waiting without a buffer
}

// NewReader returns a Reader of conn that begins with what has been read from
// it already. Its buffers are *[]byte of pool.
func NewReader(conn net.Conn, pool *sync.Pool, head []byte) *Reader {
	r := &Reader{conn: conn, pool: pool}
	if len(head) > 0 {
		r.buf, r.w = head, len(head)
	}
	r.raw.init(conn, r)
	return r
}

// Buffered returns what has been read and not been consumed. It is valid until
// the next call of any method.
func (r *Reader) Buffered() []byte { return r.buf[r.r:r.w] }

// Discard consumes n buffered bytes.
func (r *Reader) Discard(n int) {
	r.r += n
	r.looked = max(0, r.looked-n)
	if r.r == r.w {
		r.release()
	}
}

// release gives the buffer back, which must be empty.
func (r *Reader) release() {
	if r.pooled != nil {
		r.pool.Put(r.pooled)
	}
	r.pooled, r.buf, r.r, r.w, r.looked = nil, nil, 0, 0, 0
}

// Close consumes all there is.
func (r *Reader) Close() { r.release() }

// acquire makes room behind what is buffered.
func (r *Reader) acquire() {
	switch {
	case r.buf == nil:
		r.pooled = r.pool.Get().(*[]byte)
		r.buf = *r.pooled
	case r.w < len(r.buf):
	case r.r > 0:
		copy(r.buf, r.buf[r.r:r.w])
		r.r, r.w = 0, r.w-r.r
	default:
		// A head may be larger than the pool's buffers.
		larger := slices.Grow(bytes.Clone(r.buf), max(4096, len(r.buf)))
		old := r.pooled
		r.pooled, r.buf = nil, larger[:cap(larger)]
		if old != nil {
			r.pool.Put(old)
		}
	}
}

// Fill reads once, so that more is buffered.
func (r *Reader) Fill() error {
	if r.raw.usable() {
		return r.raw.fill(r)
	}
	if r.buf == nil {
		// Waiting for the first byte takes no more room than that. Where it is
		// TLS that waits, the others of its record come without waiting.
		n, err := r.conn.Read(r.early[:])
		if n == 0 {
			return noProgress(err)
		}
		r.acquire()
		r.buf[0] = r.early[0]
		r.w = 1
		if !isTLS(r.conn) {
			return nil
		}
	}
	return r.read()
}

// read is Fill for who has a buffer in hand anyway. It takes what one read gives:
// with TLS, where another one would wait, too.
func (r *Reader) read() error {
	if r.raw.usable() {
		return r.raw.fill(r)
	}
	r.acquire()
	n, err := r.conn.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if r.r == r.w {
		r.release()
	}
	return noProgress(err)
}

func noProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// isTLS reports whether a read of one byte leaves the rest of a record to be
// read without waiting.
func isTLS(conn io.Reader) bool {
	_, ok := conn.(interface{ NetConn() net.Conn })
	return ok
}

// Head returns a message head, its empty line included, once it is complete,
// and consumes it. It fails with ErrTooLong beyond limit bytes, and if it is
// not complete without reading on with errIncomplete.
func (r *Reader) Head(limit int) (string, bool, error) {
	for {
		rest := r.buf[r.r+r.looked : r.w]
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		r.looked += i + 1
		// The end of a line; is the line empty?
		line := r.buf[r.r : r.r+r.looked]
		if n := len(line); n >= 2 && line[n-2] == '\n' || n >= 3 && line[n-2] == '\r' && line[n-3] == '\n' || n <= 2 {
			if n > limit {
				return "", false, ErrTooLong
			}
			head := string(line)
			r.Discard(n)
			r.looked = 0
			return head, true, nil
		}
	}
	if r.w-r.r > limit {
		return "", false, ErrTooLong
	}
	return "", false, nil
}

// Read reads what is buffered, and only if nothing is from the connection.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r < r.w {
		n := copy(p, r.buf[r.r:r.w])
		r.Discard(n)
		return n, nil
	}
	return r.conn.Read(p)
}
