package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"time"
)

// Item is a value and what is known about it.
type Item struct {
	Key      string
	Value    []byte // the caller may keep and change it
	Revision Revision
	Expires  time.Time // zero: never
}

// Info describes a value without its bytes.
type Info struct {
	Key      string
	Size     int64     // in bytes
	Modified time.Time // time of the last write; zero if the backend does not know
	Expires  time.Time // zero: never
}

// PutOption changes what [Store.Put] does.
type PutOption func(*putConfig)

type putConfig struct {
	expires time.Time
	ttl     time.Duration
	hasTTL  bool
}

// TTL makes the value cease to exist after d. A d that is not positive makes
// Put fail.
func TTL(d time.Duration) PutOption {
	return func(c *putConfig) { c.ttl, c.hasTTL = d, true }
}

// Until makes the value cease to exist at t, by the wall clock. After Put
// with a t in the past the key has no value. The zero time means never.
func Until(t time.Time) PutOption {
	return func(c *putConfig) { c.expires, c.hasTTL = t, false }
}

func isNotFound(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

// Get returns the value of key, [ErrNotFound] if there is none. The caller
// may keep and change what it gets.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	it, err := s.get(ctx, "get", key, false)
	return it.Value, err
}

// GetItem is Get that also returns the revision, for
// [Store.CompareAndSwap], and the time of expiry.
func (s *Store) GetItem(ctx context.Context, key string) (Item, error) {
	return s.get(ctx, "get", key, true)
}

func (s *Store) get(ctx context.Context, op, key string, full bool) (Item, error) {
	k, err := CanonicalKey(key)
	if err != nil {
		return Item{}, keyErr(op, key, err)
	}
	end, err := s.begin()
	if err != nil {
		return Item{}, keyErr(op, k, err)
	}
	defer end()
	it, err := s.read(ctx, k, full)
	return it, keyErr(op, k, err)
}

// read reads without holding the key's lock. If a writer came in between,
// what is known here and what the backend said may not belong together; then
// it reads once more behind the lock.
func (s *Store) read(ctx context.Context, key string, full bool) (Item, error) {
	before := s.local.get(key)
	it, err := s.readAs(ctx, key, before, full)
	if s.local.get(key) == before {
		return it, err
	}
	unlock, err := s.locks.lock(ctx, key)
	if err != nil {
		return Item{}, err
	}
	defer unlock()
	return s.readLocked(ctx, key, full)
}

// readLocked is read for those who hold the key's lock.
func (s *Store) readLocked(ctx context.Context, key string, full bool) (Item, error) {
	return s.readAs(ctx, key, s.local.get(key), full)
}

func (s *Store) readAs(ctx context.Context, key string, st *keyState, full bool) (Item, error) {
	if err := ctx.Err(); err != nil {
		return Item{}, err
	}
	it := Item{Key: key}
	var err error
	if full && s.cond != nil {
		it.Value, it.Revision, err = s.cond.GetRevision(ctx, key)
	} else {
		it.Value, err = s.backend.Get(ctx, key)
	}
	switch {
	case isNotFound(err):
		return Item{}, ErrNotFound
	case err != nil:
		return Item{}, err
	case s.expirer == nil:
		it.Expires = st.expiryOf(it.Value)
		if expired(it.Expires, time.Now()) {
			return Item{}, ErrNotFound
		}
	case full:
		if it.Expires, err = s.expirer.Expiry(ctx, key); isNotFound(err) {
			return Item{}, ErrNotFound
		} else if err != nil {
			return Item{}, err
		}
	}
	if full && s.cond == nil {
		it.Revision = s.local.revision(st, it.Value)
	}
	return it, nil
}

// Stat describes the value of key, [ErrNotFound] if there is none. It reads
// the value only where the backend cannot do without.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	k, err := CanonicalKey(key)
	if err != nil {
		return Info{}, keyErr("stat", key, err)
	}
	end, err := s.begin()
	if err != nil {
		return Info{}, keyErr("stat", k, err)
	}
	defer end()
	info, err := s.stat(ctx, k)
	return info, keyErr("stat", k, err)
}

func (s *Store) stat(ctx context.Context, key string) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	var info Info
	var expires time.Time
	var err error
	if s.stater == nil || s.local.get(key).hasExpiry() { // expiry hangs on the bytes
		var it Item
		it, err = s.read(ctx, key, true)
		info.Size, expires = int64(len(it.Value)), it.Expires
	} else if s.expirer != nil {
		expires, err = s.expirer.Expiry(ctx, key)
	}
	if err == nil && s.stater != nil {
		info, err = s.stater.Stat(ctx, key)
	}
	switch {
	case isNotFound(err):
		return Info{}, ErrNotFound
	case err != nil:
		return Info{}, err
	}
	info.Key, info.Expires = key, expires
	return info, nil
}

// Put sets the value of key, whether it has one or not. Without [TTL] or
// [Until] the value stays. When Put returns nil the value is durable as far
// as the backend makes it so; after an error the old or the new value may be
// there, but nothing else.
func (s *Store) Put(ctx context.Context, key string, value []byte, opts ...PutOption) error {
	value = notNil(value)
	var c putConfig
	for _, o := range opts {
		o(&c)
	}
	if c.hasTTL {
		if c.ttl <= 0 {
			return keyErr("put", key, fmt.Errorf("TTL: %v is not a time to live; give a positive one", c.ttl))
		}
		c.expires = time.Now().Add(c.ttl)
	}
	return s.change(ctx, "put", key, value, func(k string) error {
		return s.put(ctx, k, value, c.expires)
	})
}

