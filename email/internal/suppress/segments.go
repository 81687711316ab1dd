package suppress

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

const (
	prefix    = "email/bounces/suppression/"
	leaseName = "email/bounces/suppression"
)

// When segments are merged, and how large they become.
const (
	segmentSize  = 4 << 20 // at most, in bytes
	smallSize    = 1 << 20 // smaller ones are merged
	maxSmall     = 64      // when there are more
	minOutdated  = 20_000  // records that do not count any more
	tombstoneAge = 7 * 24 * time.Hour
)

// segments is what is known of the storage.
type segments struct {
	io sync.Mutex // one reads or writes segments at a time

	// Under the lock of the list:
	known map[string]segment // those that were read, by key
	gone  int                // records in the table of addresses that were removed
}

type segment struct {
	size, records int
	// damaged is set for one that could not be read, or not to its end. It stays.
	damaged bool
}

// count notes that a record takes the place of another in the table.
func (l *List) count(old, r record) {
	if old != "" && old.gone() {
		l.segments.gone--
	}
	if r.gone() {
		l.segments.gone++
	}
}

// keep stores changes and looks for those of others until Close.
func (l *List) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	watch := l.cfg.Store.Watch(ctx, prefix)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for _, err := range watch {
			if err != nil {
				return // the polling is left
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer watcher.Wait()
	defer cancel()

	flush, poll := time.NewTicker(l.cfg.FlushEvery), time.NewTicker(l.cfg.PollEvery)
	defer flush.Stop()
	defer poll.Stop()
	seen := false // that something has changed
	for {
		var err error
		select {
		case <-l.quit:
			return
		case <-changed:
			seen = true // read with the next flush, not once for each
			continue
		case <-poll.C:
			err = errors.Join(l.refresh(ctx), l.clean(ctx))
		case <-flush.C:
			if err = l.Flush(ctx); seen {
				seen = false
				err = errors.Join(err, l.refresh(ctx))
			}
		}
		if err != nil {
			l.cfg.Log.Warn("the suppression list could not be kept in storage; it is tried again", "err", err)
		}
	}
}

// Flush stores what has changed.
func (l *List) Flush(ctx context.Context) error {
	if l.cfg.Store == nil {
		return nil
	}
	l.segments.io.Lock()
	defer l.segments.io.Unlock()
	l.mu.Lock()
	batch := l.pending
	l.pending = nil
	l.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	if err := l.write(ctx, batch); err != nil {
		l.mu.Lock()
		l.pending = append(batch, l.pending...)
		l.mu.Unlock()
		return err
	}
	return nil
}

// Close stores what has changed and ends the list. If ctx ends before that, what
// was not stored is lost.
func (l *List) Close(ctx context.Context) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		close(l.quit)
	}
	defer context.AfterFunc(ctx, l.cancel)()
	l.done.Wait()
	return l.Flush(ctx)
}

// write stores records in as many segments as they need, in the order of their
// addresses.
func (l *List) write(ctx context.Context, records []record) error {
	records = slices.Clone(records)
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.address(), b.address()) })
	for len(records) > 0 {
		n, size := 0, 1
		for n < len(records) && size+2+len(records[n]) <= segmentSize {
			size += 2 + len(records[n])
			n++
		}
		key := fmt.Sprintf("%s%016x-%s", prefix, l.cfg.Now().UnixMilli(), strings.ToLower(rand.Text()[:12]))
		value := encodeSegment(records[:n])
		// Known before, or it would be read back from the watch.
		l.mu.Lock()
		l.segments.known[key] = segment{size: len(value), records: n}
		l.mu.Unlock()
		if err := l.cfg.Store.Put(ctx, key, value); err != nil {
			l.mu.Lock()
			delete(l.segments.known, key)
			l.mu.Unlock()
			return err
		}
		records = records[n:]
	}
	return nil
}

// refresh reads the segments that are not known yet. One that goes meanwhile was
// merged into another.
func (l *List) refresh(ctx context.Context) error {
	l.segments.io.Lock()
	defer l.segments.io.Unlock()
	for range 10 {
		again, err := l.refreshOnce(ctx)
		if err != nil || !again {
			return err
		}
	}
	return nil // the next time
}

func (l *List) refreshOnce(ctx context.Context) (again bool, err error) {
	there := make(map[string]bool)
	for key, err := range l.cfg.Store.List(ctx, prefix) {
		if err != nil {
			return false, err
		}
		there[key] = true
		l.mu.RLock()
		_, known := l.segments.known[key]
		l.mu.RUnlock()
		if known {
			continue
		}
		value, err := l.cfg.Store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			again = true
			continue
		}
		if err != nil {
			return false, err
		}
		l.take(key, value)
	}
	l.mu.Lock()
	for key := range l.segments.known {
		if !there[key] {
			delete(l.segments.known, key)
		}
	}
	l.mu.Unlock()
	return again, nil
}

