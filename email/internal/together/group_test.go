package together

import (
	"strings"
	"testing"
)

// What panics beside does so in who waits.
func TestGroup(t *testing.T) {
	var g Group
	done := make([]bool, 3)
	for i := range done {
		g.Go(func() {
			done[i] = true
			if i == 1 {
				panic("no such thing")
			}
		})
	}
	defer func() {
		v, _ := recover().(string)
		if !strings.HasPrefix(v, "no such thing, in") || !strings.Contains(v, "group_test.go") {
			t.Errorf("it panics with %q", v)
		}
		if !done[0] || !done[1] || !done[2] {
			t.Error("somebody was not waited for")
		}
	}()
	g.Wait()
	t.Error("it does not panic")
}
