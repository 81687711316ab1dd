package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/dcrouter/dcrouter/internal/folderlock"
)

// Dir returns a backend that keeps each value in a file of its own below
// folder, which [Open] creates if it is missing (folders 0700, files 0600).
//
//   - A value is the file's content, byte for byte. The key
//     "email/domains/example.org.json" is the file
//     email+/domains+/example.org.json. In names, whatever is not one of
//     a-z 0-9 . _ - @ is written as %xx, the bytes in hexadecimal.
//   - A write goes to a temporary file in the same folder, which is flushed,
//     renamed, and its folder flushed. When Put or Delete return nil the
//     change outlasts a crash of process or machine, as far as the disk keeps
//     its word. Half-written files and empty folders are removed when the folder
//     is opened.
//   - One process has the folder open, and one Store: for others Open fails
//     with [ErrInUse]. So what the Store does in process, like revisions and
//     leases, is exact.
//   - Nothing outside the folder is touched, not even through symbolic links.
//
// Other files in the folder are left alone and are not listed. Do not change
// the files while it is open.
func Dir(folder string) Backend { return &dir{folder: folder} }

type dir struct {
	folder string

	mu   sync.RWMutex // held for reading while root is used
	root *os.Root     // nil: not open
	lock io.Closer

	// shape is held for reading by writers and for writing by the one who
	// removes an empty folder, so that none vanishes under a writer.
	shape sync.RWMutex

	foldersMu sync.Mutex
	folders   map[string]bool // folders whose entry in their parent is durable
	unpruned  map[string]bool // folders that may be empty
}

