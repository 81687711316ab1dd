package testenv

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// watch calls hung with the test's name and the stacks that may tell why if the
// test, its cleanups included, is not through in time. Without a time limit for
// the package (-timeout 0) somebody means a test to take long, or debugs it.
func watch(t testing.TB, limit time.Duration, hung func(report string)) {
	limited, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return
	}
	if _, ok := limited.Deadline(); !ok {
		return
	}
	timer := time.AfterFunc(limit, func() {
		hung(fmt.Sprintf("panic: %s still runs after %v\n\n%s\n\n", t.Name(), limit, strings.Join(busy(), "\n\n")))
	})
	t.Cleanup(func() { timer.Stop() })
}

// exit ends the process as a panic would.
func exit(report string) {
	os.Stderr.WriteString(report)
	os.Exit(2)
}
