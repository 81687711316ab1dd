package proxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// flow moves bytes from one connection to another. While there is nothing to
// move it holds no buffer and no pipe, where the system lets it wait without.
type flow struct {
	run      *run
	src, dst net.Conn
	rest     int64          // how many bytes to read yet
	count    *byteCount     // bytes read
	moved    *atomic.Uint64 // grows with each step, in either direction

	buf *[]byte // lent by the run
	off int     // where in buf the bytes begin that are yet to be written
	n   int     // how many there are, in buf or in what raw uses instead

	relay *relay  // nil for moveN; it has the connections to itself
	raw   rawFlow // what this system can do better
}

// errParked is returned by move when the flow waits without a goroutine from
// now on.
var errParked = errors.New("parked")

// writeError marks failures to write, as opposed to those to read.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

func isWriteError(err error) bool {
	var w *writeError
	return errors.As(err, &w)
}

// moveN moves n bytes from src to dst, which must have nothing buffered above
// the connections, and keeps to the deadlines that these have. It returns how
// many have been written to dst. If src ends early the error is
// io.ErrUnexpectedEOF. After an error that isWriteError knows, bytes may have
// been read from src that did not get to dst.
//
// count gets the bytes as they are read. moved grows whenever anything moves.
func (r *run) moveN(dst, src net.Conn, n int64, count *byteCount, moved *atomic.Uint64) (int64, error) {
	f := &flow{run: r, src: src, dst: dst, rest: n, count: count, moved: moved}
	f.prepare()
	err := f.move()
	if err == nil && f.rest > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n - f.rest - int64(f.n), err
}

// send writes what has been read from src already.
func (f *flow) send(head []byte) error {
	if len(head) == 0 {
		return nil
	}
	f.count.Add(uint64(len(head)))
	_, err := f.dst.Write(head)
	f.moved.Add(1)
	return err
}

// move moves bytes until src ends, which is no error, or rest is used up. After
// errParked the flow is somebody else's.
func (f *flow) move() error {
	for f.rest > 0 {
		err := f.read()
		if err == errParked {
			return err
		}
		if f.n > 0 {
			f.rest -= int64(f.n)
			f.count.Add(uint64(f.n))
			f.moved.Add(1)
			if err := f.write(); err != nil {
				f.giveBack()
				return &writeError{err}
			}
		}
		if err != nil {
			f.giveBack()
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
	f.giveBack()
	return nil
}

// copyIn reads with a buffer that is held while it waits.
func (f *flow) copyIn() (err error) {
	f.borrow()
	f.off = 0
	f.n, err = f.src.Read(f.free())
	return err
}

// copyOut writes what is in the buffer.
func (f *flow) copyOut() error {
	n, err := f.dst.Write((*f.buf)[f.off : f.off+f.n])
	f.off += n
	f.n -= n
	f.moved.Add(1)
	return err
}

// free is the part of the buffer that may be filled.
func (f *flow) free() []byte { return (*f.buf)[:min(int64(len(*f.buf)), f.rest)] }

func (f *flow) borrow() {
	if f.buf == nil {
		f.buf = f.run.p.buffers.Get().(*[]byte)
	}
}

// giveBack returns what has been lent.
func (f *flow) giveBack() {
	if f.buf != nil {
		f.run.p.buffers.Put(f.buf)
		f.buf = nil
	}
	f.raw.giveBack(f)
}

// bare returns the TCP connection that c is, if there is nothing in between
// that has or changes bytes.
func bare(c net.Conn) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *conn:
		if len(c.head) == 0 {
			return bare(c.Conn)
		}
	}
	return nil
}
