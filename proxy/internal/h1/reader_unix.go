//go:build unix

package h1

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

// rawReader waits for a TCP connection to become readable before it takes a
// buffer, so that connections which wait cost none.
type rawReader struct {
	conn syscall.RawConn
	try  func(fd uintptr) bool // made once: it would be allocated anew each time
	err  error                 // of the last try
}

func (raw *rawReader) init(conn net.Conn, r *Reader) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	c, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.conn = c
	raw.try = func(fd uintptr) bool {
		r.acquire()
		var n int
		n, raw.err = nonblock.Recv(fd, r.buf[r.w:])
		switch {
		case n > 0:
			r.w += n
			raw.err = nil
		case raw.err == syscall.EAGAIN:
			if r.r == r.w {
				r.release()
			}
			return false
		case raw.err == nil:
			raw.err = io.EOF
		default:
			raw.err = os.NewSyscallError("read", raw.err)
		}
		return true
	}
}

func (raw *rawReader) usable() bool { return raw.conn != nil }

func (raw *rawReader) fill(r *Reader) error {
	err := raw.conn.Read(raw.try)
	if err == nil {
		err = raw.err
	}
	if r.buf != nil && r.r == r.w {
		r.release() // it failed
	}
	return err
}
