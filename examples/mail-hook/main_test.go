package main

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "swaks", "apt-get install swaks")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "tickets+42@", "250 2.0.0 Accepted as ")
	if out := p.Output(); !strings.Contains(out, ` bytes from "me@example.net" for "tickets+42@example.com" about "test `) {
		t.Error("the program did not see the message")
	}
	p.Try(t, "tickets+0@", "550 5.1.1 There is no ticket 0")
	p.Interrupt(t)
}
