package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Opts of [Start]; the zero value is fine.
type Opts struct {
	// Dir is the working directory, by default a new [Folder].
	Dir string
	// Env is added to this process's environment.
	Env []string
	// User runs the program as that user if the tests run as root, for
	// programs that refuse root (postgres); Dir is then given to that user.
	User string
	// Ready is an address as for [WaitPort]: Start returns once it accepts
	// connections, and fails the test at once if the program ends before.
	Ready string
	// Timeout bounds the wait for Ready; default 20 s.
	Timeout time.Duration
	// StopTimeout is the time between SIGTERM and SIGKILL; default 5 s.
	StopTimeout time.Duration
}

// Process is a running program.
type Process struct {
	Dir string // its working directory
	Pid int    // also the id of its process group

	cmd  *exec.Cmd
	log  string // file with its stdout and stderr
	stop time.Duration
	done chan struct{} // closed once it was reaped
}

// Start runs a program in the foreground, in a process group of its own. At
// the end of the test the whole group is stopped (SIGTERM, then SIGKILL), and
// what it printed goes into the log of a failed test. On Linux the program is
// killed too if the test binary dies without cleanup.
func Start(t testing.TB, o Opts, name string, args ...string) *Process {
	t.Helper()
	if o.Dir == "" {
		o.Dir = Folder(t)
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 5 * time.Second
	}
	// A file, not a pipe: no goroutine has to copy, and Wait does not hang on
	// grandchildren that keep the pipe open.
	out, err := os.CreateTemp(o.Dir, "output-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()

	cmd := exec.Command(name, args...)
	cmd.Dir = o.Dir
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := setAttributes(cmd, o.User); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}

	p := &Process{Dir: o.Dir, cmd: cmd, log: out.Name(), stop: o.StopTimeout, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The parent-death signal is tied to the thread that forks, so keep
		// that thread as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the outcome is in cmd.ProcessState
		killGroup(cmd.Process.Pid)
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	p.Pid = cmd.Process.Pid

	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s (pid %d, %v) printed:\n%s", filepath.Base(name), p.Pid, cmd.ProcessState, tail(p.Output(), 64<<10))
		}
	})
	if o.Ready != "" {
		err := poll(o.Timeout, func() error {
			select {
			case <-p.done:
				return nil
			default:
				return dial(o.Ready)
			}
		})
		select {
		case <-p.done:
			err = errors.New("it ended: " + cmd.ProcessState.String())
		default:
		}
		if err != nil {
			t.Fatalf("%s is not ready on %s: %v", name, o.Ready, err)
		}
	}
	return p
}

// Output is what the program has printed so far, stdout and stderr together.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return string(b)
}

// Done is closed once the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode waits for the program's end; -1 means a signal ended it.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the program alone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop ends the program with SIGTERM, or SIGKILL if it takes too long, and
// then whatever is left of its process group. More calls are fine.
func (p *Process) Stop() {
	terminate(p.cmd.Process)
	select {
	case <-p.done:
	case <-time.After(p.stop):
		p.Kill()
	}
}

// Kill ends the whole process group with SIGKILL, at once.
func (p *Process) Kill() {
	select {
	case <-p.done: // reaped: the pid may be another program's by now
		return
	default:
	}
	killGroup(p.Pid)
	<-p.done
}

func tail(s string, n int) string {
	if len(s) > n {
		return "[...]" + s[len(s)-n:]
	}
	return s
}
