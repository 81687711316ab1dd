//go:build unix

package main_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// notifications listens as systemd does for what services say of themselves.
func notifications(t *testing.T) (path string, next func(want string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	heard := new(logBuffer)
	go func() {
		b := make([]byte, 4096)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			heard.Write(append(b[:n:n], '\n'))
		}
	}()
	read := 0 // of what has been heard
	return path, func(want string) {
		t.Helper()
		testenv.WaitFor(t, time.Minute, func() error {
			all := heard.String()
			at := strings.Index(all[read:], want)
			if at < 0 {
				return fmt.Errorf("systemd did not hear %q but %q", want, all[read:])
			}
			read += at + len(want)
			return nil
		})
	}
}

func serves(t *testing.T, addr string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := c.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// Sockets come from systemd, of TCP and UDP. They outlive an upgrade and a crash.
func TestSocketActivation(t *testing.T) {
	dig := testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	file, _ := everything(t, testenv.FreePort(t), testenv.FreePort(t), false)
	addrs := run(t, "-config", file)
	addrs.end(t, syscall.SIGTERM)
	web := addrs.addrs["proxy"][0]
	dns, _, _ := strings.Cut(addrs.addrs["dns"][0], "/")
	path, hears := notifications(t)

	ln, err := net.Listen("tcp", web)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pc, err := net.ListenPacket("udp", dns)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	launch := func() *exec.Cmd {
		lnFile, err1 := ln.(*net.TCPListener).File()
		pcFile, err2 := pc.(*net.UDPConn).File()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lnFile.Close(); pcFile.Close() })
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:dns exec "$@"`, "sh", build(t), "-config", file)
		cmd.ExtraFiles = []*os.File{lnFile, pcFile}
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
		return cmd
	}
	first := runCommand(t, launch())
	hears(fmt.Sprintf("READY=1\nMAINPID=%d", first.cmd.Process.Pid))
	hears("WATCHDOG=1")
	serves(t, web)
	query := func() {
		t.Helper()
		host, port, _ := net.SplitHostPort(dns)
		if err := command("192.0.2.1", "", dig, "@"+host, "-p", port, "+tries=1", "+time=30", "+short", "www.example.org")(t.Context()); err != nil {
			t.Error(err)
		}
	}
	query()
	first.cmd.Process.Signal(syscall.SIGHUP)
	hears("RELOADING=1")
	hears("READY=1")

	first.cmd.Process.Signal(syscall.SIGUSR2)
	first.nextReady(t)
	next := first.pid(t, 1)
	defer syscall.Kill(next, syscall.SIGKILL)
	hears(fmt.Sprintf("MAINPID=%d", next))
	serves(t, web)
	query()
	ended(t, first.cmd.Process.Pid)

	// Between a crash and the next start a connection waits.
	signal(t, next, syscall.SIGKILL)
	ended(t, next)
	conn, err := net.Dial("tcp", web)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	again := runCommand(t, launch())
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 16)); n == 0 {
		t.Errorf("the connection that waited: %v", err)
	}
	again.cmd.Process.Signal(syscall.SIGTERM)
	hears("STOPPING=1")
}

// A socket that the configuration does not listen on is a mistake: its clients
// would wait for ever.
func TestSocketActivationWithSystemd(t *testing.T) {
	activate := testenv.Need(t, "systemd-socket-activate", "apt-get install systemd")
	file, _ := everything(t, testenv.FreePort(t), testenv.FreePort(t), false)
	probe := run(t, "-config", file)
	probe.end(t, syscall.SIGTERM)
	web := probe.addrs["proxy"][0]
	for _, c := range []struct {
		listen []string
		want   string
	}{
		{[]string{"-l", web}, ""},
		{[]string{"-l", web, "-l", fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))}, "nothing in the configuration listens on"},
	} {
		cmd := testenv.Command(t, activate, append(c.listen, build(t), "-config", file)...)
		log := new(logBuffer)
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It is started when the first connection comes.
		testenv.WaitPort(t, web, time.Minute)
		if c.want == "" {
			serves(t, web)
			cmd.Process.Signal(syscall.SIGTERM)
		}
		cmd.Wait()
		if !strings.Contains(log.String(), c.want) {
			t.Errorf("the log does not say %q:\n%s", c.want, log)
		}
	}
}
