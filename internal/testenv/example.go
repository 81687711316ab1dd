package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// asProgram is the environment variable that makes a test binary the program.
const asProgram = "TESTENV_RUN_MAIN"

// Main is for the TestMain of a program's tests, and main is that program's: the
// test binary, when [StartMain] starts it once more, is the program. So that is
// built just once, and the race detector watches it too.
func Main(m *testing.M, main func()) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(asProgram)
	main()
	os.Exit(0)
}

// StartMain starts the program under test as [Start] does; see [Main].
func StartMain(t testing.TB, o Opts, args ...string) *Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Env = append(o.Env, asProgram+"=1")
	return Start(t, o, self, args...)
}

// Address returns an address of this machine for programs whose ports are fixed. On
// Linux it is one of 127.0.0.0/8 that no other test has, elsewhere 127.0.0.1.
func Address(t testing.TB) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254))).String()
}

// Try does what a program tells its user to: it waits for the one line that
// contains part among those that are indented or say "try: ", runs it in a shell in
// the program's folder, and returns what that prints. The test fails unless each of
// want is in there.
func (p *Process) Try(t testing.TB, part string, want ...string) string {
	t.Helper()
	var line string
	WaitFor(t, time.Minute, func() (err error) {
		line, err = p.toTry(part)
		return err
	})
	cmd := Command(t, "sh", "-c", line)
	cmd.Dir = p.Dir
	out, err := cmd.CombinedOutput()
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			t.Errorf("%s\n(%v) prints nothing like %q:\n%s", line, err, w, out)
		}
	}
	return string(out)
}

func (p *Process) toTry(part string) (string, error) {
	var found []string
	out := p.Output()
	for line := range strings.Lines(out) {
		_, text, tells := strings.Cut(line, "try: ")
		if !tells {
			text, tells = strings.CutPrefix(line, "  ")
		}
		if tells && strings.Contains(text, part) && strings.HasSuffix(line, "\n") {
			found = append(found, strings.TrimSpace(text))
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%q is in %d lines of what is to be tried:\n%s", part, len(found), out)
	}
	return found[0], nil
}

// Interrupt does what Ctrl-C does, and fails the test unless the program ends with
// success.
func (p *Process) Interrupt(t testing.TB) {
	t.Helper()
	if err := p.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	Await(t, "the end of the program", func() {
		if code := p.ExitCode(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	})
}
