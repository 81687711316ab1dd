//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package folderlock

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// Lock creates the lock file. Here a process that is killed leaves it behind, so
// the error, a [*Held] if somebody has it, says what to do.
func Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, &Held{File: name}
	}
	if err != nil {
		return nil, err
	}
	return lockFile{f}, nil
}

type lockFile struct{ *os.File }

func (l lockFile) Close() error {
	return errors.Join(l.File.Close(), os.Remove(l.Name()))
}
