//go:build !(darwin || dragonfly || freebsd || linux || windows)

package spool

import "syscall"

func freeBytes(string) (int64, error) { return plenty, nil }

func errDiskFull() error { return syscall.ENOSPC }
