package soak

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
)

// mortal is a back end in a process that is killed, and stopped, now and then.
type mortal struct {
	w         *world
	name      string
	web, echo int // ports
	process   *testenv.Process
}

func newMortal(w *world, name string) *mortal {
	w.t.Helper()
	m := &mortal{w: w, name: name, web: testenv.FreePort(w.t), echo: testenv.FreePort(w.t)}
	m.start()
	return m
}

func (m *mortal) start() {
	m.w.t.Helper()
	m.process = testenv.Start(m.w.t, testenv.Opts{Ready: address(m.web)}, m.w.binary, "web", m.name, address(m.web), address(m.echo))
}

// freeze stops the process, as one that is overloaded, until the func that is
// returned is called.
func freeze(p *testenv.Process) (thaw func()) {
	_ = p.Signal(syscall.SIGSTOP)
	return func() { _ = p.Signal(syscall.SIGCONT) }
}

func mortalTargets(list []*mortal, port func(*mortal) int) (targets []proxy.Target) {
	for _, m := range list {
		targets = append(targets, target(port(m)))
	}
	return targets
}

// secondary is Knot with copies of the zones.
type secondary struct {
	primary, port int
	dir           string
	process       *testenv.Process
}

func newSecondary(t *testing.T, primary int) *secondary {
	t.Helper()
	return &secondary{primary: primary, port: testenv.FreePort(t), dir: testenv.Folder(t)}
}

func (s *secondary) start(t *testing.T) {
	t.Helper()
	knotd := testenv.Need(t, "knotd", "apt-get install knot")
	conf := filepath.Join(s.dir, "knot.conf")
	text := fmt.Sprintf(`server:
    rundir: %[1]q
    listen: 127.0.0.1@%[2]d
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: %[1]q
    journal-db-mode: asynchronous
remote:
  - id: us
    address: 127.0.0.1@%[3]d
acl:
  - id: us
    address: 127.0.0.1
    action: [notify, transfer]
zone:
  - domain: %[4]s
    storage: %[1]q
    semantic-checks: off
    master: us
    acl: us
    refresh-max-interval: 5
    retry-max-interval: 1
  - domain: sender.test
    storage: %[1]q
    semantic-checks: off
    master: us
    acl: us
`, s.dir, s.port, s.primary, zone)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.process = testenv.Start(t, testenv.Opts{Dir: s.dir, Ready: address(s.port)}, knotd, "-c", conf)
}
