//go:build unix && !linux

package testenv

import "syscall"

func killWithParent(*syscall.SysProcAttr) {}