// Create sets the value of key if it has none and returns its revision;
// [ErrExists] if it has one. The value stays until it is changed.
func (s *Store) Create(ctx context.Context, key string, value []byte) (Revision, error) {
	value = notNil(value)
	var rev Revision
	err := s.change(ctx, "create", key, value, func(k string) error {
		_, err := s.readLocked(ctx, k, false)
		switch {
		case err == nil:
			return ErrExists
		case !isNotFound(err):
			return err
		case s.cond == nil:
			err = s.put(ctx, k, value, time.Time{})
			rev = s.local.revision(s.local.get(k), value)
			return err
		}
		if s.local.get(k).hasExpiry() { // what the backend still has is expired
			if err := s.remove(ctx, k); err != nil {
				return err
			}
		}
		return s.write(ctx, k, value, time.Time{}, func() (err error) {
			rev, err = s.cond.Create(ctx, k, value)
			return err
		})
	})
	return rev, err
}

// CompareAndSwap replaces the value of key if its revision is still old, and
// returns the new revision; [ErrConflict] if it is another, or if the key has
// no value. old comes from [Store.GetItem], Create or CompareAndSwap. The new
// value stays, even if the old one had a time of expiry.
//
// Without native revisions (see [Store.Caps]) a revision is good as long as
// this Store is open, and changes made by going around the Store are noticed
// if they changed the bytes.
func (s *Store) CompareAndSwap(ctx context.Context, key string, old Revision, value []byte) (Revision, error) {
	value = notNil(value)
	var rev Revision
	err := s.change(ctx, "compare and swap", key, value, func(k string) error {
		it, err := s.readLocked(ctx, k, true)
		switch {
		case isNotFound(err):
			return ErrConflict
		case err != nil:
			return err
		case old == "" || it.Revision != old:
			return ErrConflict
		case s.cond == nil:
			err = s.put(ctx, k, value, time.Time{})
			rev = s.local.revision(s.local.get(k), value)
			return err
		}
		return s.write(ctx, k, value, time.Time{}, func() (err error) {
			rev, err = s.cond.CompareAndSwap(ctx, k, old, value)
			return err
		})
	})
	return rev, err
}

// Update replaces the value of key by what fn makes of it, as often as it
// takes until nobody else changed it in between. If the key has no value fn
// gets nil. An error from fn ends Update and is returned. fn may be called
// several times and must not use the Store for the same key.
func (s *Store) Update(ctx context.Context, key string, fn func(old []byte) ([]byte, error)) error {
	for {
		it, err := s.GetItem(ctx, key)
		if err != nil && !isNotFound(err) {
			return err
		}
		value, fnErr := fn(it.Value)
		switch {
		case fnErr != nil:
			return fnErr
		case err != nil:
			_, err = s.Create(ctx, key, value)
		default:
			_, err = s.CompareAndSwap(ctx, key, it.Revision, value)
		}
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
			return err
		}
	}
}

// Delete removes key and its value. It is no error if there is none.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.change(ctx, "delete", key, nil, func(k string) error { return s.remove(ctx, k) })
}

// DeletePrefix deletes the keys at and below prefix, as List shows them, and
// returns how many it deleted. It is not atomic. The empty prefix is refused
// with [ErrInvalidKey]: it is more often a mistake than a wish.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (int, error) {
	if p, err := canonicalPrefix(prefix); err == nil && p == "" {
		return 0, keyErr("delete prefix", prefix, fmt.Errorf("%w: an empty prefix would delete everything; name a folder", ErrInvalidKey))
	}
	n := 0
	for key, err := range s.List(ctx, prefix) {
		if err == nil {
			err = s.Delete(ctx, key)
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// List yields the keys at and below prefix in the order of their bytes: the
// key prefix itself, if it has a value, and all that start with prefix + "/".
// A prefix that ends in "/" leaves out prefix itself; "" and "/" mean
// everything. The storage's own keys, below "_meta", are listed only if
// prefix is there too.
//
// The keys are collected when the iteration starts. A key that has a value
// during all of that is yielded once; of those put or deleted meanwhile some
// may be missing and some may be gone when they are read. The Store may be
// used, and changed, during the iteration. An error is the last thing yielded.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, err := s.keys(ctx, prefix)
		for _, k := range keys {
			if err := ctx.Err(); err != nil {
				yield("", keyErr("list", prefix, err))
				return
			}
			if !yield(k, nil) {
				return
			}
		}
		if err != nil {
			yield("", keyErr("list", prefix, err))
		}
	}
}

// keys collects what List yields.
func (s *Store) keys(ctx context.Context, prefix string) ([]string, error) {
	p, err := canonicalPrefix(prefix)
	if err != nil {
		return nil, err
	}
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if err := s.lists.enter(ctx); err != nil {
		return nil, err
	}
	defer s.lists.leave()

	var keys []string
	for k, err := range s.backend.List(ctx, p) {
		if err != nil {
			return nil, err
		}
		// Skip what is not ours to show; also keys that no Get could name,
		// which a host may have in the same place.
		if !MatchPrefix(k, p) || isMeta(k) && !isMeta(p) || checkKey(k, backendKeyLength) != nil {
			continue
		}
		if s.local.get(k).mayBeExpired(time.Now()) {
			if _, err := s.read(ctx, k, false); isNotFound(err) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		keys = append(keys, k)
	}
	if err := ctx.Err(); err != nil { // the backend may have stopped early
		return nil, err
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}
