package proxy

import (
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// hangingTarget neither takes a connection nor refuses it: Linux drops those
// that do not fit into the backlog.
func hangingTarget(t testing.TB) Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 50*time.Millisecond)
		if err != nil {
			return targetOf(ln.Addr()) // full
		}
		t.Cleanup(func() { c.Close() })
	}
}

// After Stop nobody goes on dialling.
func TestStopWhileDialling(t *testing.T) {
	testenv.Goroutines(t)
	hangs := hangingTarget(t)
	port := testenv.FreePort(t)
	check := HealthCheck{Interval: time.Millisecond, Timeout: 20 * time.Second}
	p := newProxy(t, Config{Timeouts: Timeouts{Connect: 20 * time.Second}, Routes: []Route{
		checked(httpRoute("web", 0, "a.test", hangs), check), checked(streamRoute("raw", port, hangs), HealthCheck{Path: "/", Interval: check.Interval, Timeout: check.Timeout})}})
	mustStart(t, p)
	c := dialTCP(t, addr(t, p, 0))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	dialTCP(t, addr(t, p, port))
	eventually(t, "both are on their way", func() bool { return routeStats(p, "web").Active == 1 && routeStats(p, "raw").Active == 1 })
	time.Sleep(20 * time.Millisecond)
	begin := time.Now()
	if err := stopWithin(p, 100*time.Millisecond); err == nil {
		t.Error("no error")
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("Stop took %v", d)
	}
	time.Sleep(50 * time.Millisecond) // whoever was told to end does so
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "proxy.newTarget") || strings.Contains(g, "proxy.(*target)") {
			t.Errorf("after Stop there is:\n%s", g)
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	const connect = 300 * time.Millisecond
	_, web := backend(t, says("web"))
	raw := tcpEcho(t)
	port := testenv.FreePort(t)
	p := startBare(t, Config{Timeouts: Timeouts{Connect: connect}, Routes: []Route{
		httpRoute("web", 0, "a.test", hangingTarget(t), web), streamRoute("raw", port, hangingTarget(t), raw.target()), httpRoute("none", 0, "b.test", hangingTarget(t))}})
	c := client(t, addr(t, p, 0), nil)
	begin := time.Now()
	for range 5 {
		if status, _ := get(t, c, "http://a.test/"); status != 200 {
			t.Errorf("status %d", status)
		}
		mustBounce(t, dialTCP(t, addr(t, p, port)), "hello")
	}
	if d := time.Since(begin); d > 2*connect+2*time.Second {
		t.Errorf("took %v: each of the two should be tried once", d)
	}
	begin = time.Now()
	if status, _ := get(t, c, "http://b.test/"); status != 504 {
		t.Errorf("status %d", status)
	}
	if d := time.Since(begin); d < connect*9/10 || d > connect+2*time.Second {
		t.Errorf("took %v, want %v", d, connect)
	}
}
