package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter"
)

// What follows is the protocol between systemd and its services, see
// sd_listen_fds(3) and sd_notify(3). Without systemd it does nothing.

// activation returns the sockets that systemd has opened for this process, each
// for the address that it is bound to.
func activation() (opts []dcrouter.Option, err error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name) // they are about this process alone
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 10_000 {
		return nil, fmt.Errorf("LISTEN_FDS is %q", count)
	}
	var errs []error
	for i := range n {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		f := os.NewFile(uintptr(3+i), name)
		if ln, err := net.FileListener(f); err == nil {
			opts = append(opts, dcrouter.WithListener(ln.Addr().String(), ln))
		} else if pc, err := net.FilePacketConn(f); err == nil {
			opts = append(opts, dcrouter.WithPacketConn(pc.LocalAddr().String(), pc))
		} else {
			errs = append(errs, fmt.Errorf("socket %d (%s) of systemd is neither for a listener nor for datagrams: %w", i, name, err))
		}
		f.Close()
	}
	return opts, errors.Join(errs...)
}

// notify tells systemd about the state of the service.
func notify(state ...string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path) // one that begins with @ is abstract
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // it waits if nobody listens
	conn.Write([]byte(strings.Join(state, "\n")))
}

// watchdog tells systemd that this process is alive, twice as often as it wants
// to know, as long as the Router takes part: whoever asks it for its addresses
// waits for its locks.
func watchdog(ctx context.Context, r *dcrouter.Router) {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return
	}
	ticker := time.NewTicker(time.Duration(usec) * time.Microsecond / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.Addrs()
			notify("WATCHDOG=1")
		case <-ctx.Done():
			return
		}
	}
}
