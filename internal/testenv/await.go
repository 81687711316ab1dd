package testenv

import (
	"strings"
	"testing"
	"time"
)

// patience is what the slowest machine needs for nothing that a test awaits.
const patience = time.Minute

// Await calls wait and fails the test, with the stacks of all goroutines that
// may tell why, if it has not returned after a minute. It is for what has no
// deadline of its own, like [sync.WaitGroup.Wait], Stop and Close: a test that
// waits for ever hides its own failure and the results of all others.
func Await(t testing.TB, what string, wait func()) {
	t.Helper()
	await(t, what, patience, wait)
}

// Receive returns the next value of a channel, or its zero value once it is
// closed, and fails the test as [Await] does if nothing comes.
func Receive[T any](t testing.TB, from <-chan T) (value T) {
	t.Helper()
	await(t, "a value", patience, func() { value = <-from })
	return value
}

func await(t testing.TB, what string, limit time.Duration, wait func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("waited %v for %s in vain\n\n%s", limit, what, strings.Join(busy(), "\n\n"))
	}
}

// busy returns the stacks of this module's goroutines, without tests that wait
// for their turn or for their subtests.
func busy() (stacks []string) {
	for _, s := range goroutines() {
		if strings.Contains(s, ours) && !strings.Contains(s, "testing.(*T).Parallel(") && !strings.Contains(s, "testing.(*T).Run(") {
			stacks = append(stacks, s)
		}
	}
	return stacks
}
