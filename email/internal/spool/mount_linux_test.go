package spool

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// mount mounts an empty file system of so many bytes.
func mount(t *testing.T, folder string, size int64) {
	t.Helper()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		testenv.Lacks(t, "the right to mount a tmpfs (%v)", err)
	}
	t.Cleanup(func() { syscall.Unmount(folder, syscall.MNT_DETACH) })
}
