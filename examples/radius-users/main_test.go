package main

import (
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "wonderland", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "staff"`)
	p.Try(t, "looking-glass", "Received Access-Reject", "no such user, or another password")
	p.Try(t, "=Start", "Received Accounting-Response")
	p.Try(t, "=Stop", "Received Accounting-Response")
	if !strings.Contains(p.Output(), "alice has used 1000 octets in 1m0s") {
		t.Error("accounting did not get to the program")
	}
	p.Interrupt(t)
}
