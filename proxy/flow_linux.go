package proxy

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawFlow moves bytes with the system calls themselves where the ends are bare
// TCP connections. Go's runtime still does the waiting, so that deadlines and
// Close work as always.
type rawFlow struct {
	src, dst    syscall.RawConn // nil for anything but bare TCP
	fill, drain func(fd uintptr) bool

	pipe *pipe // instead of a buffer; empty but for n bytes
	full int   // reads in a row that have filled the buffer
	err  error // of the last system call
}

// bulk is how many reads in a row must fill the buffer before a pipe is worth
// its two descriptors.
const bulk = 2

func (f *flow) prepare() {
	if c := bare(f.src); c != nil {
		if raw, err := c.SyscallConn(); err == nil {
			f.raw.src, f.raw.fill = raw, f.fill
		}
	}
	if c := bare(f.dst); c != nil && f.raw.src != nil {
		if raw, err := c.SyscallConn(); err == nil {
			f.raw.dst, f.raw.drain = raw, f.drain
		}
	}
}

// read waits until src has something or has ended, and reads it into the
// buffer or the pipe.
func (f *flow) read() error {
	if f.raw.src == nil {
		return f.copyIn()
	}
	if err := f.raw.src.Read(f.raw.fill); err != nil {
		return err
	}
	return f.raw.err
}

// fill reads once. It reports false if there is nothing to read, and is called
// again when there is.
func (f *flow) fill(fd uintptr) bool {
	f.off = 0
	for {
		var n int
		var err error
		if f.wantPipe() {
			n, err = splice(int(fd), f.raw.pipe.w, int(min(f.rest, int64(f.raw.pipe.size))))
		} else {
			f.borrow()
			n, err = unix.Read(int(fd), f.free())
		}
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			f.raw.full = 0
			f.giveBack()
			return false
		}
		f.n, f.raw.err = max(n, 0), nil
		switch {
		case err != nil:
			f.raw.err = os.NewSyscallError("read", err)
		case n == 0:
			f.raw.err = io.EOF
		case f.raw.pipe == nil && n == len(*f.buf):
			f.raw.full++
		case f.raw.pipe == nil:
			f.raw.full = 0
		}
		return true
	}
}

// wantPipe reports whether to use the pipe, which it gets if it is time.
func (f *flow) wantPipe() bool {
	if f.raw.pipe != nil {
		return true
	}
	if f.raw.full < bulk || f.raw.dst == nil {
		return false
	}
	f.raw.full = 0
	f.giveBack()
	f.raw.pipe = f.run.pipes.get()
	return f.raw.pipe != nil
}

// write writes what has been read, waiting until dst takes it.
func (f *flow) write() error {
	if f.raw.dst == nil {
		return f.copyOut()
	}
	if err := f.raw.dst.Write(f.raw.drain); err != nil {
		return err
	}
	return f.raw.err
}

// drain writes as much as dst takes. It reports false if that is not all, and
// is called again when dst takes more.
func (f *flow) drain(fd uintptr) bool {
	for f.n > 0 {
		var n int
		var err error
		if f.raw.pipe != nil {
			n, err = splice(f.raw.pipe.r, int(fd), f.n)
		} else {
			n, err = unix.Write(int(fd), (*f.buf)[f.off:f.off+f.n])
		}
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return false
		case err != nil:
			f.raw.err = os.NewSyscallError("write", err)
			return true
		}
		f.off += n
		f.n -= n
		f.moved.Add(1)
	}
	f.raw.err = nil
	return true
}

// giveBack returns the pipe.
func (raw *rawFlow) giveBack(f *flow) {
	if raw.pipe != nil {
		f.run.pipes.put(raw.pipe, f.n == 0)
		raw.pipe = nil
	}
}

func splice(from, to, max int) (int, error) {
	n, err := unix.Splice(from, nil, to, nil, max, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), err
}
