package spool

import (
	"errors"
	"io/fs"
	"slices"
)

// cleanAll is the cleaner.
func (l *fileLog) cleanAll() {
	for {
		select {
		case <-l.wakeCleaner:
		case <-l.cleanerQuit:
			return
		}
		l.makeSpare()
		for {
			l.mu.Lock()
			seg := l.toClean()
			l.mu.Unlock()
			if seg == nil {
				break
			}
			if err := l.clean(seg); err != nil && !errors.Is(err, errAgain) {
				if !errors.Is(err, ErrClosed) {
					l.log.Warn("a segment of the spool could not be cleaned; the next batch tries again", "segment", seg.name(), "err", err)
				}
				break
			}
		}
	}
}

// toClean returns the oldest segment if it is time to clean it: when there is
// nothing in it any more, or when more of the disk is wasted than used. What is
// copied is then at most as much as was written meanwhile. The caller holds the
// lock.
func (l *fileLog) toClean() *segment {
	if len(l.segments) < 2 { // the last is the one that is written, or was before a failure
		return nil
	}
	seg := l.segments[0]
	if seg.messages == 0 {
		if seg.readers > 0 {
			return nil // the last reader wakes the cleaner
		}
		return seg
	}
	size, live := l.usage()
	if size-live > max(live, 4*l.options.SegmentSize) {
		return seg
	}
	return nil
}

// errAgain: messages got a new state while they were being copied.
var errAgain = errors.New("it is not empty yet")

// clean copies what is alive in the oldest segment, and gives it back.
func (l *fileLog) clean(seg *segment) error {
	l.mu.Lock()
	n := seg.messages
	l.mu.Unlock()
	if n > 0 {
		if err := l.copyLive(seg); err != nil {
			return err
		}
	}
	l.mu.Lock()
	busy := seg.readers > 0
	l.mu.Unlock()
	if busy {
		return nil // toClean names it again when that is over
	}
	return l.giveBack(seg)
}

// copyLive copies the messages of a segment to the end of the log.
func (l *fileLog) copyLive(seg *segment) error {
	s := newScanner(seg)
	var waiting []*request
	var bytes int64
	finish := func() error {
		err := l.doAll(waiting)
		waiting, bytes = nil, 0
		return err
	}
	for {
		rec, ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if rec.kind != kindMessage {
			continue
		}
		l.mu.Lock()
		e, ok := l.index[rec.key]
		ok = ok && e.seg == seg && int64(e.off) == rec.off
		if ok {
			l.hold(e)
		}
		l.mu.Unlock()
		if !ok {
			continue
		}
		r, err := l.copyOf(rec.key, e)
		err = errors.Join(err, l.release(e))
		if errors.Is(err, ErrDamaged) {
			continue // dropLost sees to it
		} else if err != nil {
			return err
		}
		waiting = append(waiting, r)
		if bytes += r.recordSize(); bytes >= maxInline {
			if err := finish(); err != nil {
				return err
			}
		}
	}
	if err := finish(); err != nil {
		return err
	}
	return l.dropLost(seg)
}

// copyOf reads a message for the record that is to take its place.
func (l *fileLog) copyOf(k key, e entry) (*request, error) {
	msg, h, err := l.readMessage(k, e)
	if err != nil {
		return nil, err
	}
	r := &request{kind: kindMessage, key: k, envelope: msg.Envelope, state: msg.State, own: e.own, size: e.size, bodyCRC: h.bodyCRC, moved: &e}
	if !e.own {
		off := int64(e.off) + headerSize + h.meta()
		if err := checkBody(e.seg.file, off, e.size, h.bodyCRC); err != nil {
			return nil, damaged(k, e.seg, int64(e.off), err)
		}
		r.body = make([]byte, e.size)
		if _, err := e.seg.file.ReadAt(r.body, off); err != nil {
			return nil, damaged(k, e.seg, int64(e.off), err)
		}
	}
	return r, nil
}