// Open creates the folder if need be, locks it, and tidies up after a crash.
func (d *dir) Open(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root != nil {
		return d.fail(ErrInUse)
	}
	if d.folder == "" {
		return d.fail(errors.New("no folder given"))
	}
	abs, err := filepath.Abs(d.folder)
	if err != nil {
		return d.fail(err)
	}
	if err := makeFolders(abs); err != nil {
		return d.fail(err)
	}
	lock, err := folderlock.Lock(filepath.Join(abs, dirLockName))
	if held := (*folderlock.Held)(nil); errors.As(err, &held) {
		err = fmt.Errorf("%w: %w", held, ErrInUse)
	}
	if err != nil {
		return d.fail(err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return errors.Join(d.fail(err), lock.Close())
	}
	folders := map[string]bool{".": true}
	if err := tidy(ctx, root, ".", folders); err != nil {
		return errors.Join(d.fail(err), root.Close(), lock.Close())
	}
	d.root, d.lock, d.folders, d.unpruned = root, lock, folders, make(map[string]bool)
	return nil
}

func (d *dir) fail(err error) error { return &KeyError{Op: "open folder", Key: d.folder, Err: err} }

// Close gives the folder free.
func (d *dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root == nil {
		return nil
	}
	err := errors.Join(d.root.Close(), d.lock.Close())
	d.root, d.lock = nil, nil
	return err
}

// use returns the root, which stays open until done is called.
func (d *dir) use(ctx context.Context) (root *os.Root, done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	d.mu.RLock()
	if d.root == nil {
		d.mu.RUnlock()
		return nil, nil, d.fail(ErrClosed)
	}
	return d.root, d.mu.RUnlock, nil
}

func (d *dir) Get(ctx context.Context, key string) ([]byte, error) {
	root, done, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	name, err := fileOf(key)
	if err != nil {
		return nil, err
	}
	data, err := root.ReadFile(name)
	return data, dirErr("get", key, err)
}

func (d *dir) Stat(ctx context.Context, key string) (Info, error) {
	root, done, err := d.use(ctx)
	if err != nil {
		return Info{}, err
	}
	defer done()
	name, err := fileOf(key)
	if err != nil {
		return Info{}, err
	}
	fi, err := root.Stat(name)
	if err != nil {
		return Info{}, dirErr("stat", key, err)
	}
	return Info{Key: key, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

func (d *dir) Put(ctx context.Context, key string, value []byte) error {
	root, done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	name, err := fileOf(key)
	if err != nil {
		return err
	}
	err = d.put(ctx, root, name, value)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed a folder that we made. Make it again.
		d.foldersMu.Lock()
		d.folders = map[string]bool{".": true}
		d.foldersMu.Unlock()
		err = d.put(ctx, root, name, value)
	}
	return keyErr("put", key, err)
}

func (d *dir) put(ctx context.Context, root *os.Root, name string, value []byte) error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	folder := path.Dir(name)
	if err := d.makeFolder(root, folder); err != nil {
		return err
	}
	tmp := path.Join(folder, tempPrefix+rand.Text())
	if err := writeTemp(root, tmp, value); err != nil {
		return errors.Join(err, removeIfThere(root, tmp))
	}
	if err := ctx.Err(); err != nil { // the last moment at which nothing has happened
		return errors.Join(err, removeIfThere(root, tmp))
	}
	if err := root.Rename(tmp, name); err != nil {
		return errors.Join(err, removeIfThere(root, tmp))
	}
	return syncFolder(root, folder)
}

func (d *dir) Delete(ctx context.Context, key string) error {
	root, done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	name, err := fileOf(key)
	if err != nil {
		return err
	}
	if err := d.remove(root, name); err != nil {
		return dirErr("delete", key, err)
	}
	d.prune(root, path.Dir(name))
	return nil
}

func (d *dir) remove(root *os.Root, name string) error {
	d.shape.RLock()
	defer d.shape.RUnlock()
	if err := removeIfThere(root, name); err != nil {
		return err
	}
	// Also if the file was not there: whoever removed it may not have come
	// to this yet, and our caller is about to be told that it is gone.
	if err := syncFolder(root, path.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// prune removes folders that are empty now. It is only for tidiness, so it need
// not be durable, and waits for nobody: while others write, the folder is noted for
// whoever deletes next. Only when that has become many, it has them wait.
func (d *dir) prune(root *os.Root, folder string) {
	d.foldersMu.Lock()
	d.unpruned[folder] = true
	many := len(d.unpruned) >= maxUnpruned
	d.foldersMu.Unlock()
	if many {
		d.shape.Lock()
	} else if !d.shape.TryLock() {
		return
	}
	defer d.shape.Unlock()
	d.foldersMu.Lock()
	defer d.foldersMu.Unlock()
	for folder := range d.unpruned {
		for ; folder != "." && root.Remove(folder) == nil; folder = path.Dir(folder) {
			delete(d.folders, folder)
		}
	}
	clear(d.unpruned)
}

// maxUnpruned is how many folders may wait to be removed.
const maxUnpruned = 64

// makeFolder makes sure that folder and its parents exist and that a crash
// does not take them away. The lock is held meanwhile: whoever finds a folder
// that somebody else just made must not go on before it is durable.
func (d *dir) makeFolder(root *os.Root, folder string) error {
	d.foldersMu.Lock()
	defer d.foldersMu.Unlock()
	return d.makeFolderLocked(root, folder)
}

func (d *dir) makeFolderLocked(root *os.Root, folder string) error {
	if d.folders[folder] {
		return nil
	}
	parent := path.Dir(folder)
	if err := d.makeFolderLocked(root, parent); err != nil {
		return err
	}
	if err := root.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncFolder(root, parent); err != nil {
		return err
	}
	d.folders[folder] = true
	return nil
}

func (d *dir) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, err := d.keys(ctx, prefix)
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
		if err != nil {
			yield("", dirErr("list", prefix, err))
		}
	}
}

func (d *dir) keys(ctx context.Context, prefix string) ([]string, error) {
	root, done, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var keys []string
	start := "."
	if trimmed := strings.TrimSuffix(prefix, "/"); trimmed != "" {
		name, err := fileOf(trimmed)
		if err != nil {
			return nil, err
		}
		if trimmed == prefix {
			if fi, err := root.Lstat(name); err == nil && fi.Mode().IsRegular() {
				keys = append(keys, prefix)
			}
		}
		start = folderOf(trimmed)
	}
	err = walkFolder(ctx, root, start, func(name string, e fs.DirEntry) error {
		if key, ok := keyOf(name); ok && e.Type().IsRegular() {
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}
