package suppress

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// Config of [Open]. The zero value is a list in memory.
type Config struct {
	// Store is where the list outlasts a restart. It stays the caller's, and must
	// be open until Close has returned.
	Store *storage.Store
	// Log defaults to none, Now to the system's clock.
	Log *slog.Logger
	Now func() time.Time
	// FlushEvery is how long changes wait to be stored, and PollEvery how often
	// those of other processes are looked for where the storage does not tell.
	// Defaults 2 s and 30 s.
	FlushEvery, PollEvery time.Duration
}

// List is a suppression list. Make one with [Open]. Its methods may be called from
// several goroutines.
type List struct {
	cfg Config

	mu      sync.RWMutex
	table   table
	pending []record // to be stored
	closed  bool

	segments segments // of the storage

	quit   chan struct{}
	cancel context.CancelFunc // of what is under way, when Close waits no longer
	done   sync.WaitGroup
}

// ErrClosed is returned by changes to a list that was closed.
var ErrClosed = errors.New("the suppression list was closed")

// maxPending is how many changes may wait where the storage does not take them.
// Beyond that they are refused: the caller has to know.
const maxPending = 200_000

// ErrFull is returned while there is no room for changes, because the storage does
// not take them.
var ErrFull = errors.New("the storage does not take the suppression list's changes, and too many are waiting")

// Open reads what is stored. Close the list.
func Open(ctx context.Context, cfg Config) (*List, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FlushEvery <= 0 {
		cfg.FlushEvery = 2 * time.Second
	}
	if cfg.PollEvery <= 0 {
		cfg.PollEvery = 30 * time.Second
	}
	l := &List{cfg: cfg, quit: make(chan struct{}), segments: segments{known: make(map[string]segment)}}
	var life context.Context
	life, l.cancel = context.WithCancel(context.Background())
	if cfg.Store != nil {
		if err := l.refresh(ctx); err != nil {
			l.cancel()
			return nil, err
		}
		l.done.Go(func() { l.keep(life) })
	}
	return l, nil
}

// Add puts an address on the list, at once in memory and soon in storage. Without
// Expires, a bounce stays for [BounceTime] and others for ever. If the address is
// there already, the entry that stays longer does; to shorten it, remove it first.
func (l *List) Add(e Entry) error {
	now := l.cfg.Now()
	if err := e.prepare(now); err != nil {
		return err
	}
	if e.expired(now) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old, there := l.table.get(e.Address)
	if there && !old.gone() {
		if before := old.entry(); !before.expired(now) && before.outlasts(&e) {
			return nil
		}
	}
	expires := int64(0)
	if !e.Expires.IsZero() {
		expires = max(1, e.Expires.UnixMilli())
	}
	return l.change(old, newRecord(e.Address, e.Reason.code(), l.stamp(old), e.Added.UnixMilli(), expires, e.Detail))
}

// Remove takes an address off the list, and reports whether it was there.
func (l *List) Remove(address string) (bool, error) {
	canonical, err := Canonical(address)
	if err != nil {
		return false, err
	}
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	old, there := l.table.get(canonical)
	if !there || old.gone() {
		return false, nil
	}
	e := old.entry()
	return !e.expired(now), l.change(old, newRecord(canonical, removed, l.stamp(old), now.UnixMilli(), 0, ""))
}

// stamp is now, and later than that of what is there.
func (l *List) stamp(old record) int64 {
	now := l.cfg.Now().UnixMilli()
	if old != "" {
		now = max(now, old.stamp()+1)
	}
	return now
}

// change is called with the lock held.
func (l *List) change(old, r record) error {
	switch {
	case l.closed:
		return ErrClosed
	case l.cfg.Store == nil && r.gone():
		l.table.delete(r.address())
		return nil
	case l.cfg.Store == nil:
		l.table.put(r)
		return nil
	case len(l.pending) >= maxPending:
		return ErrFull
	}
	l.table.put(r)
	l.count(old, r)
	l.pending = append(l.pending, r)
	return nil
}

// waiting is how many changes are to be stored.
func (l *List) waiting() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.pending)
}

// Check tells whether an address is on the list, itself or by its domain.
func (l *List) Check(address string) (Entry, bool) {
	canonical, err := Canonical(address)
	if err != nil {
		return Entry{}, false
	}
	now := l.cfg.Now()
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, key := range []string{canonical, domainOf(canonical)} {
		if r, ok := l.table.get(key); ok && !r.gone() {
			if e := r.entry(); !e.expired(now) {
				return e, true
			}
		}
	}
	return Entry{}, false
}

// Len is how many addresses are on the list, those among them that have expired
// since the last cleaning.
func (l *List) Len() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.table.len - l.segments.gone
}

// Query says which entries are wanted. The zero value is all.
type Query struct {
	// Prefix is how the address begins, Reason why it is there.
	Prefix string
	Reason Reason
	// After leaves out addresses up to this one, to go on behind it.
	After string
}

// All yields the entries in the order of their addresses. The list may be changed
// meanwhile; such changes may be yielded or not.
func (l *List) All(q Query) iter.Seq[Entry] {
	prefix := strings.ToLower(q.Prefix)
	next := prefix
	if q.After >= next && q.After != "" {
		next = q.After + "\x00" // the one behind
	}
	return func(yield func(Entry) bool) {
		for next := next; ; {
			l.mu.RLock()
			page := l.table.from(next, maxBlock)
			l.mu.RUnlock()
			now := l.cfg.Now()
			for _, r := range page {
				e := r.entry()
				if !strings.HasPrefix(e.Address, prefix) {
					return
				}
				if !r.gone() && !e.expired(now) && (q.Reason == "" || q.Reason == e.Reason) && !yield(e) {
					return
				}
			}
			if len(page) < maxBlock {
				return
			}
			next = page[len(page)-1].address() + "\x00"
		}
	}
}
