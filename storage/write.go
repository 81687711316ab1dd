package storage

import (
	"context"
	"fmt"
	"time"
)

// change runs fn, which changes key, with the key's lock held.
func (s *Store) change(ctx context.Context, op, key string, value []byte, fn func(key string) error) error {
	k, err := writableKey(key)
	if err != nil {
		return keyErr(op, key, err)
	}
	if len(value) > s.maxValue {
		return keyErr(op, k, fmt.Errorf("%w: it has %d bytes, and %d are allowed", ErrTooLarge, len(value), s.maxValue))
	}
	end, err := s.begin()
	if err != nil {
		return keyErr(op, k, err)
	}
	defer end()
	if err := ctx.Err(); err != nil {
		return keyErr(op, k, err)
	}
	unlock, err := s.locks.lock(ctx, k)
	if err != nil {
		return keyErr(op, k, err)
	}
	defer unlock()
	return keyErr(op, k, fn(k))
}

// put is an unconditional write; the key's lock is held.
func (s *Store) put(ctx context.Context, key string, value []byte, expires time.Time) error {
	if s.expirer == nil || expires.IsZero() {
		return s.write(ctx, key, value, expires, func() error { return s.backend.Put(ctx, key, value) })
	}
	ttl := time.Until(expires)
	if ttl <= 0 {
		return s.remove(ctx, key)
	}
	return s.write(ctx, key, value, expires, func() error { return s.expirer.PutTTL(ctx, key, value, ttl) })
}

// write surrounds a write to the backend with what is kept here about the
// key; the key's lock is held. The new generation is set before the write: a
// reader that comes in between then holds a revision that is already old,
// never one that stays good for a value that is gone.
func (s *Store) write(ctx context.Context, key string, value []byte, expires time.Time, do func() error) error {
	if s.expirer == nil {
		if err := s.expiryBefore(ctx, key, value, expires); err != nil {
			return err
		}
	}
	s.local.bump(key)
	err := do()
	if err == nil && s.expirer == nil {
		s.expiryAfter(ctx, key, expires)
	}
	// Also after an error: the value may be there all the same.
	s.notify(EventPut, key)
	return err
}

// remove deletes the value and then what is kept about it; the key's lock is held.
func (s *Store) remove(ctx context.Context, key string) error {
	s.local.bump(key)
	err := s.backend.Delete(ctx, key)
	if err == nil {
		s.dropExpiry(ctx, key)
		s.local.forget(key)
	}
	s.notify(EventDelete, key)
	return err
}

func (s *Store) notify(t EventType, key string) {
	if s.watcher == nil {
		s.hub.publish(Event{Type: t, Key: key})
	}
}

// notNil makes nil an empty value, which is a value; a backend never sees nil.
func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
