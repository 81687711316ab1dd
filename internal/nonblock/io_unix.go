//go:build unix && (!linux || race)

package nonblock

// The race detector knows from package syscall what sockets order.

import "syscall"

// Recv is recv(2) and Send send(2), on sockets, without waiting: EAGAIN stands
// for having to. b must not be empty.
func Recv(fd uintptr, b []byte) (int, error) {
	return retry(func() (int, error) { return syscall.Read(int(fd), b) })
}

// Send is described at Recv.
func Send(fd uintptr, b []byte) (int, error) {
	return retry(func() (int, error) { return syscall.Write(int(fd), b) })
}

// Peek is Recv that leaves what it finds where it is.
func Peek(fd uintptr, b []byte) (int, error) {
	return retry(func() (int, error) {
		n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	})
}

func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
