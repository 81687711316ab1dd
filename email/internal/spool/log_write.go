package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
)

// A batch is bounded so that it takes neither too long nor too much memory:
// by its records, and by its bytes, after which no more are taken.
const (
	maxBatchRecords = 4096
	maxBatchBytes   = 4 << 20
)

// request is what somebody waits for.
type request struct {
	kind            recordKind
	key             key
	envelope, state []byte
	own             bool
	content         *content // of a new message that is not own
	body            []byte   // of a moved one
	size            int64    // of the body
	bodyCRC         uint32
	moved           *entry // a message that is copied: where it was when it was read

	off  int64 // where its record is
	done chan error
}

func (r *request) header(batch int64) header {
	meta := crc32.Update(crc32.Checksum(r.envelope, castagnoli()), castagnoli(), r.state)
	return header{
		kind: r.kind, own: r.own, batch: uint32(batch), key: r.key,
		envelope: uint32(len(r.envelope)), state: uint32(len(r.state)), body: r.size, metaCRC: meta, bodyCRC: r.bodyCRC,
	}
}

func (r *request) recordSize() int64 {
	h := header{envelope: uint32(len(r.envelope)), state: uint32(len(r.state)), own: r.own, body: r.size}
	return h.size()
}

// do has a request written and returns what became of it. Where nobody writes, the
// caller does: to hand over to another goroutine and back costs a lone client as
// much as all the rest.
func (l *fileLog) do(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.done = make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if _, ok := l.index[r.key]; !ok && r.kind != kindMessage {
		l.mu.Unlock()
		return ErrNotFound
	}
	l.pending = append(l.pending, r)
	l.mu.Unlock()
	select {
	case <-l.turn:
		l.lead(r)
	default:
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	}
	if l.withdraw(r) {
		return ctx.Err()
	}
	return <-r.done // it is being written
}

// lead writes a batch, unless what it is for has been written already.
func (l *fileLog) lead(r *request) {
	defer func() {
		if v := recover(); v != nil {
			// Unreachable but for a mistake here. Who recovers from it, as sessions
			// of SMTP do, would leave all others waiting for ever.
			go panic(v)
		}
	}()
	if l.drafts.open.Load() > 0 {
		runtime.Gosched() // others may come just now, too
	}
	if len(r.done) == 0 {
		if batch := l.takeBatch(); batch != nil {
			l.commit(batch)
		}
	}
	l.pass()
}

func (l *fileLog) withdraw(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.pending, r)
	if i < 0 {
		return false
	}
	l.pending = slices.Delete(l.pending, i, i+1)
	return true
}

// pass ends the turn of who writes. What has come meanwhile is the writer's.
func (l *fileLog) pass() {
	l.turn <- struct{}{}
	l.mu.Lock()
	more := len(l.pending) > 0
	l.mu.Unlock()
	if more {
		wake(l.wakeWriter)
	}
}

// writeAll is the writer: it writes as long as requests come faster than they can
// be written.
func (l *fileLog) writeAll() {
	for ended := false; !ended; {
		select {
		case <-l.wakeWriter:
		case <-l.quit:
			ended = true
		}
		<-l.turn
		for batch := l.takeBatch(); batch != nil; batch = l.takeBatch() {
			l.commit(batch)
			// Those who were just told often have more to do at once. To let
			// them go first makes batches half as long again.
			runtime.Gosched()
		}
		if !ended {
			l.pass()
		}
	}
	l.seal()
}

// takeBatch takes what waits, as much as is good for one batch.
func (l *fileLog) takeBatch() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(l.pending) && n < maxBatchRecords && bytes < maxBatchBytes {
		bytes += l.pending[n].recordSize()
		n++
	}
	batch := l.pending[:n:n]
	if l.pending = l.pending[n:]; len(l.pending) == 0 {
		l.pending = nil
	}
	return batch
}

// commit writes a batch, or several where a segment ends in between.
func (l *fileLog) commit(batch []*request) {
	// What is copied comes first: it was read before this batch, so a new
	// state in the batch must come after it.
	slices.SortStableFunc(batch, func(a, b *request) int {
		switch {
		case a.moved != nil && b.moved == nil:
			return -1
		case a.moved == nil && b.moved != nil:
			return 1
		}
		return 0
	})
	if slices.ContainsFunc(batch, func(r *request) bool { return r.own && r.moved == nil }) {
		if err := l.disk.sync(); err != nil {
			batch = slices.DeleteFunc(batch, func(r *request) bool {
				if r.own && r.moved == nil {
					r.done <- full(err)
					return true
				}
				return false
			})
		}
	}
	for len(batch) > 0 {
		batch = batch[l.commitSome(batch):]
	}
}

// commitSome writes as many of the requests as go into one segment, answers
// them, and returns how many they were.
func (l *fileLog) commitSome(batch []*request) int {
	seg := l.active
	if seg == nil || seg.end+batch[0].recordSize() > seg.size {
		var err error
		if seg, err = l.begin(batch[0].recordSize()); err != nil {
			for _, r := range batch {
				r.done <- err
			}
			return len(batch)
		}
	}
	w := &batchWriter{l: l, seg: seg, start: seg.end, at: seg.end, buf: l.buffer[:0]}
	n := w.add(batch)
	err := w.flush()
	if l.buffer = w.buf[:0]; cap(l.buffer) > 2*maxInline {
		l.buffer = nil
	}
	if len(w.written) == 0 {
		return n
	}
	if err == nil {
		err = seg.file.sync()
	}
	if err != nil {
		l.fail(w, err)
	} else {
		l.apply(w)
	}
	return n
}

// isCurrent tells whether a message that is to be copied is still where it was
// read, state and all.
func (l *fileLog) isCurrent(r *request) bool {
	if r.moved == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.index[r.key]
	return ok && e == *r.moved
}

