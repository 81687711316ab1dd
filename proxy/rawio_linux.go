package proxy

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// recv and send are recv(2) and send(2) that never wait. Therefore they need
// not tell Go's scheduler that they might, which for small messages makes a
// quarter of all that a proxy does. b must not be empty.

func recv(fd int, b []byte) (int, error) {
	return transfer(unix.SYS_RECVFROM, fd, b, unix.MSG_DONTWAIT)
}

func send(fd int, b []byte) (int, error) {
	return transfer(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func transfer(call uintptr, fd int, b []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// splice moves bytes between a socket and a pipe, and never waits either, but
// may have much to do.
func splice(from, to, max int) (int, error) {
	n, err := unix.Splice(from, nil, to, nil, max, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), err
}
