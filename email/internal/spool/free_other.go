//go:build !(darwin || dragonfly || freebsd || linux || windows)

package spool

import (
	"math"
	"syscall"
)

func freeBytes(string) (int64, error) { return math.MaxInt64, nil }

func errDiskFull() error { return syscall.ENOSPC }
