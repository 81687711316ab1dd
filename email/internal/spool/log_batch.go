package spool

import (
	"fmt"
	"slices"
)

const (
	// writeSize is from how many bytes on they go to the system.
	writeSize = 512 << 10
	// fillAhead is how far a new segment is filled with zeros before records
	// come. To flush what overwrites is cheaper than to flush what makes the
	// file system note that blocks are used now, so it does that rarely.
	fillAhead = 1 << 20
)

// batchWriter puts records together and writes them.
type batchWriter struct {
	l       *fileLog
	seg     *segment
	start   int64 // of the batch
	at      int64 // where buf goes
	buf     []byte
	err     error
	written []*request

	cancelled int // how many of log.failed are in it
}

func (w *batchWriter) room() int64 { return w.seg.size - w.at - int64(len(w.buf)) }

// add takes requests as long as there is room, and returns how many.
func (w *batchWriter) add(batch []*request) int {
	if w.start == 0 {
		w.own(&request{kind: kindMark, key: key{w.l.before.segment, uint64(w.l.before.end)}})
	}
	for _, k := range w.l.failed {
		if w.room()-headerSize < batch[0].recordSize() {
			break
		}
		w.own(&request{kind: kindDone, key: k})
		w.cancelled++
	}
	for i, r := range batch {
		if w.err != nil || r.recordSize() > w.room() {
			return i
		}
		if !w.l.isCurrent(r) {
			r.done <- nil
			continue
		}
		if err := w.record(r); err != nil {
			r.done <- err
			continue
		}
		w.written = append(w.written, r)
		if len(w.buf) >= writeSize {
			w.write()
		}
	}
	return len(batch)
}

// own writes a record that nobody waits for.
func (w *batchWriter) own(r *request) { _ = w.record(r) }

// record appends a record to the buffer. When it fails nothing was appended.
func (w *batchWriter) record(r *request) error {
	start := len(w.buf)
	r.off = w.at + int64(start)
	h := r.header(w.start)
	w.buf = appendHeader(slices.Grow(w.buf, int(h.size())), w.seg.salt, &h)
	w.buf = append(append(w.buf, r.envelope...), r.state...)
	switch {
	case r.own || r.size == 0:
	case r.content == nil:
		w.buf = append(w.buf, r.body...)
	case r.content.long == nil:
		w.buf = append(w.buf, r.content.mem...)
	default:
		end := len(w.buf)
		w.buf = w.buf[:end+int(r.size)]
		if n, err := r.content.long.ReadAt(w.buf[end:], 0); n < int(r.size) {
			w.buf = w.buf[:start]
			return fmt.Errorf("reading the draft: %w", err)
		}
	}
	for len(w.buf)%recordAlign != 0 {
		w.buf = append(w.buf, 0)
	}
	return nil
}

func (w *batchWriter) write() {
	if len(w.buf) == 0 || w.err != nil {
		return
	}
	_, w.err = w.seg.file.WriteAt(w.buf, w.at)
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
}

// flush writes what is left.
func (w *batchWriter) flush() error {
	if len(w.written) == 0 {
		return nil
	}
	if end := w.at + int64(len(w.buf)); end > w.seg.filled {
		zeros := int(min(w.seg.size, end+fillAhead) - end)
		w.seg.filled = end + int64(zeros)
		w.buf = append(w.buf, make([]byte, zeros)...)
		w.write()
		w.at = end
	}
	w.write()
	return w.err
}
