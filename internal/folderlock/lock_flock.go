//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package folderlock

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Lock takes the lock file for as long as the result is open. The system drops
// the lock when the process ends, however it ends. The error is a [*Held] if
// somebody has it.
func Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0) // only to say more
		_ = f.Close()
		held := &Held{PID: strings.TrimSpace(string(holder[:n]))}
		if _, err := strconv.Atoi(held.PID); err != nil {
			held.PID = "" // whoever wrote that
		}
		return nil, held
	}
	if err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	// Who holds it, for the other's message; the lock does not depend on it.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return flocked{f}, nil
}

// flocked is the lock file with its lock.
type flocked struct{ *os.File }

// Close gives the lock up before it closes the file. Closing alone would not
// do if this process is just starting another: until that has got as far as
// exec it has a copy of the file, and with it the lock.
func (f flocked) Close() error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.File.Close())
}
