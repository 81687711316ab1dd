package testenv

import "syscall"

// A test binary that is killed, or panics at its time limit, runs no cleanup.
func killWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
