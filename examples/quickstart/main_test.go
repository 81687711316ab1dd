package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "curl", "apt-get install curl")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	first := p.Try(t, "curl", "hello from route table ")
	testenv.WaitFor(t, time.Minute, func() error {
		if next := p.Try(t, "curl", "hello from route table "); next == first {
			return fmt.Errorf("still %q", strings.TrimSpace(next))
		}
		return nil
	})
	p.Interrupt(t)
}
