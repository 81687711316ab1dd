//go:build unix

package certfile

import "syscall"

const openNonblock = syscall.O_NONBLOCK