// begin makes the segment for the next batch, with room for a record of size.
func (l *fileLog) begin(size int64) (*segment, error) {
	size = max(l.options.SegmentSize, align(size+2*headerSize))
	l.lastBegun++
	seg := &segment{number: l.lastBegun, salt: newSalt(), size: size}
	l.mu.Lock()
	spare := l.spare
	if spare != nil && spare.size >= size {
		seg.size, seg.filled = spare.size, spare.filled
		l.spare = nil
	} else {
		spare = nil
	}
	l.mu.Unlock()
	if err := l.createSegment(seg, spare); err != nil {
		l.ample.Store(0)
		return nil, fmt.Errorf("beginning a segment: %w", full(err))
	}
	l.mu.Lock()
	l.segments = append(l.segments, seg)
	l.mu.Unlock()
	if l.active != nil {
		l.before = position{l.active.number, l.active.end}
	}
	l.active = seg
	wake(l.wakeCleaner)
	return seg, nil
}

// createSegment makes the file of a segment, from a spare one if there is one.
func (l *fileLog) createSegment(seg, spare *segment) (err error) {
	name := seg.name()
	if spare == nil {
		seg.file, err = l.disk.create(name)
	} else if err = l.disk.rename(spare.spareName(), name); err == nil {
		seg.file, err = l.disk.open(name)
	}
	if err != nil {
		return err
	}
	if spare == nil {
		err = seg.file.allocate(seg.size)
	}
	if err == nil {
		err = l.disk.sync()
	}
	if err != nil {
		return errors.Join(err, seg.file.Close(), l.disk.remove(name))
	}
	return nil
}

// fail gives up a segment that could not be written or flushed. Whether the
// batch is on the disk nobody knows, and to flush again could say yes wrongly:
// systems forget the pages that they could not write.
func (l *fileLog) fail(w *batchWriter, err error) {
	seg := w.seg
	l.log.Error("the spool could not be written", "segment", seg.name(), "offset", w.start, "messages", len(w.written), "err", err)
	l.active = nil
	l.ample.Store(0)
	l.mu.Lock()
	l.stats.WriteErrors++
	seg.failed = true
	l.mu.Unlock()
	if w.start > 0 || !l.removeFailed(seg) {
		l.before = position{seg.number, w.start}
		for _, r := range w.written {
			if r.kind == kindMessage && r.moved == nil {
				l.failed = append(l.failed, r.key)
			}
		}
	}
	err = fmt.Errorf("writing: %w", full(err))
	for _, r := range w.written {
		r.done <- err
	}
}

// removeFailed removes a segment in which nothing counts. One that stays is given
// back by the cleaner.
func (l *fileLog) removeFailed(seg *segment) bool {
	l.mu.Lock()
	err := l.closeSegment(seg)
	l.mu.Unlock()
	removed := l.disk.remove(seg.name())
	if err = errors.Join(err, removed); err != nil {
		l.log.Warn("a segment that could not be written could not be removed", "segment", seg.name(), "err", err)
	}
	if removed != nil {
		return false
	}
	l.mu.Lock()
	l.segments = slices.DeleteFunc(l.segments, func(s *segment) bool { return s == seg })
	l.mu.Unlock()
	return true
}

// apply makes a durable batch be seen, and tells who waits.
func (l *fileLog) apply(w *batchWriter) {
	l.failed = l.failed[w.cancelled:]
	results := make([]error, len(w.written))
	var gone []key
	l.mu.Lock()
	w.seg.end = w.at
	for i, r := range w.written {
		switch r.kind {
		case kindMessage:
			// Added at a second try: it is not to be taken back any more.
			l.failed = slices.DeleteFunc(l.failed, func(k key) bool { return k == r.key })
			l.put(w.seg, r.off, r.header(w.start))
			if r.moved != nil {
				l.stats.Moved++
			} else {
				l.stats.Added++
			}
		case kindState:
			if !l.putState(w.seg, r.off, r.header(w.start)) {
				results[i] = ErrNotFound // it was removed in the same batch
				continue
			}
			l.stats.StateChanges++
		case kindDone:
			e, ok := l.drop(r.key)
			if !ok {
				results[i] = ErrNotFound
				continue
			}
			l.stats.Removed++
			if e.own {
				gone = append(gone, r.key)
			}
		}
	}
	l.stats.Batches++
	l.stats.Records += uint64(len(w.written))
	l.stats.LargestBatch = max(l.stats.LargestBatch, uint64(len(w.written)))
	clean := l.toClean() != nil
	l.mu.Unlock()
	for i, r := range w.written {
		r.done <- results[i]
	}
	l.removeBodies(gone)
	if clean {
		wake(l.wakeCleaner)
	}
}

// seal ends the log: what failed is taken back, and then comes a batch of its own.
// That there is one says that the batch before was flushed, so whatever is missing of
// it is damage.
func (l *fileLog) seal() {
	for len(l.failed) > 0 {
		r := &request{kind: kindMark, done: make(chan error, 1)}
		l.commitSome([]*request{r})
		if err := <-r.done; err != nil {
			l.log.Warn("messages that were refused could not be taken back; they may be there at the next start", "messages", len(l.failed), "err", err)
			return
		}
	}
	seg := l.active
	if seg == nil || seg.end+headerSize > seg.size {
		return
	}
	w := &batchWriter{l: l, seg: seg, start: seg.end, at: seg.end}
	w.own(&request{kind: kindMark, key: key{seg.number, uint64(seg.end)}})
	w.write()
	if err := errors.Join(w.err, seg.file.sync()); err != nil {
		l.log.Warn("the end of the spool could not be written", "err", err)
	}
}
