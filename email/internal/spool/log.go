package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	minSegmentSize     = 16 << 10
	defaultSegmentSize = 64 << 20
	maxSegmentSize     = 1 << 30

	// maxInline is the greatest length of a body in a segment.
	maxInline = 1 << 20
	// maxDraftMemory is how much one draft may keep in memory.
	maxDraftMemory = 256 << 10
)

// fileLog is the store that [OpenLog] returns.
type fileLog struct {
	disk     disk
	log      *slog.Logger
	options  Options // with the defaults filled in
	drafts   draftPool
	opened   time.Time
	ample    atomic.Int64  // until when there is room without asking, in nanoseconds since opened
	askEvery time.Duration // how often the disk is asked while it has ample room

	wakeWriter, wakeCleaner chan struct{}
	turn                    chan struct{} // has an element while nobody writes
	quit                    chan struct{} // closed when the writer is to end
	cleanerQuit             chan struct{} // and the cleaner
	done                    chan struct{} // closed when Close has finished
	writer, cleaner         sync.WaitGroup

	// Only who has the turn uses these.
	active    *segment // nil: the next batch begins one
	before    position // what the next segment says of the one before
	lastBegun uint64   // number of the last segment
	buffer    []byte
	failed    []key // messages of batches that failed; they must not show up again

	mu       sync.Mutex
	pending  []*request
	index    map[key]entry
	adding   map[key]bool
	segments []*segment // oldest first
	spare    *segment   // nil: none
	reading  map[key]*openBody
	stats    Stats
	closed   bool // no more calls
	ended    bool // nobody writes any more
	closeErr error
}

// OpenLog opens the log in a folder, which is made if it is missing, and locks
// it: ErrInUse if that is not possible. What a crash left is tidied up.
func OpenLog(folder string, opts Options) (Store, error) {
	d, err := openDisk(folder)
	if err != nil {
		return nil, fmt.Errorf("spool: opening %q: %w", folder, err)
	}
	l, err := openLog(d, opts)
	if err != nil {
		return nil, fmt.Errorf("spool: opening %q: %w", folder, errors.Join(err, d.close()))
	}
	return l, nil
}

func openLog(d disk, opts Options) (*fileLog, error) {
	opts.SegmentSize = cmp.Or(opts.SegmentSize, defaultSegmentSize)
	opts.Headroom = cmp.Or(opts.Headroom, 256<<20)
	if opts.SegmentSize < minSegmentSize || opts.SegmentSize > maxSegmentSize {
		return nil, fmt.Errorf("a segment size of %d bytes is not between %d and %d", opts.SegmentSize, minSegmentSize, maxSegmentSize)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l := &fileLog{
		disk: d, log: opts.Logger, options: opts, opened: time.Now(), askEvery: 100 * time.Millisecond,
		wakeWriter: make(chan struct{}, 1), wakeCleaner: make(chan struct{}, 1),
		turn: make(chan struct{}, 1), quit: make(chan struct{}), cleanerQuit: make(chan struct{}), done: make(chan struct{}),
		index: make(map[key]entry), adding: make(map[key]bool), reading: make(map[key]*openBody),
	}
	l.drafts.memory.max = cmp.Or(opts.DraftMemory, 32<<20)
	l.drafts.perDraft = maxDraftMemory
	l.drafts.overflow = func(context.Context) (overflow, error) { return newDraftFile(d) }
	l.drafts.room = l.room
	if err := l.recover(); err != nil {
		for _, s := range l.segments {
			err = errors.Join(err, s.file.Close())
		}
		return nil, err
	}
	l.turn <- struct{}{}
	l.writer.Go(l.writeAll)
	l.cleaner.Go(l.cleanAll)
	wake(l.wakeCleaner)
	return l, nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// room says whether there is headroom for a draft.
func (l *fileLog) room() error {
	if l.options.MaxBytes > 0 {
		l.mu.Lock()
		used := l.stats.Bytes
		l.mu.Unlock()
		if used >= l.options.MaxBytes {
			return fmt.Errorf("%w: it holds %d bytes", ErrFull, used)
		}
	}
	if l.options.Headroom < 0 {
		return nil
	}
	if int64(time.Since(l.opened)) < l.ample.Load() {
		return nil // to ask costs as much as a write
	}
	free, err := l.disk.free()
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if free/2 >= l.options.Headroom {
		l.ample.Store(int64(time.Since(l.opened) + l.askEvery))
	}
	if free < l.options.Headroom {
		return fmt.Errorf("%w: the disk has %d bytes left, fewer than the headroom of %d", ErrFull, free, l.options.Headroom)
	}
	return nil
}

func (l *fileLog) Draft(ctx context.Context) (*Draft, error) {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	return l.drafts.draft(ctx)
}

func (l *fileLog) Add(ctx context.Context, id ID, envelope []byte, d *Draft) error {
	c, err := l.drafts.take(d)
	if err != nil {
		return err
	}
	if err := l.add(ctx, id, envelope, c); err != nil {
		c.discard()
		return fmt.Errorf("spool: adding %.40q: %w", string(id), err)
	}
	c.forget()
	return nil
}

// add leaves c to the caller when it fails.
func (l *fileLog) add(ctx context.Context, id ID, envelope []byte, c *content) error {
	if err := checkMeta("envelope", envelope); err != nil {
		return err
	}
	k, err := id.key()
	if err != nil {
		return err
	}
	l.mu.Lock()
	if _, ok := l.index[k]; ok || l.adding[k] {
		l.mu.Unlock()
		return ErrExists
	}
	l.adding[k] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.adding, k)
		l.mu.Unlock()
	}()

	r := &request{kind: kindMessage, key: k, envelope: envelope, content: c, size: c.size, bodyCRC: c.crc}
	file, _ := c.long.(*draftFile)
	if file != nil && c.size > min(maxInline, l.options.SegmentSize/4) {
		r.own = true
		if err := file.keep(bodyName(k)); err != nil {
			return err
		}
	}
	if err := l.do(ctx, r); err != nil {
		return err
	}
	if file != nil {
		file.finish(r.own)
	}
	return nil
}

