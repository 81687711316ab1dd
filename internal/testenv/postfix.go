package testenv

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// StartPostfix runs the Postfix whose configuration is in dir/conf, and whose
// queue_directory is dir/queue, until the end of the test. It returns once ready,
// an address, accepts connections.
//
// The master leaves the process group that Start ends, and is ended apart: it takes
// its children along, and what started it waits for it.
func StartPostfix(t testing.TB, dir, ready string) {
	t.Helper()
	program := Need(t, "postfix", "apt-get install postfix")
	started := false
	t.Cleanup(func() { // after the one of Start, which may not return
		if master := postfixMaster(dir); master != nil && !started {
			killGroup(master.Pid)
		}
	})
	p := Start(t, Opts{Dir: dir, Ready: ready, Timeout: time.Minute}, program, "-c", filepath.Join(dir, "conf"), "start-fg")
	master := postfixMaster(dir)
	if master == nil {
		t.Fatal("Postfix does not say which process its master is")
	}
	started = true
	t.Cleanup(func() {
		terminate(master)
		select {
		case <-p.Done():
		case <-time.After(10 * time.Second):
			killGroup(master.Pid)
		}
	})
}

// postfixMaster is the process that the master's file names, or nil.
func postfixMaster(dir string) *os.Process {
	text, err := os.ReadFile(filepath.Join(dir, "queue", "pid", "master.pid"))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	return p
}
