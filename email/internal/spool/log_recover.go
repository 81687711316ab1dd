package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// recover reads what is in the folder.
func (l *fileLog) recover() error {
	entries, err := l.disk.list()
	if err != nil {
		return err
	}
	bodies := make(map[string]int64)
	for _, e := range entries {
		switch {
		case strings.HasSuffix(e.name, segmentSuffix), strings.HasSuffix(e.name, segmentSuffix+damagedSuffix):
			number, salt, ok := parseSegmentName(strings.TrimSuffix(e.name, damagedSuffix))
			if !ok {
				continue // not ours
			}
			l.lastBegun = max(l.lastBegun, number)
			if strings.HasSuffix(e.name, damagedSuffix) {
				continue
			}
			f, err := l.disk.open(e.name)
			if err != nil {
				return err
			}
			l.segments = append(l.segments, &segment{number: number, salt: salt, file: f, size: e.size})
			// A process that was killed may have written and not flushed. From
			// now on this is relied on: the bodies of what is done are removed.
			if err := f.sync(); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		case strings.HasPrefix(e.name, draftPrefix), strings.HasPrefix(e.name, sparePrefix):
			if err := l.disk.remove(e.name); err != nil {
				return err
			}
		case strings.HasSuffix(e.name, bodySuffix):
			if _, err := ParseID(strings.TrimSuffix(e.name, bodySuffix)); err == nil {
				bodies[e.name] = e.size
			}
		}
	}
	slices.SortFunc(l.segments, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	whole, err := l.readMarks()
	if err != nil {
		return err
	}
	for _, seg := range l.segments {
		until, ok := whole[seg.number]
		r := &replay{l: l, seg: seg, scan: newScanner(seg), until: until, open: !ok, batch: -1}
		if err := r.run(); err != nil {
			return fmt.Errorf("%s: %w", seg.name(), err)
		}
	}
	return l.checkBodies(bodies)
}

// readMarks returns up to where segments are whole, by number, as the segments
// behind them say.
func (l *fileLog) readMarks() (map[uint64]int64, error) {
	whole := make(map[uint64]int64)
	for _, seg := range l.segments {
		h, ok, err := newScanner(seg).header(0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", seg.name(), err)
		}
		if ok && h.kind == kindMark {
			whole[h.key.micros] = int64(h.key.random)
		}
	}
	return whole, nil
}

// checkBodies compares the files of bodies with what the log says of them. A
// file that no message has was never acknowledged, or is of one that is done;
// unless a segment is damaged, when it may be of one whose record is lost.
func (l *fileLog) checkBodies(files map[string]int64) error {
	var lost []key
	for k, e := range l.index {
		if !e.own {
			continue
		}
		name := bodyName(k)
		size, ok := files[name]
		delete(files, name)
		if ok && size == e.size {
			continue
		}
		lost = append(lost, k)
		l.stats.Damaged++
		if ok {
			l.log.Error("the body of a message of the spool has another size than it had; the message is given up and the file kept", "msg_id", k.id(), "kept", name+damagedSuffix, "size", size, "want", e.size)
			if err := l.keepBody(name); err != nil {
				return err
			}
		} else {
			l.log.Error("the body of a message of the spool is missing; the message is given up", "msg_id", k.id(), "file", name)
		}
	}
	for _, k := range lost {
		l.drop(k)
	}
	keep := slices.ContainsFunc(l.segments, func(s *segment) bool { return s.damaged })
	for name := range files {
		var err error
		if keep {
			l.log.Error("a body is of no message that the damaged spool knows; the file is kept", "kept", name+damagedSuffix)
			err = l.keepBody(name)
		} else {
			err = l.disk.remove(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replay enters the records of a segment into the index.
type replay struct {
	l    *fileLog
	seg  *segment
	scan *scanner

	// until is up to where the segment must be whole. If it is open no later
	// segment says so: then it must be up to where its last batch begins, as
	// each was written after the one before was flushed.
	until int64
	open  bool

	batch   int64 // where the batch begins that records are of, -1 before the first
	records []scanned

	torn     int // records of the last batch that are not whole
	lost     int // records elsewhere that are not whole
	lostAt   int64
	lostSize int64
}

func (r *replay) run() error {
	for {
		rec, ok, err := r.scan.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if int64(rec.batch) != r.batch {
			r.enter(false)
			r.batch = int64(rec.batch)
		}
		r.records = append(r.records, rec)
	}
	r.seg.end = r.scan.off
	if r.open {
		r.until = max(0, r.batch)
	}
	r.enter(r.batch >= r.until)
	for _, g := range r.scan.gaps {
		if g.off < r.until {
			r.damage(g.off, g.end-g.off)
		} else {
			r.torn++
		}
	}
	if r.scan.off < r.until { // its last records are gone
		r.damage(r.scan.off, r.until-r.scan.off)
	}
	r.report()
	if r.batch >= 0 {
		r.l.before = position{r.seg.number, r.seg.end}
		if r.torn > 0 {
			r.l.before.end = r.until
		}
	}
	return nil
}

// enter takes the records of one batch over. If it may be torn, bodies are
// looked at too; otherwise that is left to those who read them.
func (r *replay) enter(mayBeTorn bool) {
	for _, rec := range r.records {
		if mayBeTorn && rec.whole && rec.kind == kindMessage && !rec.own {
			rec.whole = checkBody(r.seg.file, rec.off+headerSize+rec.meta(), rec.body, rec.bodyCRC) == nil
		}
		switch {
		case !rec.whole && mayBeTorn:
			r.torn++
		case !rec.whole:
			r.damage(rec.off, rec.size())
		case rec.kind == kindMessage:
			r.l.put(r.seg, rec.off, rec.header)
		case rec.kind == kindState:
			r.l.putState(r.seg, rec.off, rec.header) // without a message it was removed at the same time
		case rec.kind == kindDone:
			r.l.drop(rec.key)
		}
	}
	r.records = r.records[:0]
}

func (r *replay) damage(off, size int64) {
	if r.lost == 0 {
		r.lostAt = off
	}
	r.lost++
	r.lostSize += size
	r.seg.damaged = true
	r.l.stats.Damaged++
}

func (r *replay) report() {
	if r.lost > 0 {
		r.l.log.Error("the spool is damaged; what is behind was read, and the segment will be kept",
			"segment", r.seg.name(), "places", r.lost, "first", r.lostAt, "bytes", r.lostSize)
	}
	if r.torn > 0 {
		r.l.log.Info("the last batch of the spool was not finished; nobody was told that it was",
			"segment", r.seg.name(), "offset", r.until, "records", r.torn)
	}
}
