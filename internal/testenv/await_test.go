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

// limitedTB is a test with a time limit.
type limitedTB struct{ fakeTB }

func (*limitedTB) Deadline() (time.Time, bool) { return time.Now().Add(time.Hour), true }

func TestWatch(t *testing.T) {
	reports := make(chan string, 10)
	never := make(chan int)
	var hangs, ends limitedTB
	var unlimited fakeTB
	go leakInt(never)
	hangs.run(t, func() {
		watch(&hangs, 10*time.Millisecond, func(s string) { reports <- s })
		if s := Receive(t, reports); !strings.HasPrefix(s, "panic: TestWatch still runs after 10ms\n\n") || !strings.Contains(s, "testenv.leakInt") {
			t.Errorf("it says %q", s)
		}
	})
	close(never)
	ends.run(t, func() { watch(&ends, time.Second, func(s string) { reports <- s }) })
	unlimited.run(t, func() {
		watch(&unlimited, time.Millisecond, func(s string) { reports <- s })
		time.Sleep(1200 * time.Millisecond) // nothing may happen meanwhile
	})
	if len(reports) > 0 {
		t.Errorf("a test that has ended, or may take its time: %q", <-reports)
	}
}

func leakInt(never chan int) { <-never }

func TestCommand(t *testing.T) {
	out, err := Command(t, "sh", "-c", "echo fine; exit 3").Output()
	if string(out) != "fine\n" || err == nil || err.Error() != "exit status 3" {
		t.Errorf("%q, %v", out, err)
	}
}
