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
func StartPostfix(t testing.TB, dir, ready string) {
	t.Helper()
	program := Need(t, "postfix", "apt-get install postfix")
	// The master and its children have a process group of their own, which Start
	// does not end.
	t.Cleanup(func() {
		text, _ := os.ReadFile(filepath.Join(dir, "queue", "pid", "master.pid")) // none if it never came so far
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 1 {
			killGroup(pid)
		}
	})
	Start(t, Opts{Dir: dir, Ready: ready, Timeout: time.Minute}, program, "-c", filepath.Join(dir, "conf"), "start-fg")
}
