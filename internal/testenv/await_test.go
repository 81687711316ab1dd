package testenv

import (
	"strings"
	"testing"
	"time"
)

func TestAwait(t *testing.T) {
	done, never := make(chan int, 1), make(chan int)
	done <- 7
	if got := Receive(t, done); got != 7 {
		t.Errorf("received %d", got)
	}
	close(done)
	if got := Receive(t, done); got != 0 {
		t.Errorf("received %d from a closed channel", got)
	}
	defer close(never)
	var f fakeTB
	after := false
	f.run(t, func() {
		await(&f, "the end of days", 20*time.Millisecond, func() { leakInt(never) })
		after = true
	})
	if s := f.text.String(); !f.failed || after || !strings.Contains(s, "waited 20ms for the end of days") || !strings.Contains(s, "testenv.leakInt") {
		t.Errorf("failed %v, went on %v, with %q", f.failed, after, s)
	}
}

func leakInt(never chan int) { <-never }

func TestCommand(t *testing.T) {
	out, err := Command(t, "sh", "-c", "echo fine; exit 3").Output()
	if string(out) != "fine\n" || err == nil || err.Error() != "exit status 3" {
		t.Errorf("%q, %v", out, err)
	}
}
