//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lockFolder creates the lock file. Here a process that is killed leaves it
// behind, so the error says what to do.
func lockFolder(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; if none is running, remove the file %s", inUseBy(""), name)
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
