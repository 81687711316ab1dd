package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// TestProxyProcess is no test: it is the program that the tests here look at
// from outside.
func TestProxyProcess(t *testing.T) {
	ports := strings.Fields(os.Getenv("PROXY_PROCESS"))
	if len(ports) != 3 {
		t.Skip("only for other tests")
	}
	number := func(i int) int {
		n, err := strconv.Atoi(ports[i])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	target := Target{Host: "127.0.0.1", Port: number(2)}
	pass := streamRoute("pass", number(1), target)
	pass.Match.Domains, pass.Action.TLS = []string{"pass.test"}, &TLS{Mode: Passthrough}
	startBare(t, Config{Routes: []Route{streamRoute("direct", number(0), target), pass}})
	fmt.Println(processReady)
	select {}
}

// proxyProcess is a proxy in a process of its own. It forwards two ports to one
// target, and one of them after a look at the ClientHello.
type proxyProcess struct {
	*testenv.Process
	direct, pass string
}

// processReady is what it prints once it has started.
const processReady = "the proxy has started"

// startProcess starts one, run by the program in front if there is one. Nobody
// has connected to it when this returns: whoever asks a port whether it is
// there is a stream too, which may be on its way much later.
func startProcess(t *testing.T, target Target, front ...string) *proxyProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	direct, pass := testenv.FreePort(t), testenv.FreePort(t)
	p := &proxyProcess{direct: fmt.Sprintf("127.0.0.1:%d", direct), pass: fmt.Sprintf("127.0.0.1:%d", pass)}
	args := append(front, exe, "-test.run=^TestProxyProcess$", "-test.timeout=2m")
	p.Process = testenv.Start(t, testenv.Opts{Env: []string{fmt.Sprintf("PROXY_PROCESS=%d %d %d", direct, pass, target.Port)}}, args[0], args[1:]...)
	testenv.WaitFor(t, 20*time.Second, func() error {
		if strings.Contains(p.Output(), processReady) {
			return nil
		}
		select {
		case <-p.Done():
			t.Fatal("the proxy has ended")
		default:
		}
		return errors.New("the proxy has not started yet")
	})
	return p
}

// files counts the descriptors of a process by their kind.
func (p *proxyProcess) files(t testing.TB) map[string]int {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("no descriptors of %d: %v", p.Pid, err)
	}
	count := make(map[string]int)
	for _, link := range links {
		name, err := os.Readlink(link)
		if err != nil {
			continue // just closed
		}
		kind, _, _ := strings.Cut(name, ":")
		count[kind]++
	}
	return count
}

// hold opens connections that each say something once.
func hold(t testing.TB, addr string, count int) (list []*net.TCPConn) {
	t.Helper()
	for range count {
		c := dialTCP(t, addr)
		c.SetDeadline(time.Now().Add(time.Minute))
		mustBounce(t, c, "hello")
		list = append(list, c)
	}
	return list
}
