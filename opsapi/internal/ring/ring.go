// Package ring keeps the last of what happened and wakes those who follow it.
package ring

import "sync"

// Ring holds the last items that were put into it, each with a number that
// counts from 1. Its methods may be called from several goroutines.
type Ring[T any] struct {
	mu       sync.Mutex
	items    []T // item n is at n % len
	last     uint64
	watchers map[chan<- struct{}]struct{}
}

// New makes a Ring that holds size items.
func New[T any](size int) *Ring[T] {
	return &Ring[T]{items: make([]T, size), watchers: map[chan<- struct{}]struct{}{}}
}

// Put adds what newItem makes of its number, and returns it. newItem must not
// use the Ring.
func (r *Ring[T]) Put(newItem func(n uint64) T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	item := newItem(r.last)
	r.items[r.last%uint64(len(r.items))] = item
	for w := range r.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	return item
}

// Last returns the number of the newest item, 0 if there has been none.
func (r *Ring[T]) Last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// After returns at most limit items that came after the one with number n, how
// many of those the Ring holds no more, and the number of the last one returned.
// A number that has not been given yet means that another Ring gave it: then
// everything held is returned.
func (r *Ring[T]) After(n uint64, limit int) (items []T, lost, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > r.last {
		n = 0
	}
	if oldest := r.oldest(); n+1 < oldest {
		lost = oldest - 1 - n
		n = oldest - 1
	}
	for n < r.last && len(items) < limit {
		n++
		items = append(items, r.items[n%uint64(len(r.items))])
	}
	return items, lost, n
}

// Newest calls visit with the items from the newest on, those with a number of
// before or more left out unless it is 0, until visit returns false. visit gets
// copies and may take its time.
func (r *Ring[T]) Newest(before uint64, visit func(T) bool) {
	r.mu.Lock()
	n := r.last
	if before > 0 && before <= n {
		n = before - 1
	}
	var items []T
	for oldest := r.oldest(); n >= oldest && n > 0; n-- {
		items = append(items, r.items[n%uint64(len(r.items))])
	}
	r.mu.Unlock()
	for _, item := range items {
		if !visit(item) {
			return
		}
	}
}

func (r *Ring[T]) oldest() uint64 {
	if size := uint64(len(r.items)); r.last > size {
		return r.last - size + 1
	}
	return 1
}

// Watch has a token put into wake, which must have room for one, at each new
// item until stop is called.
func (r *Ring[T]) Watch(wake chan<- struct{}) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[wake] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, wake)
	}
}

// Watched reports whether anybody watches.
func (r *Ring[T]) Watched() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.watchers) > 0
}
