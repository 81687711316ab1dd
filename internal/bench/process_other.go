//go:build !linux

package main

import "syscall"

func killWithParent(*syscall.SysProcAttr) {}
