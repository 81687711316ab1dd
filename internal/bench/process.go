package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a program that the benchmark has started.
type process struct {
	pid  int // also the id of its process group
	name string
	log  string // file with what it prints
	done chan struct{}

	began time.Time
}

// start runs a program in dir and waits until it accepts connections on ready.
// Its caller's thread must live as long as the program: see killWithParent.
func start(dir, ready, program string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, "output.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	// Whatever a program wants to keep goes into its folder.
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	// A session is a process group, too, and Postfix insists on one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	killWithParent(cmd.SysProcAttr)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, name: filepath.Base(program), log: log.Name(), done: make(chan struct{}), began: began}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	if err := p.waitFor(ready); err != nil {
		p.stop()
		printed, _ := os.ReadFile(p.log)
		return nil, fmt.Errorf("%s: %w; it printed:\n%s", p.name, err, printed)
	}
	return p, nil
}

// waitFor waits until the process accepts connections.
func (p *process) waitFor(addr string) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-p.done:
			return errors.New("it ended at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process and its children.
func (p *process) stop() {
	syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
	}
	syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.done
}

// find returns the path of a program. Looked at after PATH: the sbin
// directories, which ordinary users' PATH lacks, and where go installs to.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	dirs := []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		dirs = append(dirs, filepath.Join(strings.TrimSpace(string(out)), "bin"))
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is missing: internal/bench/install gets it, or leave its rows or peers out", program)
}

// freePort returns a port of 127.0.0.1 that was free a moment ago, below those
// that outgoing connections take.
func freePort() (int, error) {
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		ln, err := net.Listen("tcp", loopback(port))
		if err == nil {
			return port, ln.Close()
		}
	}
	return 0, errors.New("no free port found in 1000 tries")
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// maxFiles is how many files a process may have open here. Go has raised the
// limit of this process as far as it may.
func maxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Cur, 1<<20))
}
