//go:build unix

package proxy

import (
	"net"
	"syscall"

	"github.com/dcrouter/dcrouter/internal/nonblock"
)

// peeker looks at what a connection has received without reading it.
type peeker struct {
	raw    syscall.RawConn
	isTLS  bool
	try    func(fd uintptr) // made once: it would be allocated anew each time
	result int
	buf    [1]byte
}

func (p *peeker) init(conn net.Conn) {
	p.raw, p.isTLS = rawTCP(conn)
	p.try = func(fd uintptr) {
		n, err := nonblock.Peek(fd, p.buf[:])
		switch {
		case err == syscall.EAGAIN:
			p.result = peekNothing
		case err != nil || n == 0:
			p.result = peekClosed
		default:
			p.result = peekData
		}
	}
}

func (p *peeker) look() int {
	if p.raw == nil {
		return peekNothing
	}
	if p.raw.Control(p.try) != nil {
		return peekClosed
	}
	return p.result
}
