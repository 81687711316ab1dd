package storage

import (
	"context"
	"iter"
	"sync"
)

// EventType says what an [Event] is about.
type EventType int

const (
	// EventPut: the key may have a new value.
	EventPut EventType = iota + 1
	// EventDelete: the key may have been deleted, or its value expired.
	EventDelete
	// EventOverflow: events were dropped because nobody read them; there is
	// no key. List and read again what you watch.
	EventOverflow
)

func (t EventType) String() string {
	switch t {
	case EventPut:
		return "put"
	case EventDelete:
		return "delete"
	case EventOverflow:
		return "overflow"
	}
	return "unknown"
}

// Event reports that something happened to a key. It is a reason to look, not
// the truth: read the key to learn what it holds now. Several changes of one
// key may be reported by one event, the last.
type Event struct {
	Type EventType
	Key  string
}

// watchBacklog is how many keys with unread events a watch remembers before
// it drops them for one EventOverflow.
const watchBacklog = 1024

// Watch reports the changes at and below prefix (as in List) from the moment
// Watch returns, so to miss nothing call Watch first and then List. Range
// over the result once. It ends with an error: that of ctx, or [ErrClosed]
// when the Store is closed. End ctx if you may not range to the end.
//
// A slow consumer does not hold up anybody: events of one key are merged, and
// with more than 1024 keys waiting all are replaced by one [EventOverflow].
// Values that expire are reported when they are removed: about a second later
// by the Store, at its own time by a backend with native TTL. Without native
// watch (see [Store.Caps]) only changes made through this Store are seen.
func (s *Store) Watch(ctx context.Context, prefix string) iter.Seq2[Event, error] {
	fail := func(err error) iter.Seq2[Event, error] {
		return func(yield func(Event, error) bool) { yield(Event{}, keyErr("watch", prefix, err)) }
	}
	p, err := canonicalPrefix(prefix)
	if err != nil {
		return fail(err)
	}
	end, err := s.begin()
	if err != nil {
		return fail(err)
	}
	defer end()

	var events iter.Seq2[Event, error]
	if s.watcher == nil {
		events = s.hub.watch(ctx, p)
	} else {
		// The backend knows only the context, so closing the Store must end it.
		wctx, cancel := context.WithCancelCause(ctx)
		stop := context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })
		native, err := s.watcher.Watch(wctx, p)
		if err != nil {
			stop()
			cancel(nil)
			return fail(err)
		}
		events = func(yield func(Event, error) bool) {
			defer cancel(nil)
			defer stop()
			for ev, err := range native {
				if err != nil && context.Cause(wctx) == ErrClosed {
					err = ErrClosed
				}
				if !yield(ev, err) {
					return
				}
			}
		}
	}
	return func(yield func(Event, error) bool) {
		for ev, err := range events {
			switch {
			case err != nil:
				yield(Event{}, keyErr("watch", prefix, err))
				return
			case ev.Type != EventOverflow && (!MatchPrefix(ev.Key, p) || isMeta(ev.Key)):
				continue
			}
			if !yield(ev, nil) {
				return
			}
		}
	}
}

// hub hands events to those who watch.
type hub struct {
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	closed bool
}

func newHub() *hub { return &hub{subs: make(map[*subscription]struct{})} }

func (h *hub) publish(ev Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sub := range h.subs {
		if MatchPrefix(ev.Key, sub.prefix) {
			sub.add(ev)
		}
	}
}

// close ends every watch with ErrClosed once what is waiting has been read.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for sub := range h.subs {
		close(sub.ended)
	}
	clear(h.subs)
}

// watch registers at once and unregisters when the iteration or ctx ends.
func (h *hub) watch(ctx context.Context, prefix string) iter.Seq2[Event, error] {
	sub := &subscription{
		prefix: prefix, places: make(map[string]int),
		ready: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	h.mu.Lock()
	if h.closed {
		close(sub.ended)
	} else {
		h.subs[sub] = struct{}{}
	}
	h.mu.Unlock()
	remove := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, sub)
	}
	stop := context.AfterFunc(ctx, remove)

	return func(yield func(Event, error) bool) {
		defer remove()
		defer stop()
		for {
			for _, ev := range sub.take() {
				if ctx.Err() != nil {
					break
				}
				if !yield(ev, nil) {
					return
				}
			}
			select {
			case <-sub.ready:
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			case <-sub.ended:
				for _, ev := range sub.take() {
					if !yield(ev, nil) {
						return
					}
				}
				yield(Event{}, ErrClosed)
				return
			}
		}
	}
}

// subscription holds the events that one watch has not read yet: at most one
// a key, in the order in which the keys first changed.
type subscription struct {
	prefix string
	ready  chan struct{} // has one element when there is something to take
	ended  chan struct{} // closed by the hub

	mu       sync.Mutex
	waiting  []Event
	places   map[string]int // of each key in waiting
	overflow bool           // waiting was dropped
}

func (s *subscription) add(ev Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.places[ev.Key]; ok {
		s.waiting[i] = ev
		return
	}
	switch {
	case s.overflow: // whoever reads it looks at everything again
	case len(s.waiting) >= watchBacklog:
		s.overflow = true
		s.waiting = nil
		clear(s.places)
	default:
		s.places[ev.Key] = len(s.waiting)
		s.waiting = append(s.waiting, ev)
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *subscription) take() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.waiting
	if s.overflow {
		events = []Event{{Type: EventOverflow}}
	}
	s.waiting, s.overflow = nil, false
	clear(s.places)
	return events
}
