package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
	"time"
)

// localState is what this process knows about keys beyond their values:
// generations, which make revisions where the backend has none, and times of
// expiry where the backend keeps none. A key that was neither written since
// Open nor given a time of expiry has no entry.
type localState struct {
	nonce string // makes revisions of different Stores differ

	mu   sync.RWMutex
	gen  uint64 // the last generation given to any key
	keys map[string]*keyState
}

// keyState is never changed, only replaced: two equal pointers mean that
// nothing happened to the key in between.
type keyState struct {
	gen     uint64
	entries []expiryEntry // what the key's expiry record holds
}

func newLocalState(nonce string) *localState {
	return &localState{nonce: nonce, keys: make(map[string]*keyState)}
}

// get returns nil for a key without an entry; the methods of keyState take that.
func (l *localState) get(key string) *keyState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.keys[key]
}

// bump gives the key a generation that no key ever had. Generations are not
// counted by key, so that a key can be forgotten when it is deleted and still
// never get an old generation back.
func (l *localState) bump(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gen++
	l.keys[key] = &keyState{gen: l.gen, entries: l.keys[key].allEntries()}
}

// setEntries notes what the key's expiry record holds now.
func (l *localState) setEntries(key string, entries []expiryEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gen := uint64(0)
	if st := l.keys[key]; st != nil {
		gen = st.gen
	}
	l.keys[key] = &keyState{gen: gen, entries: entries}
}

// forget drops a deleted key, unless its expiry record is still there.
func (l *localState) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.keys[key].hasExpiry() {
		delete(l.keys, key)
	}
}

// expiring returns the keys that have an entry which is expired at now, and
// the earliest expiry after now (zero if none).
func (l *localState) expiring(now time.Time) (due []string, next time.Time) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for key, st := range l.keys {
		if st.mayBeExpired(now) {
			due = append(due, key)
		}
		for _, e := range st.entries { // also of a key that is due: one entry of several may be
			if !expired(e.Expires, now) && (next.IsZero() || e.Expires.Before(next)) {
				next = e.Expires
			}
		}
	}
	return due, next
}

// revision is made of the generation, so that a value that was changed and
// changed back has another one, and of the bytes, so that changes made by
// going around the Store are noticed too.
func (l *localState) revision(st *keyState, value []byte) Revision {
	var gen uint64
	if st != nil {
		gen = st.gen
	}
	sum := sha256.Sum256(value)
	return Revision(l.nonce + "-" + strconv.FormatUint(gen, 36) + "-" + hex.EncodeToString(sum[:16]))
}

func (st *keyState) allEntries() []expiryEntry {
	if st == nil {
		return nil
	}
	return st.entries
}

func (st *keyState) hasExpiry() bool { return len(st.allEntries()) > 0 }

func (st *keyState) mayBeExpired(now time.Time) bool {
	for _, e := range st.allEntries() {
		if expired(e.Expires, now) {
			return true
		}
	}
	return false
}

// expiryOf returns when value expires, zero for never.
func (st *keyState) expiryOf(value []byte) time.Time {
	if !st.hasExpiry() {
		return time.Time{}
	}
	sum := hashValue(value)
	for _, e := range st.entries {
		if e.SHA256 == sum {
			return e.Expires
		}
	}
	return time.Time{}
}

func hashValue(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:])
}

func expired(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }
