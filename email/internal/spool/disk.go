package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/dcrouter/dcrouter/internal/folderlock"
)

// disk is the folder of a log. It is an interface so that tests can let it
// fail and forget.
type disk interface {
	create(name string) (file, error) // fails if there is one
	open(name string) (file, error)
	rename(from, to string) error
	remove(name string) error // also if there is none
	list() ([]diskEntry, error)
	sync() error          // makes what happened to names durable
	free() (int64, error) // bytes that may still be written
	close() error
}

type diskEntry struct {
	name string
	size int64
}

type file interface {
	io.ReaderAt
	io.WriterAt
	// allocate makes the file size bytes long and takes up the room for it.
	allocate(size int64) error
	sync() error // makes the bytes durable
	Close() error
}

// osDisk is a real folder. It holds its lock.
type osDisk struct {
	folder string
	root   *os.Root
	lock   io.Closer
}

func openDisk(folder string) (*osDisk, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	if err := makeFolder(folder); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	lock, err := folderlock.Lock(filepath.Join(folder, "lock"))
	if held := (*folderlock.Held)(nil); errors.As(err, &held) {
		err = fmt.Errorf("%w: %w", ErrInUse, held)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &osDisk{folder: folder, root: root, lock: lock}, nil
}

// makeFolder is os.MkdirAll that also makes durable what it made.
func makeFolder(abs string) error {
	if fi, err := os.Stat(abs); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(abs)
	if parent != abs {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(abs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	return errors.Join((&osDisk{root: root}).sync(), root.Close())
}

func (d *osDisk) close() error { return errors.Join(d.root.Close(), d.lock.Close()) }

func (d *osDisk) create(name string) (file, error) {
	return wrapFile(d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600))
}

func (d *osDisk) open(name string) (file, error) {
	return wrapFile(d.root.OpenFile(name, os.O_RDWR, 0))
}

func wrapFile(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d *osDisk) rename(from, to string) error { return d.root.Rename(from, to) }

func (d *osDisk) remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *osDisk) list() ([]diskEntry, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := f.Readdir(-1)
	if err != nil {
		return nil, err
	}
	var entries []diskEntry
	for _, fi := range infos {
		if fi.Mode().IsRegular() {
			entries = append(entries, diskEntry{fi.Name(), fi.Size()})
		}
	}
	return entries, nil
}

func (d *osDisk) sync() error {
	if runtime.GOOS == "windows" {
		return nil // there is no such thing; the file system's journal does it
	}
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *osDisk) free() (int64, error) { return freeBytes(d.folder) }

type osFile struct{ *os.File }

func (f osFile) allocate(size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	return preallocate(f.File, size)
}

func (f osFile) sync() error { return syncData(f.File) }

// full says ErrFull for what a system says when there is no room.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, errDiskFull()) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
