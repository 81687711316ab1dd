package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// lockFolder opens the lock file so that nobody else can. The system closes
// it when the process ends, however it ends.
func lockFolder(root *os.Root, name string) (io.Closer, error) {
	path := filepath.Join(root.Name(), name)
	p, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	const (
		shareNothing          = 0
		errorSharingViolation = syscall.Errno(32)
	)
	h, err := syscall.CreateFile(p, syscall.GENERIC_READ|syscall.GENERIC_WRITE, shareNothing, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}
