//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// lockFolder creates the lock file. Here a process that is killed leaves it
// behind, so the error says what to do.
func lockFolder(root *os.Root, name string) (io.Closer, error) {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w; if no process runs on it, remove its file %q", ErrInUse, name)
	}
	if err != nil {
		return nil, err
	}
	return lockFile{f, root, name}, nil
}

type lockFile struct {
	*os.File
	root *os.Root
	name string
}

func (l lockFile) Close() error {
	return errors.Join(l.File.Close(), l.root.Remove(l.name))
}
