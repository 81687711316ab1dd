package testenv

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

// Command is [exec.Command] for a program that a test runs to its end. Two
// minutes after this call it is killed, with all that it has started, and the
// test has failed; Wait then does not wait for whoever still holds its output.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return commandWithin(t, 2*time.Minute, name, args...)
}

func commandWithin(t testing.TB, limit time.Duration, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	inOwnGroup(cmd)
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("killed after %v, as it does not end: %q", limit, cmd.Args)
		}
		killGroup(cmd.Process.Pid)
		return nil
	}
	return cmd
}
