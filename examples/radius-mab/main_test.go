package main

import (
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "001122334455", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "20"`)
	p.Try(t, "aabbcc000001", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "100"`)
	p.Try(t, "020000000001", "Received Access-Accept", `Tunnel-Private-Group-Id:0 = "999"`)
	p.Interrupt(t)
}
