//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package storage

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestDirClosedWhileStarting: a process that is being started has a copy of
// every open file until it reaches exec. Here it keeps that of the lock for
// longer; the folder is free all the same once it is closed.
func TestDirClosedWhileStarting(t *testing.T) {
	folder := t.TempDir()
	b := Dir(folder)
	s := mustOpen(t, b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=dir 1 %d", crashEnv, time.Now().UnixNano()), crashFolder+"="+t.TempDir())
	cmd.ExtraFiles = []*os.File{b.(*dir).lock.(flocked).File}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, Dir(folder))
}