func (l *fileLog) SetState(ctx context.Context, id ID, state []byte) error {
	k, err := id.key()
	if err != nil {
		return err
	}
	if err := checkMeta("state", state); err != nil {
		return err
	}
	if err := l.do(ctx, &request{kind: kindState, key: k, state: state}); err != nil {
		return fmt.Errorf("spool: state of %s: %w", id, err)
	}
	return nil
}

func (l *fileLog) Remove(ctx context.Context, id ID) error {
	k, err := id.key()
	if err != nil {
		return err
	}
	if err := l.do(ctx, &request{kind: kindDone, key: k}); err != nil {
		return fmt.Errorf("spool: removing %s: %w", id, err)
	}
	return nil
}

func (l *fileLog) All(ctx context.Context) iter.Seq2[Message, error] {
	return all(ctx, l, func() ([]key, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			return nil, ErrClosed
		}
		keys := make([]key, 0, len(l.index))
		for k := range l.index {
			keys = append(keys, k)
		}
		return keys, nil
	})
}

func (l *fileLog) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Messages, s.Drafts = int64(len(l.index)), l.drafts.open.Load()
	s.DiskBytes, s.LiveBytes = l.usage()
	s.Segments = int64(len(l.segments))
	if l.spare != nil {
		s.Segments++
		s.DiskBytes += l.spare.size
	}
	return s
}

// usage returns the size of all segments, and how much of it is needed.
func (l *fileLog) usage() (size, live int64) {
	for _, s := range l.segments {
		size += s.size
		live += s.live
	}
	return size, live
}

func (l *fileLog) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		go l.shutDown()
	}
	select {
	case <-l.done:
		return l.closeErr
	case <-ctx.Done():
		return fmt.Errorf("spool: closing: %w", ctx.Err())
	}
}

// shutDown ends what openLog began. It is a goroutine of its own because a
// disk may hang, and Close must return all the same.
func (l *fileLog) shutDown() {
	close(l.cleanerQuit)
	l.cleaner.Wait() // the cleaner may be waiting for the writer
	close(l.quit)
	l.writer.Wait()
	l.mu.Lock()
	l.ended = true
	var err error
	for _, s := range l.segments {
		if s.readers == 0 { // otherwise the last reader does it
			err = errors.Join(err, l.closeSegment(s))
		}
	}
	l.mu.Unlock()
	l.closeErr = errors.Join(err, l.disk.close())
	close(l.done)
}

func (l *fileLog) closeSegment(s *segment) error {
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.Close()
}
