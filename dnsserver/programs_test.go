package dnsserver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// program is a server for the zone example.com.
type program struct {
	port int
	dir  string
	proc *testenv.Process
}

func (p *program) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// startNSD starts NSD with what a configuration says about zones.
func startNSD(t testing.TB, p *program, zones string) {
	nsd := testenv.Need(t, "nsd", "apt-get install nsd")
	conf := filepath.Join(p.dir, "nsd.conf")
	text := fmt.Sprintf(`server:
  ip-address: 127.0.0.1
  port: %d
  username: ""
  chroot: ""
  zonesdir: %[2]q
  database: ""
  pidfile: ""
  xfrdfile: "%[2]s/xfrd.state"
  zonelistfile: "%[2]s/zone.list"
  xfrdir: %[2]q
  server-count: 1
  xfrd-reload-timeout: 0
remote-control:
  control-enable: no
key:
  name: test.key
  algorithm: hmac-sha256
  secret: %q
%s`, p.port, p.dir, testSecret, zones)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.proc = testenv.Start(t, testenv.Opts{Dir: p.dir, Ready: p.addr()}, nsd, "-d", "-c", conf)
}

// startKnot starts Knot DNS with what a configuration says about zones. The
// remote "us" is a server at a port of 127.0.0.1, and the acl "us" lets it do
// everything.
func startKnot(t testing.TB, p *program, us int, zones string) {
	knotd := testenv.Need(t, "knotd", "apt-get install knot")
	conf := filepath.Join(p.dir, "knot.conf")
	text := fmt.Sprintf(`server:
    rundir: %[2]q
    listen: 127.0.0.1@%[1]d
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: %[2]q
    journal-db-mode: asynchronous
key:
  - id: test.key
    algorithm: hmac-sha256
    secret: %[3]s
remote:
  - id: us
    address: 127.0.0.1@%[4]d
    key: test.key
acl:
  - id: us
    address: 127.0.0.1
    key: test.key
    action: [notify, transfer, update]
template:
  - id: default
    storage: %[2]q
    semantic-checks: off
%[5]s`, p.port, p.dir, testSecret, us, zones)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.proc = testenv.Start(t, testenv.Opts{Dir: p.dir, Ready: p.addr()}, knotd, "-c", conf)
}

func newProgram(t testing.TB) *program {
	return &program{port: testenv.FreePort(t), dir: testenv.Folder(t)}
}

// contents returns a zone as a server sends it, as sorted lines.
func contents(t testing.TB, addr, zone, key, secret string) ([]string, error) {
	list, err := axfr(t, addr, zone, key, secret)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, rr := range list[:len(list)-1] {
		lines = append(lines, strings.ToLower(rr.String()))
	}
	slices.Sort(lines)
	return lines, nil
}

// sameZone waits until two servers have the same contents.
func sameZone(t testing.TB, a, b, zone string) {
	t.Helper()
	testenv.WaitFor(t, 30*time.Second, func() error {
		first, err := contents(t, a, zone, "test.key.", testSecret)
		if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		second, err := contents(t, b, zone, "test.key.", testSecret)
		if err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
		if !slices.Equal(first, second) {
			return fmt.Errorf("%d records of %s and %d of %s differ:\n%s\nand\n%s", len(first), a, len(second), b, strings.Join(first[:min(9, len(first))], "\n"), strings.Join(second[:min(9, len(second))], "\n"))
		}
		return nil
	})
}
