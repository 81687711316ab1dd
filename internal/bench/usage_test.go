package main

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is read from /proc")
	}
	cmd := exec.Command("sh", "-c", "while :; do :; done & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The shell's child ends with it: its parent is gone by then.
	defer func() {
		for _, pid := range slices.Backward(family(cmd.Process.Pid)) {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
		cmd.Wait()
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		used, err := cpuTime(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if used >= 5*tick && len(family(cmd.Process.Pid)) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v used in 10s by a child in an endless loop", used)
		}
		time.Sleep(tick)
	}

	before, err := holdings(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	source, err := newBulkSource(1)
	if err != nil {
		t.Fatal(err)
	}
	defer source.ln.Close()
	after, err := holdings(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after.pipes != before.pipes+2 || after.sockets != before.sockets+1 || after.rss < 1<<20 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
