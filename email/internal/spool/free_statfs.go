//go:build darwin || dragonfly || freebsd || linux

package spool

import (
	"os"
	"syscall"
)

func freeBytes(folder string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(folder, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: folder, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func errDiskFull() error { return syscall.ENOSPC }
