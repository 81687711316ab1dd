// Package lockout counts failed attempts to sign in, by whatever they are
// counted by, and says when the next one may be made.
package lockout

import (
	"container/list"
	"sync"
	"time"
)

// Limits of a [Table].
type Limits struct {
	Attempts int           // failures within Window that lock
	Window   time.Duration // from the first failure on
	Lock     time.Duration // from the last one on
	Keys     int           // how many keys are remembered; the ones unused for longest go
}

// Table counts failures by key. Its methods may be called from several
// goroutines.
type Table struct {
	limits Limits

	mu    sync.Mutex
	byKey map[string]*list.Element // of *entry
	order *list.List               // most recently used first
}

type entry struct {
	key    string
	count  int
	since  time.Time // of the first failure that counts
	locked time.Time // until then
}

// New makes an empty Table.
func New(limits Limits) *Table {
	return &Table{limits: limits, byKey: map[string]*list.Element{}, order: list.New()}
}

// Attempt counts an attempt as failed, before its outcome is known: so a
// hundred at once are no more than a hundred one after the other. It returns the
// zero time if the attempt may be made, and else when the next one may. Locked
// attempts do not count.
func (t *Table) Attempt(key string, now time.Time) (until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.use(key)
	if now.Before(e.locked) {
		return e.locked
	}
	if e.count == 0 || now.Sub(e.since) > t.limits.Window || !e.locked.IsZero() {
		*e = entry{key: key, since: now}
	}
	e.count++
	if e.count >= t.limits.Attempts {
		e.locked = now.Add(t.limits.Lock)
	}
	return time.Time{}
}

// Locked returns until when the key is locked, or the zero time.
func (t *Table) Locked(key string, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if el := t.byKey[key]; el != nil {
		if e := el.Value.(*entry); now.Before(e.locked) {
			return e.locked
		}
	}
	return time.Time{}
}

// Succeeded forgets the failures of a key.
func (t *Table) Succeeded(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if el := t.byKey[key]; el != nil {
		t.forget(el)
	}
}

// TakeBack has an attempt that Attempt allowed not count, since it did not
// fail. The failures before it count still.
func (t *Table) TakeBack(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	el := t.byKey[key]
	if el == nil {
		return
	}
	e := el.Value.(*entry)
	if e.count--; e.count <= 0 {
		t.forget(el)
	} else if e.count < t.limits.Attempts {
		e.locked = time.Time{}
	}
}

func (t *Table) forget(el *list.Element) {
	t.order.Remove(el)
	delete(t.byKey, el.Value.(*entry).key)
}

// use returns the entry of a key, as the most recently used one.
func (t *Table) use(key string) *entry {
	if el := t.byKey[key]; el != nil {
		t.order.MoveToFront(el)
		return el.Value.(*entry)
	}
	if t.order.Len() >= t.limits.Keys {
		t.forget(t.order.Back())
	}
	e := &entry{key: key}
	t.byKey[key] = t.order.PushFront(e)
	return e
}
