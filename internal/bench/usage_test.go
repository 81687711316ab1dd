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
	cmd := exec.Command("sh", "-c", "(while :; do :; done & wait) & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The shell's children end before it, as afterwards nobody knows them.
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
		if used >= 5*tick && len(family(cmd.Process.Pid)) == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v used in 10s by a child in an endless loop", used)
		}
		time.Sleep(tick)
	}

	held, err := memory(os.Getpid())
	if err != nil || held < 1<<20 || held > 1<<30 {
		t.Errorf("memory of %d bytes, %v", held, err)
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
