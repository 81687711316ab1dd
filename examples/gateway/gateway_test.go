package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// binary builds the command once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "gateway")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func build(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// gateway is a running command.
type gateway struct {
	cmd   *exec.Cmd
	addrs map[string][]string
	log   *logBuffer
	out   *bufio.Reader
}

// logBuffer collects standard error while the command runs.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run starts the command and waits for its ready line.
func run(t *testing.T, args ...string) *gateway {
	t.Helper()
	return runCommand(t, exec.Command(build(t), args...))
}

// runCommand is run for a command that ends up as the gateway.
func runCommand(t *testing.T, cmd *exec.Cmd) *gateway {
	t.Helper()
	g := &gateway{cmd: cmd, log: new(logBuffer)}
	g.cmd.Stderr = g.log
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.cmd.Process.Kill()
		g.cmd.Wait()
		if t.Failed() {
			t.Logf("standard error of the gateway:\n%s", g.log)
		}
	})
	g.out = bufio.NewReader(stdout)
	line, err := g.out.ReadString('\n')
	if err != nil {
		t.Fatalf("no ready line: %v\n%s", err, g.log)
	}
	object, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		t.Fatalf("the first line on standard output is %q", line)
	}
	if err := json.Unmarshal([]byte(object), &g.addrs); err != nil {
		t.Fatal(err)
	}
	return g
}

// end waits for the exit status after a signal; nothing else may have been
// printed on standard output.
func (g *gateway) end(t *testing.T, sig os.Signal) {
	t.Helper()
	g.cmd.Process.Signal(sig)
	rest, _ := io.ReadAll(g.out)
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("after %v: %v", sig, err)
	}
	if len(rest) > 0 {
		t.Errorf("more on standard output: %q", rest)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestConfigFile(t *testing.T) {
	page := func(text string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://127.0.0.1:")
	}
	config := func(port string) string {
		return `{"smartProxyConfig": {"listenHost": "127.0.0.1", "routes": [{"name": "web",
			"match": {"ports": 0, "protocol": "http"}, "action": {"type": "forward", "targets": {"host": "127.0.0.1", "port": ` + port + `}}}]}}`
	}
	file := filepath.Join(t.TempDir(), "gateway.json")
	write(t, file, config(page("one")))
	g := run(t, "-config", file)
	if len(g.addrs["proxy"]) != 1 {
		t.Fatalf("ready says %v", g.addrs)
	}
	url := "http://" + g.addrs["proxy"][0]
	if body := get(t, url); body != "one" {
		t.Errorf("got %q", body)
	}

	write(t, file, config(page("two")))
	g.cmd.Process.Signal(syscall.SIGHUP)
	waitFor(t, "the reload", func() bool { return get(t, url) == "two" })

	write(t, file, config("70000"))
	g.cmd.Process.Signal(syscall.SIGHUP)
	waitFor(t, "the report", func() bool {
		return strings.Contains(g.log.String(), "smartProxyConfig.routes[0].action.targets[0].port: 70000 is not a port")
	})
	if body := get(t, url); body != "two" {
		t.Errorf("after a bad reload: %q", body)
	}
	write(t, file, strings.Replace(config(page("three")), `"routes"`, `"maxConnections": 5, "routes"`, 1))
	g.cmd.Process.Signal(syscall.SIGHUP)
	waitFor(t, "the warning", func() bool { return strings.Contains(g.log.String(), "beyond its routes") })
	if body := get(t, url); body != "three" {
		t.Errorf("after a reload with other changes: %q", body)
	}
	http.DefaultClient.CloseIdleConnections()
	g.end(t, syscall.SIGTERM)
}

func TestBadUse(t *testing.T) {
	for _, args := range [][]string{{"-check"}, {"-config", ""}, {"-config", "", "-check"}, {"file.json"}} {
		cmd := exec.Command(build(t), args...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "Usage") {
			t.Errorf("%q: %v\n%s", args, cmd.ProcessState, out)
		}
	}
}

// Whoever waits for the ready line must not wait for ever if it is lost.
func TestReadyLineCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("needs /dev/full:", err)
	}
	defer full.Close()
	file := filepath.Join(t.TempDir(), "empty.json")
	write(t, file, "{}")
	cmd := exec.Command(build(t), "-config", file)
	cmd.Stdout = full
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v", err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}

func TestDemonstration(t *testing.T) {
	curl := testenv.Need(t, "curl", "apt-get install curl")
	g := run(t)
	if len(g.addrs["proxy"]) != 3 {
		t.Fatalf("ready says %v", g.addrs)
	}
	web, secure, echo := g.addrs["proxy"][0], g.addrs["proxy"][1], g.addrs["proxy"][2]
	_, securePort, _ := strings.Cut(secure, ":")
	try := func(want string, args ...string) {
		t.Helper()
		cmd := exec.Command(curl, append([]string{"-s", "-S", "-k", "--max-time", "10"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("curl %v: %v\n%s", args, err, out)
		}
	}
	try("blue answers GET /", "http://"+web+"/")
	try("green answers GET /api/hello", "http://"+web+"/api/hello")
	try("blue answers", "https://localhost:"+securePort+"/")
	try("Location: https://localhost:"+securePort+"/x?y", "-i", "-H", "Host: localhost", "http://"+web+"/x?y")
	try("changed places", "-X", "POST", "http://"+web+"/swap")
	try("green answers GET /", "http://"+web+"/")
	for _, want := range []string{web, echo} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("what to try does not mention %s", want)
		}
	}
	g.end(t, os.Interrupt)
}

// check runs the command with -check and returns its exit status and what it
// says.
func check(t *testing.T, file string) (int, string) {
	t.Helper()
	cmd := exec.Command(build(t), "-config", file, "-check")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if stdout.Len() > 0 {
		t.Errorf("-check of %s prints on standard output: %s", file, &stdout)
	}
	if strings.Contains(stderr.String(), "panic") {
		t.Errorf("-check of %s panics: %s", file, &stderr)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

func TestCheckAcceptsTheReference(t *testing.T) {
	files, err := filepath.Glob("../../testdata/configs/*.json")
	if err != nil || len(files) < 14 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range append(files, "gateway.json") {
		status, text := check(t, file)
		bad := status != 0 && status != 1
		for line := range strings.Lines(text) {
			// Their certificates are not here.
			bad = bad || status == 1 && !strings.HasPrefix(line, "note: ") && !strings.HasPrefix(line, "emailConfig.tls.certPath: cannot read the certificate: ")
		}
		if bad {
			t.Errorf("%s: exit status %d\n%s", file, status, text)
		}
	}
}
