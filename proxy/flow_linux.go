package proxy

import (
	"crypto/tls"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

// rawFlow moves bytes with the system calls themselves where the ends are bare
// TCP connections, or a client's with TLS that ends here. Go's runtime still
// does the waiting, so that deadlines and Close work as always.
type rawFlow struct {
	src, dst    syscall.RawConn // nil where the connection's own methods must do
	fill, drain func(fd uintptr) bool

	tls bool // src is what is below the TLS to read from
	fd  int  // the descriptor of that, during fill

	dry  bool  // there was nothing to read when fill looked last
	pipe *pipe // instead of a buffer; empty but for n bytes
	full int   // reads in a row that have filled the buffer
	err  error // of the last system call

	place uint64 // in the lot, 0 for none; the lot guards it
	known bool   // to the lot's epoll
}

// bulkReads is how many reads in a row must fill the buffer before a pipe is
// worth its two descriptors.
const bulkReads = 2

func (f *flow) prepare() {
	src := bare(f.src)
	if t, ok := f.src.(*tls.Conn); ok && f.relay != nil {
		if below, ok := t.NetConn().(*conn); ok {
			if src = bare(below.Conn); src != nil {
				f.raw.tls, below.read = true, f.readBelow
			}
		}
	}
	if src == nil {
		return
	}
	f.raw.src, _ = src.SyscallConn() // fails for none that is connected
	f.raw.fill = f.fill
	if dst := bare(f.dst); dst != nil {
		f.raw.dst, _ = dst.SyscallConn()
		f.raw.drain = f.drain
	}
}

// read waits until src has something or has ended, and reads it into the
// buffer or the pipe.
func (f *flow) read() error {
	if f.raw.src == nil {
		return f.copyIn()
	}
	for {
		f.raw.dry = false
		err := f.raw.src.Read(f.raw.fill)
		switch {
		case err == nil:
			return f.raw.err
		case f.relay == nil || !isTimeout(err):
			return err
		}
		// No deadline, but the wish of doze.
		f.src.SetReadDeadline(time.Time{})
		// It may have come while the flow was writing, and then nobody has looked
		// yet what TLS has already, which no event will tell.
		if f.raw.dry && f.run.lot.park(f) {
			return errParked
		}
	}
}

// doze asks a flow that waits for its source to do so without a goroutine.
func (f *flow) doze() {
	if f.raw.src != nil {
		f.src.SetReadDeadline(time.Unix(1, 0))
	}
}

// wake ends the waiting of a flow whose source has been closed.
func (f *flow) wake() { f.run.lot.wake(f) }

// fill reads once. It reports false if there is nothing to read, and is called
// again when there is. Then nothing is held while it waits.
func (f *flow) fill(fd uintptr) bool {
	for {
		n, err := f.fillOnce(int(fd))
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			f.raw.full, f.raw.dry = 0, true
			f.giveBack()
			return false
		case f.raw.pipe != nil && (err == unix.EINVAL || err == unix.ENOSYS || err == unix.EPERM):
			f.giveBack()
			f.raw.dst = nil // not a system for pipes
			continue
		case n == 0 && err == nil, err == io.EOF:
			f.raw.err = io.EOF
		case err != nil:
			f.raw.err = os.NewSyscallError("read", err)
		default:
			f.off, f.n, f.raw.err = 0, n, nil
		}
		return true
	}
}

func (f *flow) fillOnce(fd int) (n int, err error) {
	if f.raw.full >= bulkReads && f.raw.dst != nil && f.raw.pipe == nil {
		f.giveBack()
		f.raw.pipe = f.run.pipes.get()
		f.raw.full = 0 // where no pipe is to be had, a few more buffers will do
	}
	if p := f.raw.pipe; p != nil {
		return splice(fd, p.w, int(min(f.rest, int64(p.size))))
	}
	f.borrow()
	if f.raw.tls {
		f.raw.fd = fd
		if n, err = f.src.Read(f.free()); n > 0 {
			err = nil // it is said again
		}
		return n, err
	}
	n, err = nonblock.Recv(uintptr(fd), f.free())
	if n == len(*f.buf) {
		f.raw.full++
	} else {
		f.raw.full = 0
	}
	return n, err
}

// readBelow is what TLS reads with during fill. It never waits: EAGAIN counts
// as temporary there, and what there is of a record stays until the rest comes.
func (f *flow) readBelow(b []byte) (int, error) {
	n, err := nonblock.Recv(uintptr(f.raw.fd), b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
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
		n, err := f.drainOnce(int(fd))
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		case nil:
			f.off += n
			f.n -= n
			f.moved.Add(1)
		default:
			f.raw.err = os.NewSyscallError("write", err)
			return true
		}
	}
	f.raw.err = nil
	return true
}

func (f *flow) drainOnce(fd int) (n int, err error) {
	if p := f.raw.pipe; p != nil {
		return splice(p.r, fd, f.n)
	}
	return nonblock.Send(uintptr(fd), (*f.buf)[f.off:f.off+f.n])
}

// giveBack returns the pipe.
func (raw *rawFlow) giveBack(f *flow) {
	if raw.pipe != nil {
		f.run.pipes.put(raw.pipe, f.n == 0)
		raw.pipe = nil
	}
}
