package main

import (
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "radclient", "apt-get install freeradius-utils")
	testenv.Need(t, "curl", "apt-get install curl")
	o := testenv.Opts{Dir: testenv.Folder(t)}
	p := testenv.StartMain(t, o, "-listen", testenv.Address(t))
	vlan := func(number string) string { return `Tunnel-Private-Group-Id:0 = "` + number + `"` }
	const guest = `"020000000001"`
	p.Try(t, "001122334455", "Received Access-Accept", vlan("20"))
	p.Try(t, guest, "Received Access-Accept", vlan("999"))
	p.Try(t, "wonderland", "Received Access-Accept", vlan("30"))
	p.Try(t, "=Start", "Received Accounting-Response")
	p.Try(t, "/sessions", `"userName": "alice"`)
	p.Try(t, "/devices/", "allowed")
	p.Try(t, guest, "Received Access-Accept", vlan("100"))
	p.Interrupt(t)

	p = testenv.StartMain(t, o, "-listen", testenv.Address(t))
	p.Try(t, guest, "Received Access-Accept", vlan("100"))
	p.Try(t, "/sessions", `"userName": "alice"`)
	p.Interrupt(t)
}
