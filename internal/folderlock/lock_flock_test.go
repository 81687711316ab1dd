//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package folderlock

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	l, err := Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	var held *Held
	if _, err := Lock(name); !errors.As(err, &held) || held.PID != strconv.Itoa(os.Getpid()) {
		t.Errorf("taken twice: %v", err)
	}
	if err := os.WriteFile(name, []byte("\x1b[31m 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(name); !errors.As(err, &held) || held.PID != "" {
		t.Errorf("a process that is none: %v", err)
	}
	// A process that is being started has a copy of every open file until it
	// reaches exec. Here it keeps that of the lock for longer; the folder is free
	// all the same.
	cmd := exec.Command("cat")
	cmd.ExtraFiles = []*os.File{l.(flocked).File}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Lock(name); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Lock(filepath.Join(t.TempDir(), "missing", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
