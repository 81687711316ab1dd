//go:build unix

package nonblock

import (
	"io"
	"net"
	"os"
	"syscall"
)

// writer writes to a TCP connection.
type writer struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // made once: it would be allocated anew each time
	b   []byte
	n   int
	err error
}

// NewWriter returns what writes to a connection at the least cost. It is not
// safe for concurrent use.
func NewWriter(conn net.Conn) io.Writer {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	w := &writer{raw: raw}
	w.try = w.send
	return w
}

// Write writes all of b, or fails.
func (w *writer) Write(b []byte) (int, error) {
	w.b, w.n, w.err = b, 0, nil
	err := w.raw.Write(w.try)
	w.b = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}

// send writes as much as the socket takes. It reports false if that is not all,
// and is called again when the socket takes more.
func (w *writer) send(fd uintptr) bool {
	for w.n < len(w.b) {
		n, err := Send(fd, w.b[w.n:])
		w.n += n
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}
