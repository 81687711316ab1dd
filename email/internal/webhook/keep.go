package webhook

import (
	"container/heap"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

const prefix = "email/webhooks/"

// Bounds of a stored segment, and of how many an endpoint has before they are
// written anew as fewer.
const (
	segmentItems = 500
	segmentBytes = 4 << 20
	maxSegments  = 32
)

// segment is a stored value with events of which some still wait.
type segment struct {
	key  string
	left int
}

// load reads what was stored. Values of endpoints that are not configured any more
// stay for as long as their events would be tried.
func (s *Sender) load(ctx context.Context) error {
	if s.cfg.Store == nil {
		return nil
	}
	for key, err := range s.cfg.Store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		id, name, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		i := slices.IndexFunc(s.endpoints, func(e *endpoint) bool { return e.id == id })
		if i < 0 {
			written, _, _ := strings.Cut(name, "-")
			if ms, err := strconv.ParseInt(written, 16, 64); err == nil && s.cfg.Now().Sub(time.UnixMilli(ms)) > s.cfg.MaxAge {
				if err := s.cfg.Store.Delete(ctx, key); err != nil {
					return err
				}
			}
			continue
		}
		value, err := s.cfg.Store.Get(ctx, key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		s.endpoints[i].restore(key, value)
	}
	return nil
}

// restore queues what a stored segment has.
func (e *endpoint) restore(key string, value []byte) {
	var items []*item
	if err := json.Unmarshal(value, &items); err != nil {
		e.log.Error("events for a webhook are damaged in the storage and left out", "key", key, "err", err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	g := &segment{key: key}
	for _, it := range items {
		if it == nil || len(e.waiting) >= e.cfg.MaxQueue {
			continue
		}
		e.seq++
		it.seq, it.segment, it.next = e.seq, g, e.cfg.Now()
		heap.Push(&e.waiting, it)
		g.left++
	}
	if g.left == 0 {
		e.stale = append(e.stale, key)
		return
	}
	e.remember(g)
}

func (e *endpoint) remember(g *segment) {
	if e.segments == nil {
		e.segments = make(map[*segment]bool)
	}
	e.segments[g] = true
}

// keep stores what waits for long.
func (s *Sender) keep(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.SaveAfter)
	defer ticker.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-ticker.C:
		}
		for _, e := range s.endpoints {
			if err := e.save(ctx, false); err != nil && ctx.Err() == nil {
				e.log.Warn("events for a webhook could not be stored; it is tried again", "err", err)
			}
		}
	}
}

// save stores what has waited for a while, or all. Segments are written anew if
// there are many; at the end too, so that what was sent is not sent again.
func (e *endpoint) save(ctx context.Context, all bool) error {
	if e.cfg.Store == nil {
		return nil
	}
	e.saving.Lock()
	defer e.saving.Unlock()
	before := e.cfg.Now().Add(-e.cfg.SaveAfter)
	e.mu.Lock()
	anew := all || len(e.segments) > maxSegments
	var items []*item
	for _, it := range e.waiting {
		if anew || it.segment == nil && !it.Created.After(before) {
			items = append(items, it)
		}
	}
	for it := range e.underWay {
		if anew || it.segment == nil && !it.Created.After(before) {
			items = append(items, it)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(items, func(a, b *item) int { return int(int64(a.seq - b.seq)) })
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < segmentItems && size < segmentBytes {
			size += len(items[n].Payload)
			n++
		}
		if err := e.saveSegment(ctx, items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	e.mu.Lock()
	stale := e.stale
	e.stale = nil
	e.mu.Unlock()
	for i, key := range stale {
		if err := e.cfg.Store.Delete(ctx, key); err != nil {
			e.mu.Lock()
			e.stale = append(e.stale, stale[i:]...)
			e.mu.Unlock()
			return err
		}
	}
	return nil
}

// saveSegment stores events, and moves them out of the segments that they are in.
func (e *endpoint) saveSegment(ctx context.Context, items []*item) error {
	e.mu.Lock() // Attempts may change meanwhile
	value, err := json.Marshal(items)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	g := &segment{key: fmt.Sprintf("%s%s/%016x-%s", prefix, e.id, e.cfg.Now().UnixMilli(), strings.ToLower(rand.Text()[:12]))}
	if err := e.cfg.Store.Put(ctx, g.key, value); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	waiting := make(map[*item]bool, len(e.waiting))
	for _, it := range e.waiting {
		waiting[it] = true
	}
	for _, it := range items {
		if waiting[it] || e.underWay[it] { // not done meanwhile
			e.finish(it)
			it.segment = g
			g.left++
		}
	}
	if g.left == 0 {
		e.stale = append(e.stale, g.key)
		return nil
	}
	e.remember(g)
	return nil
}
