//go:build unix

package sockets

import (
	"os"
	"syscall"
)

// duplicate returns a file of the same socket, closed in programs that are
// started. The File methods of package net will not do: the Fd method of what
// they return makes the socket block, also in those who use it already.
func duplicate(c syscall.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	copied := -1
	var failed error
	err = raw.Control(func(fd uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if copied, failed = syscall.Dup(int(fd)); failed == nil {
			syscall.CloseOnExec(copied)
		}
	})
	if err == nil {
		err = os.NewSyscallError("dup", failed)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), "socket"), nil
}
