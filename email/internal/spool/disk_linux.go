package spool

import (
	"errors"
	"os"
	"syscall"
)

// preallocate takes up the room of a file, so that a full disk shows when a
// segment is made and not when it is written. File systems that cannot do it
// leave it at that.
func preallocate(f *os.File, size int64) error {
	err := ignoringEINTR(func() error { return syscall.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}

// syncData leaves out what is not needed to read the bytes again, such as the
// time of the change.
func syncData(f *os.File) error {
	return os.NewSyscallError("fdatasync", ignoringEINTR(func() error { return syscall.Fdatasync(int(f.Fd())) }))
}

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
