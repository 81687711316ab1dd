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
	testenv.WaitFor(t, time.Minute, func() error {
		if out := p.Try(t, "curl", "hello from route table "); strings.Contains(out, "route table 1\n") {
			return fmt.Errorf("the routes have not changed")
		}
		return nil
	})
	p.Interrupt(t)
}
