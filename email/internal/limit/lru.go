package limit

import "container/list"

// DefaultKeys is how many keys are held unless something else is said.
const DefaultKeys = 100_000

// lru is a map that holds so many values and forgets the one that was not used
// for longest. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	max     int
	entries map[K]*list.Element // of *lruEntry[K, V]
	order   list.List           // the one used last in front
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](max int) *lru[K, V] {
	if max <= 0 {
		max = DefaultKeys
	}
	return &lru[K, V]{max: max, entries: map[K]*list.Element{}}
}

// get returns the value of key, or nil.
func (l *lru[K, V]) get(key K) *V {
	e := l.entries[key]
	if e == nil {
		return nil
	}
	l.order.MoveToFront(e)
	return &e.Value.(*lruEntry[K, V]).value
}

// obtain returns the value of key, a zero one if there was none.
func (l *lru[K, V]) obtain(key K) *V {
	if v := l.get(key); v != nil {
		return v
	}
	if len(l.entries) >= l.max {
		oldest := l.order.Back()
		delete(l.entries, oldest.Value.(*lruEntry[K, V]).key)
		l.order.Remove(oldest)
	}
	entry := &lruEntry[K, V]{key: key}
	l.entries[key] = l.order.PushFront(entry)
	return &entry.value
}

func (l *lru[K, V]) remove(key K) {
	if e := l.entries[key]; e != nil {
		delete(l.entries, key)
		l.order.Remove(e)
	}
}

func (l *lru[K, V]) len() int { return len(l.entries) }
