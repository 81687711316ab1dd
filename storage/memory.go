package storage

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"
)

// Memory returns a backend that keeps everything in this process's memory and
// loses it with the process: for tests, development, and hosts that want no
// persistence. Several Stores may be opened on one Memory; they see each
// other's changes and leases, like processes that share a database.
func Memory() Backend {
	m := &memory{values: make(map[string]memoryValue), hub: newHub()}
	m.leaseTable = newLeaseTable(m.nextToken)
	return m
}

// memory has every upgrade, so it also shows what they look like.
type memory struct {
	*leaseTable
	hub *hub

	mu       sync.Mutex
	values   map[string]memoryValue
	revision uint64 // of the last write
	token    uint64
}

type memoryValue struct {
	data     []byte
	revision uint64
	modified time.Time
	expires  time.Time // zero: never
}

func (m *memory) Get(ctx context.Context, key string) ([]byte, error) {
	value, _, err := m.GetRevision(ctx, key)
	return value, err
}

func (m *memory) GetRevision(ctx context.Context, key string) ([]byte, Revision, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.lookup(key)
	if !ok {
		return nil, "", keyErr("get", key, ErrNotFound)
	}
	return bytes.Clone(v.data), formatRevision(v.revision), nil
}

func (m *memory) Put(ctx context.Context, key string, value []byte) error {
	_, err := m.set(ctx, key, value, 0, func(memoryValue, bool) error { return nil })
	return err
}

func (m *memory) PutTTL(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return keyErr("put", key, fmt.Errorf("%v is not a time to live; give a positive one", ttl))
	}
	_, err := m.set(ctx, key, value, ttl, func(memoryValue, bool) error { return nil })
	return err
}

func (m *memory) Create(ctx context.Context, key string, value []byte) (Revision, error) {
	return m.set(ctx, key, value, 0, func(_ memoryValue, ok bool) error {
		if ok {
			return keyErr("create", key, ErrExists)
		}
		return nil
	})
}

func (m *memory) CompareAndSwap(ctx context.Context, key string, old Revision, value []byte) (Revision, error) {
	return m.set(ctx, key, value, 0, func(v memoryValue, ok bool) error {
		if !ok || formatRevision(v.revision) != old {
			return keyErr("compare and swap", key, ErrConflict)
		}
		return nil
	})
}

// set writes the value if allow agrees with what is there.
func (m *memory) set(ctx context.Context, key string, value []byte, ttl time.Duration, allow func(memoryValue, bool) error) (Revision, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := allow(m.lookup(key)); err != nil {
		return "", err
	}
	m.revision++
	v := memoryValue{data: append([]byte{}, value...), revision: m.revision, modified: time.Now()}
	if ttl > 0 {
		v.expires = v.modified.Add(ttl)
	}
	m.values[key] = v
	m.hub.publish(Event{Type: EventPut, Key: key})
	return formatRevision(v.revision), nil
}

func (m *memory) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.lookup(key); ok {
		m.drop(key)
	}
	return nil
}

func (m *memory) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := ctx.Err(); err != nil {
			yield("", err)
			return
		}
		for _, k := range m.matching(prefix) {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func (m *memory) matching(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for k := range m.values {
		if _, ok := m.lookup(k); ok && MatchPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (m *memory) Stat(ctx context.Context, key string) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.lookup(key)
	if !ok {
		return Info{}, keyErr("stat", key, ErrNotFound)
	}
	return Info{Key: key, Size: int64(len(v.data)), Modified: v.modified, Expires: v.expires}, nil
}

func (m *memory) Expiry(ctx context.Context, key string) (time.Time, error) {
	info, err := m.Stat(ctx, key)
	return info.Expires, err
}

func (m *memory) Watch(ctx context.Context, prefix string) (iter.Seq2[Event, error], error) {
	return m.hub.watch(ctx, prefix), nil
}

// lookup finds a value that is not expired, and drops one that is: memory has
// no goroutine that would.
func (m *memory) lookup(key string) (memoryValue, bool) {
	v, ok := m.values[key]
	if ok && expired(v.expires, time.Now()) {
		m.drop(key)
		return memoryValue{}, false
	}
	return v, ok
}

func (m *memory) drop(key string) {
	delete(m.values, key)
	m.hub.publish(Event{Type: EventDelete, Key: key})
}

func (m *memory) nextToken(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token++
	return m.token, nil
}

func formatRevision(n uint64) Revision { return Revision(strconv.FormatUint(n, 36)) }
