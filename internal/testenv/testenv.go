// Package testenv is what tests here share: external tools, free ports,
// processes that end with the test, throw-away certificates, a goroutine leak
// check. It uses the standard library only, and only tests import it.
//
// A test against a real server reads like this:
//
//	testenv.Goroutines(t) // first, so that it checks last
//	redis := testenv.Need(t, "redis-server", "apt-get install redis-server")
//	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
//	testenv.Start(t, testenv.Opts{Ready: addr}, redis, "--port", ...)
package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Need returns the path of an external tool. Where it is missing the test is
// skipped with a word on how to get it ("apt-get install redis-server"); with
// CI=true it fails, because CI installs every tool and a skip there would hide
// a test that never runs.
//
// Looked at after PATH: the sbin directories, which PATH lacks for ordinary
// users on Debian. A tool with a '*' is a file pattern, for servers that live
// outside PATH: "/usr/lib/postgresql/*/bin/postgres" gives the last match.
func Need(t testing.TB, tool, how string) string {
	t.Helper()
	if strings.Contains(tool, "*") {
		if m, err := filepath.Glob(tool); err == nil && len(m) > 0 {
			return m[len(m)-1]
		}
	} else if p, err := exec.LookPath(tool); err == nil {
		return p
	} else if runtime.GOOS != "windows" && !strings.Contains(tool, "/") {
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if p, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
				return p
			}
		}
	}
	Lacks(t, "%s is missing; get it with: %s", tool, how)
	return ""
}

// Lacks ends a test for which the machine lacks something: with a skip that says
// what, or with CI=true with a failure, as a skip there would hide a test that
// never runs.
func Lacks(t testing.TB, format string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s (CI=true allows no skip)", what)
	}
	t.Skipf("%s", what)
}

// Loopback returns ip, an address of 127.0.0.0/8, if the machine has it as an
// address. Linux has them all, others only 127.0.0.1.
func Loopback(t testing.TB, ip string) string {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	switch {
	case err == nil:
		ln.Close()
	case runtime.GOOS == "linux":
		t.Fatal(err)
	default:
		t.Skipf("%s is no address here (%s): %v", ip, runtime.GOOS, err)
	}
	return ip
}

// Ports are handed out below the kernel's ephemeral range (from 32768 on
// Linux), so that no outgoing connection takes one between FreePort and the
// server's bind, and in sequence from a random start, so that no process gets
// the same port twice.
const firstPort, lastPort = 10000, 32000

var (
	portStart = rand.IntN(slotPorts)
	portCount atomic.Int32
)

// Tests of several packages run at once, so each process has ports of its own: it
// listens at the door of a slot as long as it lives.
const (
	portSlots = 20
	slotPorts = (lastPort - firstPort - portSlots) / portSlots
)

var portSlot = sync.OnceValue(func() int {
	for slot := range portSlots {
		if door, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lastPort-portSlots+slot)); err == nil {
			doors.Store(slot, door) // or the garbage collector would close it
			return slot
		}
	}
	return rand.IntN(portSlots)
})

var doors sync.Map

// FreePort returns a port that was free a moment ago on 127.0.0.1, for TCP and
// for UDP. Code of ours should listen on port 0 instead; this is for other
// programs.
func FreePort(t testing.TB) int {
	t.Helper()
	if runtime.GOOS == "linux" { // others take it for each socket
		// A program started meanwhile would have a copy of the socket for a moment.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
	}
	for range 1000 {
		port := firstPort + portSlot()*slotPorts + (portStart+int(portCount.Add(1)))%slotPorts
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		ln.Close()
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		pc.Close()
		return port
	}
	t.Fatal("no free port found in 1000 tries")
	return 0
}

// WaitPort waits until something accepts connections on addr, "host:port" or
// the path of a Unix socket, and fails the test if nothing does in time.
func WaitPort(t testing.TB, addr string, timeout time.Duration) {
	t.Helper()
	WaitFor(t, timeout, func() error { return dial(addr) })
}

func dial(addr string) error {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c, err := net.DialTimeout(network, addr, time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

// WaitFor calls ready until it returns nil, and fails the test with its last
// error if it does not in time.
func WaitFor(t testing.TB, timeout time.Duration, ready func() error) {
	t.Helper()
	if err := poll(timeout, ready); err != nil {
		t.Fatalf("not ready after %v: %v", timeout, err)
	}
}

func poll(timeout time.Duration, ready func() error) error {
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := ready()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}

// Folder makes a folder that is removed with the test. Unlike t.TempDir its
// path is short, as Unix sockets need (some 100 bytes), and other users may
// enter it, as servers need that drop root.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dcr")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("removing %s: %v", dir, err)
		}
	})
	return dir
}
