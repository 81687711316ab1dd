package radius

import (
	"crypto/sha256"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// sessionShards is into how many parts the sessions are divided, each with a
// lock of its own, and a value of its own in storage.
const sessionShards = 1024

// closedLife is how long a session that has ended is remembered, so that an
// update that was late does not open it again.
const closedLife = 10 * time.Minute

// sessionKey is what tells sessions apart: a hash of NAS, ID and Class.
type sessionKey [16]byte

func keyOfSession(s *Session) (k sessionKey) {
	b := appendAddr(make([]byte, 0, 128), s.Source)
	b = appendString(b, s.NASIdentifier)
	if s.NASIdentifier == "" {
		b = appendAddr(b, s.NASAddress)
	}
	b = appendString(b, s.ID)
	b = append(b, s.Class...)
	sum := sha256.Sum256(b)
	copy(k[:], sum[:])
	return k
}

// sessions is the table of them.
type sessions struct {
	staleAfter time.Duration
	most       int64
	count      atomic.Int64 // kept
	opened     atomic.Int64 // of these, open
	shards     [sessionShards]sessionShard
	byNAS      nasIndex // the open ones
}

type sessionShard struct {
	mu      sync.Mutex
	entries map[sessionKey]string // encoded
	seq     uint64                // of the last batch of the journal that is in
	dirty   bool                  // changed since it was last stored
}

func newSessions(a *Accounting) *sessions {
	return &sessions{staleAfter: valueOr(a.StaleAfter, 24*time.Hour), most: int64(valueOr(a.MaxSessions, 2_000_000))}
}

func (t *sessions) open() int { return int(t.opened.Load()) }

// full reports whether there is no room for another session. Those that have ended
// take none from the open ones, but may not be without number either.
func (t *sessions) full(ended bool) bool {
	return !ended && t.opened.Load() >= t.most || t.count.Load() >= 2*t.most
}

func (t *sessions) shard(k sessionKey) *sessionShard {
	return &t.shards[(int(k[0])<<8|int(k[1]))%sessionShards]
}

// get returns the session of a key.
func (t *sessions) get(k sessionKey) (string, bool) {
	shard := t.shard(k)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	s, ok := shard.entries[k]
	return s, ok
}

// put sets a session; its shard is locked.
func (t *sessions) put(shard *sessionShard, k sessionKey, encoded string) {
	old, ok := shard.entries[k]
	if !ok {
		t.count.Add(1)
	}
	t.index(k, old, encoded)
	if shard.entries == nil {
		shard.entries = make(map[sessionKey]string)
	}
	shard.entries[k] = encoded
	shard.dirty = true
}

func (t *sessions) remove(shard *sessionShard, k sessionKey) {
	if old, ok := shard.entries[k]; ok {
		t.count.Add(-1)
		t.index(k, old, "")
		delete(shard.entries, k)
		shard.dirty = true
	}
}

// index keeps count and index of the open sessions when one changes; "" is none.
// Its shard is locked.
func (t *sessions) index(k sessionKey, old, encoded string) {
	var was, is sessionHead
	before, after := old != "", encoded != ""
	if before {
		was = decodeHead(old)
		before = was.stopped.IsZero()
	}
	if after {
		is = decodeHead(encoded)
		after = is.stopped.IsZero()
	}
	if before && after && was.nasHead == is.nasHead {
		return
	}
	if before {
		t.opened.Add(-1)
		t.byNAS.remove(was.nasHead, k)
	}
	if after {
		t.opened.Add(1)
		t.byNAS.add(is.nasHead, k)
	}
}

// clear empties the table, before it is read from storage.
func (t *sessions) clear() {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		shard.entries, shard.seq, shard.dirty = nil, 0, false
		shard.mu.Unlock()
	}
	t.count.Store(0)
	t.opened.Store(0)
	t.byNAS.clear()
}

func isOpen(encoded string) bool { return decodeHead(encoded).stopped.IsZero() }

// closing is an Accounting-On or -Off: what it closes was last heard of before
// it. Sessions that begin while it is dealt with stay.
type closing struct {
	nas
	at    time.Time // in whole milliseconds, as sessions are kept
	cause uint32
}

func (c *closing) closes(h *sessionHead) bool {
	return h.stopped.IsZero() && !h.updated.After(c.at) && c.has(h.nasHead)
}

// close ends a session, if c closes it; its shard is locked.
func (t *sessions) close(shard *sessionShard, k sessionKey, c *closing) {
	if s, ok := c.find(shard, k); ok {
		s.Stopped, s.TerminateCause = c.at, c.cause
		t.put(shard, k, string(appendSession(nil, &s)))
	}
}

// find returns the session of a key, if c closes it; its shard is locked.
func (c *closing) find(shard *sessionShard, k sessionKey) (Session, bool) {
	encoded, ok := shard.entries[k]
	if !ok {
		return Session{}, false
	}
	if h := decodeHead(encoded); !c.closes(&h) {
		return Session{}, false
	}
	s, err := decodeSession(encoded)
	return s, err == nil
}

// wouldClose lists what c closes.
func (t *sessions) wouldClose(c *closing) (list []Session) {
	for _, k := range t.byNAS.of(&c.nas) {
		shard := t.shard(k)
		shard.mu.Lock()
		if s, ok := c.find(shard, k); ok {
			list = append(list, s)
		}
		shard.mu.Unlock()
	}
	return list
}

// Sessions yields the open sessions, in no order. Those that begin or end
// meanwhile may be among them or not. The Server may be used during the
// iteration.
func (s *Server) Sessions() iter.Seq[Session] {
	return func(yield func(Session) bool) {
		for i := range s.sessions.shards {
			shard := &s.sessions.shards[i]
			shard.mu.Lock()
			entries := maps.Clone(shard.entries)
			shard.mu.Unlock()
			for _, encoded := range entries {
				if !isOpen(encoded) {
					continue
				}
				if session, err := decodeSession(encoded); err == nil && !yield(session) {
					return
				}
			}
		}
	}
}
