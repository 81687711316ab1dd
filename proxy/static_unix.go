//go:build unix

package proxy

import "syscall"

const openNonblock = syscall.O_NONBLOCK