// doAll hands requests to the writer, all in one batch, and waits for them.
func (l *fileLog) doAll(requests []*request) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	for _, r := range requests {
		r.done = make(chan error, 1)
		l.pending = append(l.pending, r)
	}
	l.mu.Unlock()
	wake(l.wakeWriter)
	var errs []error
	for _, r := range requests {
		errs = append(errs, <-r.done)
	}
	return errors.Join(errs...)
}

// dropLost forgets the messages of a segment that cannot be read, if there are
// any left after copyLive. Their segment and bodies stay on the disk.
func (l *fileLog) dropLost(seg *segment) error {
	type lost struct {
		k key
		e entry
	}
	var left []lost
	l.mu.Lock()
	if seg.messages > 0 {
		for k, e := range l.index {
			if e.seg == seg {
				l.hold(e)
				left = append(left, lost{k, e})
			}
		}
	}
	l.mu.Unlock()
	var errs []error
	for _, m := range left {
		_, err := l.copyOf(m.k, m.e)
		if errors.Is(err, ErrDamaged) && m.e.own {
			if kept := l.keepBody(bodyName(m.k)); kept != nil && !errors.Is(kept, fs.ErrNotExist) {
				errs = append(errs, kept) // the message stays, too
				err = nil
			}
		}
		if errors.Is(err, ErrDamaged) {
			l.mu.Lock()
			l.drop(m.k)
			seg.damaged = true
			l.stats.Damaged++
			l.mu.Unlock()
			l.log.Error("a message of the spool cannot be read and is given up; its segment is kept", "msg_id", m.k.id(), "kept", seg.name()+damagedSuffix, "err", err)
		}
		_ = l.release(m.e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg.messages > 0 && len(errs) == 0 {
		return errAgain
	}
	return errors.Join(errs...)
}

// giveBack removes a segment in which nothing is alive, or makes it the spare
// one. It is durable before the next one goes: otherwise a crash might bring
// this one back, but not the records in the next that say what is done.
func (l *fileLog) giveBack(seg *segment) error {
	l.mu.Lock()
	err := l.closeSegment(seg)
	// One that was written is better than one that was only made.
	asSpare := !seg.damaged && !seg.failed && seg.size == l.options.SegmentSize && (l.spare == nil || l.spare.filled < seg.filled)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	spare := newSpare(seg.size, seg.filled)
	switch {
	case seg.damaged:
		err = l.disk.rename(seg.name(), seg.name()+damagedSuffix)
	case asSpare:
		err = l.disk.rename(seg.name(), spare.spareName())
	default:
		err = l.disk.remove(seg.name())
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) { // it is not there at the second try
		err = l.disk.sync()
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.segments = slices.DeleteFunc(l.segments, func(s *segment) bool { return s == seg })
	l.stats.Cleaned++
	var old *segment
	if asSpare {
		old, l.spare = l.spare, spare
	}
	l.mu.Unlock()
	if old != nil {
		l.removeSpare(old)
	}
	return nil
}

// removeSpare removes a spare segment. One that stays goes at the next start.
func (l *fileLog) removeSpare(s *segment) {
	if err := l.disk.remove(s.spareName()); err != nil {
		l.log.Warn("a spare segment of the spool could not be removed", "file", s.spareName(), "err", err)
	}
}

// makeSpare makes a segment for later, so that a disk that others have filled
// does not keep messages from being marked as done. While nothing was ever
// written none is needed.
func (l *fileLog) makeSpare() {
	l.mu.Lock()
	needed := l.spare == nil && len(l.segments) > 0
	l.mu.Unlock()
	if !needed || l.room() != nil {
		return
	}
	spare := newSpare(l.options.SegmentSize, 0)
	f, err := l.disk.create(spare.spareName())
	if err == nil {
		err = errors.Join(f.allocate(spare.size), f.Close())
	}
	if err != nil { // there is no harm in going without
		l.removeSpare(spare)
		return
	}
	l.mu.Lock()
	l.spare = spare
	l.mu.Unlock()
}
