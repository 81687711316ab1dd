//go:build linux && !race

package nonblock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix" // has the numbers of all architectures
)

// Recv is recv(2) and Send send(2), on sockets, without waiting: EAGAIN stands
// for having to. b must not be empty.
func Recv(fd uintptr, b []byte) (int, error) {
	return transfer(unix.SYS_RECVFROM, fd, b, syscall.MSG_DONTWAIT)
}

// Send is described at Recv.
func Send(fd uintptr, b []byte) (int, error) {
	return transfer(unix.SYS_SENDTO, fd, b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// Peek is Recv that leaves what it finds where it is.
func Peek(fd uintptr, b []byte) (int, error) {
	return transfer(unix.SYS_RECVFROM, fd, b, syscall.MSG_DONTWAIT|syscall.MSG_PEEK)
}

func transfer(call, fd uintptr, b []byte, flags uintptr) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, errno
	}
}
