package spool

import (
	"errors"
	"fmt"
	"io/fs"
)

// openBody is a body's own file while somebody reads it. It is removed after
// the last has finished, because some systems do not remove open files.
type openBody struct {
	file    file
	readers int
	removed bool
}

func (l *fileLog) openBody(k key) (*openBody, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.reading[k]; b != nil {
		b.readers++
		return b, nil
	}
	if _, ok := l.index[k]; !ok {
		return nil, notFound(k.id())
	}
	f, err := l.disk.open(bodyName(k))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: its file is missing: %w", ErrDamaged, err)
		}
		return nil, err
	}
	b := &openBody{file: f, readers: 1}
	l.reading[k] = b
	return b, nil
}

func (l *fileLog) closeBody(k key, b *openBody) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.readers--
	if b.readers > 0 {
		return nil
	}
	delete(l.reading, k)
	err := b.file.Close()
	if b.removed && !l.closed { // after Close the next start removes it
		err = errors.Join(err, l.disk.remove(bodyName(k)))
	}
	return err
}

// removeBodies removes the files of messages that are gone for good. One that
// stays is removed by the next start.
func (l *fileLog) removeBodies(keys []key) {
	for _, k := range keys {
		l.mu.Lock()
		b := l.reading[k]
		if b != nil {
			b.removed = true
		}
		l.mu.Unlock()
		if b != nil {
			continue
		}
		if err := l.disk.remove(bodyName(k)); err != nil {
			l.log.Warn("the file of a message that is done could not be removed", "file", bodyName(k), "err", err)
		}
	}
}

// keepBody keeps the file of a body that has no message any more from being
// removed by the next start.
func (l *fileLog) keepBody(name string) error { return l.disk.rename(name, name+damagedSuffix) }

// draftFile is a draft that has become too large for memory.
type draftFile struct {
	disk disk
	file file
	name string
	size int64
}

func newDraftFile(d disk) (overflow, error) {
	name := fmt.Sprintf("%s%016x", draftPrefix, newSalt())
	f, err := d.create(name)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", full(err))
	}
	return &draftFile{disk: d, file: f, name: name}, nil
}

func (f *draftFile) append(p []byte) error {
	n, err := f.file.WriteAt(p, f.size)
	f.size += int64(n)
	if err != nil {
		return fmt.Errorf("spool: %w", full(err))
	}
	return nil
}

func (f *draftFile) ReadAt(p []byte, off int64) (int, error) { return f.file.ReadAt(p, off) }

func (f *draftFile) discard() {
	_ = f.file.Close()
	_ = f.disk.remove(f.name) // if it stays the next start removes it
}

// keep makes the bytes durable and gives the file its name for good, which is
// durable after the next disk.sync.
func (f *draftFile) keep(name string) error {
	if err := f.file.sync(); err != nil {
		return full(err)
	}
	// Some systems do not rename open files.
	if err := f.file.Close(); err != nil {
		return full(err)
	}
	if err := f.disk.rename(f.name, name); err != nil {
		return err
	}
	f.name = name
	return nil
}

// finish ends the draft: as a file of its own it stays.
func (f *draftFile) finish(own bool) {
	if !own {
		f.discard()
	}
}
