package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t), "-dir", t.TempDir(), "-every", "100ms")
	first := ""
	testenv.WaitFor(t, time.Minute, func() error { // it is there from the first tick on
		if first = p.Try(t, "dig"); first == "" {
			return fmt.Errorf("no answer")
		}
		return nil
	})
	testenv.WaitFor(t, time.Minute, func() error {
		if next := p.Try(t, "dig", "T"); next == first {
			return fmt.Errorf("still %s", next)
		}
		return nil
	})
	p.Interrupt(t)
}
