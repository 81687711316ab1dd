package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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
	if _, err := io.CopyBuffer(sum, io.NewSectionReader(r, off, size), make([]byte, min(size+1, 32<<10))); err != nil {
		return err
	}
	if sum.Sum32() != want {
		return errChecksum
	}
	return nil
}
