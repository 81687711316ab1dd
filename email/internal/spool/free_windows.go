package spool

import (
	"math"
	"os"
	"syscall"
	"unsafe"
)

func freeBytes(folder string) (int64, error) {
	path, err := syscall.UTF16PtrFromString(folder)
	if err != nil {
		return 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: folder, Err: err}
	}
	proc := syscall.NewLazyDLL("kernel32.dll").NewProc("GetDiskFreeSpaceExW")
	if err := proc.Find(); err != nil {
		return math.MaxInt64, nil
	}
	var free uint64
	if ok, _, err := proc.Call(uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&free)), 0, 0); ok == 0 {
		return 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: folder, Err: err}
	}
	return int64(min(free, math.MaxInt64)), nil
}

// errDiskFull is ERROR_DISK_FULL.
func errDiskFull() error { return syscall.Errno(112) }
