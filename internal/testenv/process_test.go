//go:build unix

package testenv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the program that these tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("TESTENV_ROLE") {
	case "listen":
		ln, err := net.Listen("tcp", os.Args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening as uid", os.Getuid())
		for {
			if c, err := ln.Accept(); err == nil {
				c.Close()
			}
		}
	case "orphan": // Start a program, say its pid, and die without cleanup.
		p := Start(&fakeTB{}, Opts{Env: []string{"TESTENV_ROLE="}, Dir: "."}, "sleep", "60")
		fmt.Println(p.Pid)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// gone says whether no process of that id lives (a zombie does not).
func gone(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, after, _ := strings.Cut(string(stat), ") ")
		return strings.HasPrefix(after, "Z")
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	WaitFor(t, 5*time.Second, func() error {
		if !gone(pid) {
			return fmt.Errorf("process %d still lives", pid)
		}
		return nil
	})
}

func TestStart(t *testing.T) {
	Goroutines(t)
	addr := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	var f fakeTB
	var p *Process
	f.run(t, func() {
		p = Start(&f, Opts{Ready: addr, Env: []string{"TESTENV_ROLE=listen"}}, self(t), addr)
		if err := dial(addr); err != nil {
			f.Fatal(err)
		}
		if gone(p.Pid) {
			f.Fatal("gone already")
		}
		f.Error("on purpose")
	})
	if !gone(p.Pid) {
		t.Error("it lives after the test's end")
	}
	if s := f.text.String(); !strings.Contains(s, "listening as") {
		t.Errorf("its output is not in the failed test's log: %q", s)
	}
	p.Stop() // again
	p.Kill()
}

func TestStartReportsEarlyEnd(t *testing.T) {
	var f fakeTB
	begin := time.Now()
	f.run(t, func() { Start(&f, Opts{Ready: "127.0.0.1:1"}, "sh", "-c", "echo no such option; exit 3") })
	if s := f.text.String(); !f.failed || !strings.Contains(s, "exit status 3") || !strings.Contains(s, "no such option") {
		t.Errorf("failed %v: %q", f.failed, s)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestCommandThatDoesNotEnd(t *testing.T) {
	Goroutines(t)
	var f fakeTB
	var out []byte
	begin := time.Now()
	// Its child would hold the output for a minute.
	f.run(t, func() { out, _ = commandWithin(&f, time.Second, "sh", "-c", "sleep 60 & echo $!; wait").Output() })
	if s := f.text.String(); !f.failed || !strings.Contains(s, "killed after 1s") || !strings.Contains(s, "sleep 60") {
		t.Errorf("failed %v, with %q", f.failed, s)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, child)
}

func TestStartMissingProgram(t *testing.T) {
	var f fakeTB
	f.run(t, func() { Start(&f, Opts{}, "no-such-tool") })
	if !f.failed {
		t.Error("no failure")
	}
}

func TestStopEndsTheWholeGroup(t *testing.T) {
	// The shell ignores SIGTERM, and its child would outlive it.
	p := Start(t, Opts{StopTimeout: 100 * time.Millisecond}, "sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60")
	var child int
	WaitFor(t, 5*time.Second, func() (err error) {
		child, err = strconv.Atoi(strings.TrimSpace(p.Output()))
		return err
	})
	p.Stop()
	if p.ExitCode() != -1 {
		t.Errorf("exit code %d, want -1 for a signal", p.ExitCode())
	}
	waitGone(t, p.Pid)
	waitGone(t, child)
}

func TestExitCodeAndOutput(t *testing.T) {
	p := Start(t, Opts{Env: []string{"GREETING=hello"}}, "sh", "-c", `echo $GREETING; pwd; exit 7`)
	if p.ExitCode() != 7 {
		t.Errorf("exit code %d", p.ExitCode())
	}
	if s := p.Output(); !strings.Contains(s, "hello") || !strings.Contains(s, p.Dir) {
		t.Errorf("output %q", s)
	}
}

func TestChildDiesWithTheTestBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent-death signal")
	}
	cmd := exec.Command(self(t))
	cmd.Dir = Folder(t)
	cmd.Env = append(os.Environ(), "TESTENV_ROLE=orphan")
	out, _ := cmd.Output() // it kills itself
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("output %q: %v", out, err)
	}
	waitGone(t, pid)
}

func TestStartAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	p := Start(t, Opts{User: "nobody"}, "sh", "-c", "id -u; touch mine")
	if p.ExitCode() != 0 || strings.TrimSpace(p.Output()) != u.Uid {
		t.Errorf("exit code %d, output %q; want uid %s", p.ExitCode(), p.Output(), u.Uid)
	}
}
