package lockout

import (
	"strconv"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	now := time.Now()
	table := New(Limits{Attempts: 3, Window: time.Minute, Lock: 5 * time.Minute, Keys: 2})
	attempt := func(key string, wantLocked bool) {
		t.Helper()
		if until := table.Attempt(key, now); !until.IsZero() != wantLocked {
			t.Errorf("%s: locked until %v", key, until)
		}
	}
	for range 3 {
		attempt("a", false)
	}
	locked := now.Add(5 * time.Minute)
	for range 10 {
		now = now.Add(time.Second)
		attempt("a", true)
	}
	if got := table.Locked("a", now); !got.Equal(locked) {
		t.Errorf("locked until %v, want %v: attempts while it is locked must not count", got, locked)
	}
	attempt("b", false)
	now = locked
	for range 3 {
		attempt("a", false)
	}
	attempt("a", true)

	// Failures that are long apart do not add up, nor those before a success.
	now = now.Add(time.Hour)
	for range 10 {
		attempt("b", false)
		now = now.Add(61 * time.Second)
	}
	for range 10 {
		attempt("b", false)
		table.Succeeded("b")
	}
	// One that did not fail takes back itself, and the lock that it caused.
	table = New(Limits{Attempts: 3, Window: time.Minute, Lock: 5 * time.Minute, Keys: 2})
	attempt("a", false)
	attempt("a", false)
	attempt("a", false)
	table.TakeBack("a")
	attempt("a", false)
	attempt("a", true)
	table.TakeBack("none")
	attempt("b", false)
	table.TakeBack("b")
	if table.byKey["b"] != nil {
		t.Error("nothing is remembered as something")
	}
	for i := range 100 {
		attempt(strconv.Itoa(i), false)
	}
	if len(table.byKey) != 2 || table.order.Len() != 2 {
		t.Errorf("%d keys are remembered", len(table.byKey))
	}
}
