package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
)

// acquire finds a message and keeps the segments it is in until release.
func (l *fileLog) acquire(ctx context.Context, id ID) (key, entry, error) {
	if err := ctx.Err(); err != nil {
		return key{}, entry{}, err
	}
	k, err := id.key()
	if err != nil {
		return key{}, entry{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return key{}, entry{}, ErrClosed
	}
	e, ok := l.index[k]
	if !ok {
		return key{}, entry{}, notFound(id)
	}
	l.hold(e)
	return k, e, nil
}

func (l *fileLog) hold(e entry) {
	e.seg.readers++
	if e.stateSeg != nil {
		e.stateSeg.readers++
	}
}

func (l *fileLog) release(e entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.releaseSegment(e.seg)
	if e.stateSeg != nil {
		err = errors.Join(err, l.releaseSegment(e.stateSeg))
	}
	return err
}

func (l *fileLog) releaseSegment(s *segment) error {
	s.readers--
	if s.readers > 0 {
		return nil
	}
	if l.ended { // shutDown left it to us
		return l.closeSegment(s)
	}
	if s.messages == 0 {
		wake(l.wakeCleaner)
	}
	return nil
}

func (l *fileLog) Get(ctx context.Context, id ID) (Message, error) {
	k, e, err := l.acquire(ctx, id)
	if err != nil {
		return Message{}, err
	}
	msg, _, err := l.readMessage(k, e)
	return msg, errors.Join(err, l.release(e))
}

// readMessage reads all of a message but its body, and the header of its record.
func (l *fileLog) readMessage(k key, e entry) (Message, header, error) {
	h, meta, err := readRecord(e.seg, int64(e.off), k, int(e.envelope+e.first))
	if err != nil {
		return Message{}, header{}, err
	}
	msg := Message{ID: k.id(), Envelope: meta[:e.envelope:e.envelope], Size: e.size}
	if e.first > 0 {
		msg.State = meta[e.envelope:]
	}
	if e.stateSeg != nil {
		if _, msg.State, err = readRecord(e.stateSeg, int64(e.stateOff), k, int(e.state)); err != nil {
			return Message{}, header{}, err
		}
	}
	return msg, h, nil
}

// readRecord reads a record that must be there, without its body.
func readRecord(s *segment, off int64, k key, meta int) (header, []byte, error) {
	b := make([]byte, headerSize+meta)
	if _, err := s.file.ReadAt(b, off); err != nil {
		return header{}, nil, damaged(k, s, off, err)
	}
	h, ok, err := parseHeader(b, s.salt, off, s.size)
	switch {
	case err != nil:
		return header{}, nil, err
	case !ok || h.key != k || h.meta() != int64(meta):
		return header{}, nil, damaged(k, s, off, errors.New("its record is not there"))
	case crc32.Checksum(b[headerSize:], castagnoli()) != h.metaCRC:
		return header{}, nil, damaged(k, s, off, errChecksum)
	}
	return h, b[headerSize:], nil
}

var errChecksum = errors.New("the checksum is wrong")

func damaged(k key, s *segment, off int64, err error) error {
	return fmt.Errorf("%w: %s in %s at %d: %w", ErrDamaged, k.id(), s.name(), off, err)
}

func (l *fileLog) Body(ctx context.Context, id ID) (*Body, error) {
	k, e, err := l.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	b, err := l.body(k, e)
	if err != nil {
		return nil, errors.Join(err, l.release(e))
	}
	return b, nil
}

// body opens a body; closing it releases e.
func (l *fileLog) body(k key, e entry) (*Body, error) {
	h, _, err := readRecord(e.seg, int64(e.off), k, int(e.envelope+e.first))
	if err != nil {
		return nil, err
	}
	if !e.own {
		off := int64(e.off) + headerSize + h.meta()
		if err := checkBody(e.seg.file, off, e.size, h.bodyCRC); err != nil {
			return nil, damaged(k, e.seg, int64(e.off), err)
		}
		return newBody(e.seg.file, off, e.size, func() error { return l.release(e) }), nil
	}
	f, err := l.openBody(k)
	if err != nil {
		return nil, err
	}
	if err := checkBody(f.file, 0, e.size, h.bodyCRC); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrDamaged, bodyName(k), err), l.closeBody(k, f))
	}
	return newBody(f.file, 0, e.size, func() error { return errors.Join(l.closeBody(k, f), l.release(e)) }), nil
}

func checkBody(r io.ReaderAt, off, size int64, want uint32) error {
	sum := crc32.New(castagnoli())
	if _, err := io.CopyBuffer(onlyWriter{sum}, io.NewSectionReader(r, off, size), make([]byte, min(size+1, 32<<10))); err != nil {
		return err
	}
	if sum.Sum32() != want {
		return errChecksum
	}
	return nil
}

// onlyWriter hides what else a writer can do, so that io.CopyBuffer uses the buffer.
type onlyWriter struct{ io.Writer }

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
