package main

import "syscall"

// killWithParent ends a program when the thread that started it ends, so that
// none stays behind if the benchmark is killed.
func killWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
