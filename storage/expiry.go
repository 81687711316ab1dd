package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Where the backend keeps no times of expiry, they are in records beside the
// values: the value of "k" stays exactly as it was put, and "_meta/expiry/k"
// says until when. A value and its record are two writes, and the process may
// die between them. So a record does not speak about the key but about
// bytes: "the value with this SHA-256 expires then". A record whose hash is
// not that of the value means nothing. From this follow the rules:
//
//   - Putting a value that expires: first a record that has both the entry
//     of the value that is there now and that of the new one, then the value.
//   - Putting one that stays: first take out an entry for the same bytes, if
//     there is one (that already has the effect of the put), then the value,
//     and then the rest of the record, which means nothing any more.
//   - Deleting: first the value, then the record.
//
// localState holds the entries of every record, so the common case, a key
// that never had a TTL, costs nothing.
type expiryEntry struct {
	SHA256  string    `json:"sha256"`
	Expires time.Time `json:"expires"`
}

func expiryKey(key string) string { return expiryRoot + "/" + key }

// expiryBefore is called before a value is written; the key's lock is held.
func (s *Store) expiryBefore(ctx context.Context, key string, value []byte, expires time.Time) error {
	entries := s.local.get(key).allEntries()
	if expires.IsZero() && len(entries) == 0 {
		return nil
	}
	sum := hashValue(value)
	others := slices.DeleteFunc(slices.Clone(entries), func(e expiryEntry) bool { return e.SHA256 == sum })
	if expires.IsZero() {
		if len(others) == len(entries) {
			return nil
		}
		return s.writeExpiry(ctx, key, others)
	}
	if len(others) > 1 { // left over from earlier puts; only one can be true
		current, err := s.backend.Get(ctx, key)
		if err != nil && !isNotFound(err) {
			return err
		}
		sum := hashValue(current)
		others = slices.DeleteFunc(others, func(e expiryEntry) bool { return err != nil || e.SHA256 != sum })
	}
	return s.writeExpiry(ctx, key, append(others, expiryEntry{SHA256: sum, Expires: expires.Round(0).UTC()}))
}

// expiryAfter is called after a value was written; the key's lock is held.
func (s *Store) expiryAfter(ctx context.Context, key string, expires time.Time) {
	if expires.IsZero() {
		s.dropExpiry(ctx, key)
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // the sweeper already has a reason to look
	}
}

// dropExpiry removes a record that speaks of no value. The operation that it
// belongs to is done; if this fails the record does no harm, and the next
// write of the key or the next Open meets it again.
func (s *Store) dropExpiry(ctx context.Context, key string) {
	if !s.local.get(key).hasExpiry() {
		return
	}
	if err := s.writeExpiry(context.WithoutCancel(ctx), key, nil); err != nil {
		s.log.Warn("expiry record not removed", "key", key, "err", err)
	}
}

// writeExpiry makes the record durable and then notes it.
func (s *Store) writeExpiry(ctx context.Context, key string, entries []expiryEntry) error {
	var err error
	if len(entries) == 0 {
		err = s.backend.Delete(ctx, expiryKey(key))
	} else {
		var data []byte
		if data, err = json.Marshal(entries); err == nil {
			err = s.backend.Put(ctx, expiryKey(key), data)
		}
	}
	if err != nil {
		// Either record may be there now. Keep what speaks for both.
		s.local.setEntries(key, append(slices.Clone(s.local.get(key).allEntries()), entries...))
		return fmt.Errorf("expiry record %q: %w", expiryKey(key), err)
	}
	s.local.setEntries(key, entries)
	return nil
}

// loadExpiry reads all records when the Store is opened.
func (s *Store) loadExpiry(ctx context.Context) error {
	for k, err := range s.backend.List(ctx, expiryRoot+"/") {
		if err != nil {
			return keyErr("open", expiryRoot, err)
		}
		key, ok := strings.CutPrefix(k, expiryRoot+"/")
		if !ok {
			continue
		}
		data, err := s.backend.Get(ctx, k)
		if isNotFound(err) {
			continue
		} else if err != nil {
			return keyErr("open", k, err)
		}
		var entries []expiryEntry
		if err := json.Unmarshal(data, &entries); err != nil {
			return keyErr("open", k, fmt.Errorf("%w: %w", ErrCorrupt, err))
		}
		if len(entries) > 0 {
			s.local.setEntries(key, entries)
		}
	}
	return ctx.Err()
}

// sweep removes expired values until the Store is closed. It looks when the
// next one is due and when a put says that there may be an earlier one, but
// never without a pause in between, since it looks at all of them. So expired
// values are invisible at once and gone about this pause later.
func (s *Store) sweep() {
	next := time.Now() // whatever expired while nobody was there
	for {
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-s.ctx.Done():
			return
		case <-due:
		case <-s.wake:
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(s.sweepPause):
		}
		next = s.sweepOnce()
	}
}

// sweepOnce removes what is expired and returns when to look again, the zero
// time if there is nothing to wait for.
func (s *Store) sweepOnce() (next time.Time) {
	keys, next := s.local.expiring(time.Now())
	failed := 0
	var first error
	for _, key := range keys {
		// A List under way may have got the key from the backend and not yet
		// asked here whether it is expired. It need not wait; we can.
		if !s.lists.close() {
			return time.Now()
		}
		ctx, cancel := context.WithTimeout(s.ctx, sweepTimeout)
		err := s.sweepKey(ctx, key)
		cancel()
		s.lists.open()
		if err != nil {
			failed++
			first = cmp.Or(first, keyErr("remove expired", key, err))
		}
	}
	if failed > 0 && s.ctx.Err() == nil {
		s.log.Warn("expired values not removed, will try again", "keys", failed, "err", first)
		return time.Now()
	}
	return next
}

// sweepTimeout is for how long a List may have to wait for the removal of a value
// where the backend does not answer.
const sweepTimeout = 10 * time.Second

// sweepKey removes the value of key if it is expired, and the entries that
// speak of no value.
func (s *Store) sweepKey(ctx context.Context, key string) error {
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	st := s.local.get(key)
	if !st.mayBeExpired(time.Now()) {
		return nil
	}
	value, err := s.backend.Get(ctx, key)
	if isNotFound(err) {
		s.dropExpiry(ctx, key)
		s.local.forget(key)
		return nil
	} else if err != nil {
		return err
	}
	expires := st.expiryOf(value)
	if expired(expires, time.Now()) {
		return s.remove(ctx, key)
	}
	sum := hashValue(value)
	return s.writeExpiry(ctx, key, slices.DeleteFunc(slices.Clone(st.entries), func(e expiryEntry) bool { return e.SHA256 != sum }))
}
