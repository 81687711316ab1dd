//go:build !unix

package testenv

import (
	"os"
	"os/exec"
)

// No process groups here: only the program itself is ended.

func setAttributes(*exec.Cmd, string) error { return nil }

func inOwnGroup(*exec.Cmd) {}

func terminate(p *os.Process) { _ = p.Kill() }

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}
