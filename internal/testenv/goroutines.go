package testenv

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// ours marks a goroutine that this module runs or has started: its functions
// and the "created by" line of a stack carry the import path.
const ours = "github.com/dcrouter/dcrouter"

// Goroutines fails the test if, up to 5 s after its other cleanups, a
// goroutine of this module is left that was not there at the call. Call it
// first: cleanups run last to first. Tests that run in parallel with others of
// the same binary can't use it, since it sees their goroutines too. If the test
// is not through after five minutes, it ends the process and says where it hangs.
func Goroutines(t testing.TB) {
	t.Helper()
	watch(t, 5*time.Minute, exit)
	checkGoroutines(t, 5*time.Second)
}

func checkGoroutines(t testing.TB, patience time.Duration) {
	before := map[string]bool{}
	for id := range goroutines() {
		before[id] = true
	}
	t.Cleanup(func() {
		err := poll(patience, func() error {
			var left []string
			for id, stack := range goroutines() {
				if !before[id] && strings.Contains(stack, ours) {
					left = append(left, stack)
				}
			}
			if len(left) > 0 {
				return fmt.Errorf("%d goroutines leaked:\n\n%s", len(left), strings.Join(left, "\n\n"))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// goroutines returns the stacks of all goroutines but the calling one, by id.
func goroutines() map[string]string {
	buf := make([]byte, 256<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) { // it may have been cut
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	stacks := map[string]string{}
	// The first one is the caller's.
	for _, s := range strings.Split(string(buf[:n]), "\n\n")[1:] {
		// "goroutine 7 [select]:"
		if f := strings.Fields(s); len(f) > 1 {
			stacks[f[1]] = strings.TrimSpace(s)
		}
	}
	return stacks
}