// take enters what a segment says, a piece at a time so that nobody waits long.
func (l *List) take(key string, value []byte) {
	var batch []record
	n := 0
	enter := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, r := range batch {
			if old, kept := l.table.put(r); kept {
				l.count(old, r)
			}
		}
		n += len(batch)
		batch = batch[:0]
	}
	err := decodeSegment(value, func(r record) {
		if batch = append(batch, r); len(batch) == 1000 {
			enter()
		}
	})
	enter()
	if err != nil {
		l.cfg.Log.Error("a part of the suppression list is damaged and was read as far as possible", "key", key, "err", err)
	}
	l.mu.Lock()
	l.segments.known[key] = segment{len(value), n, err != nil}
	l.mu.Unlock()
}

// clean merges segments if it is time, in one process at a time.
func (l *List) clean(ctx context.Context) error {
	l.mu.RLock()
	var all, small []string
	stored := 0
	for key, s := range l.segments.known {
		if s.damaged {
			continue
		}
		all = append(all, key)
		if stored += s.records; s.size < smallSize {
			small = append(small, key)
		}
	}
	live := l.table.len - l.segments.gone
	l.mu.RUnlock()
	rewrite := stored-live+l.expired() > max(minOutdated, live/2)
	if !rewrite && len(small) <= maxSmall {
		return nil
	}
	lease, err := l.cfg.Store.TryAcquire(ctx, leaseName, time.Minute)
	if errors.Is(err, storage.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lease.Release(context.WithoutCancel(ctx))
	l.segments.io.Lock()
	defer l.segments.io.Unlock()
	if rewrite {
		return l.rewrite(ctx, all)
	}
	return l.merge(ctx, small)
}

// pages yields the table a piece at a time, so that nobody waits long.
func (l *List) pages(yield func([]record) bool) {
	for next := ""; ; {
		l.mu.RLock()
		page := l.table.from(next, maxBlock)
		l.mu.RUnlock()
		if len(page) == 0 || !yield(page) {
			return
		}
		next = page[len(page)-1].address() + "\x00"
	}
}

// expired counts what can go.
func (l *List) expired() (n int) {
	outdated := l.outdated()
	for page := range l.pages {
		for _, r := range page {
			if outdated(r) {
				n++
			}
		}
	}
	return n
}

// outdated returns what tells whether nobody needs a record any more: what has
// expired, and removals that every process has seen, unless there are damaged
// segments, which may have what was removed.
func (l *List) outdated() func(record) bool {
	now := l.cfg.Now().UnixMilli()
	seen := l.cfg.Now().Add(-tombstoneAge).UnixMilli()
	l.mu.RLock()
	damaged := false
	for _, s := range l.segments.known {
		damaged = damaged || s.damaged
	}
	l.mu.RUnlock()
	return func(r record) bool {
		at := r.expires()
		return at != 0 && at <= now || !damaged && r.gone() && r.stamp() < seen
	}
}

// merge makes one of many small segments.
func (l *List) merge(ctx context.Context, keys []string) error {
	var merged table
	var read []string
	for _, key := range keys {
		value, err := l.cfg.Store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if decodeSegment(value, func(r record) { merged.put(r) }) == nil { // a damaged one stays
			read = append(read, key)
		}
	}
	if err := l.write(ctx, merged.from("", merged.len)); err != nil {
		return err
	}
	return l.drop(ctx, read)
}

// rewrite stores the table as it is, in place of all these segments, which are in
// it.
func (l *List) rewrite(ctx context.Context, keys []string) error {
	outdated := l.outdated()
	var live []record
	for page := range l.pages {
		for _, r := range page {
			if !outdated(r) {
				live = append(live, r)
			}
		}
		l.mu.Lock()
		for _, r := range page {
			if there, ok := l.table.get(r.address()); ok && there == r && outdated(r) {
				l.table.delete(r.address())
				if r.gone() {
					l.segments.gone--
				}
			}
		}
		l.mu.Unlock()
	}
	if err := l.write(ctx, live); err != nil {
		return err
	}
	return l.drop(ctx, keys)
}

// drop deletes segments whose records are elsewhere.
func (l *List) drop(ctx context.Context, keys []string) error {
	slices.Sort(keys) // the oldest first, so that no removal goes before what it removes
	for _, key := range keys {
		if err := l.cfg.Store.Delete(ctx, key); err != nil {
			return err // it is merged again
		}
		l.mu.Lock()
		delete(l.segments.known, key)
		l.mu.Unlock()
	}
	return nil
}
