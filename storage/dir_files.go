package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// walkFolder calls fn for everything below folder that is not a folder. A
// folder that is missing, or vanishes meanwhile, is empty.
func walkFolder(ctx context.Context, root *os.Root, folder string, fn func(name string, e fs.DirEntry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case !e.IsDir():
			err = fn(name, e)
		case isFolderName(e.Name()):
			err = walkFolder(ctx, root, name, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dirErr names the key, and says ErrNotFound for what is not there.
func dirErr(op, key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	return keyErr(op, key, err)
}

func writeTemp(root *os.Root, name string, value []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(value)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncFolder makes the entries of a folder durable.
func syncFolder(root *os.Root, folder string) error {
	if runtime.GOOS == "windows" {
		return nil // there is no such thing; the file system's journal does it
	}
	f, err := root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeFolders is os.MkdirAll that also makes durable what it made.
func makeFolders(abs string) error {
	fi, err := os.Stat(abs)
	switch {
	case err == nil && !fi.IsDir():
		return fmt.Errorf("%s is not a folder", abs)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(abs)
	if parent == abs {
		return err
	}
	if err := makeFolders(parent); err != nil {
		return err
	}
	if err := os.Mkdir(abs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(root, "."), root.Close())
}

// tidy removes what a crash left half-written, and folders that are empty, and
// flushes every other folder: a process that was killed may have renamed a file and
// not come to that, and from now on its value will be seen and relied on.
func tidy(ctx context.Context, root *os.Root, folder string, folders map[string]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := root.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		switch {
		case e.IsDir() && isFolderName(e.Name()):
			err = tidy(ctx, root, name, folders)
		case e.Type().IsRegular() && strings.HasPrefix(e.Name(), tempPrefix):
			err = removeIfThere(root, name)
		}
		if err != nil {
			return err
		}
	}
	if folder != "." && root.Remove(folder) == nil { // fails unless it is empty
		return nil
	}
	if runtime.GOOS != "windows" {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	folders[folder] = true
	return nil
}
