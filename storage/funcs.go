package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
)

// ReadFunc returns the value of key from a host's own store. To say that
// there is none it returns [ErrNotFound], fs.ErrNotExist, or nil and no
// error; so an empty value that exists must be returned as an empty slice
// that is not nil. It is called concurrently.
type ReadFunc func(ctx context.Context, key string) ([]byte, error)

// WriteFunc sets the value of key in a host's own store, atomically and
// durably: whoever reads during the call or after a crash gets the old value
// or the new one, and after it returned nil the new one. It is called
// concurrently, for one key one call at a time. It must not keep value.
type WriteFunc func(ctx context.Context, key string, value []byte) error

// ListFunc returns the keys at and below prefix, as [Backend].List.
type ListFunc func(ctx context.Context, prefix string) ([]string, error)

// DeleteFunc removes key, as [Backend].Delete.
type DeleteFunc func(ctx context.Context, key string) error

// FuncOption gives [Funcs] more of the host's functions.
type FuncOption func(*funcs)

// WithList makes [Funcs] ask the host which keys there are. Without it Funcs
// keeps an index. A host that had a list function must not take it away
// again: there is no index then.
func WithList(list ListFunc) FuncOption { return func(f *funcs) { f.list = list } }

// WithDelete makes [Funcs] delete by the host's function. Without it a
// deleted key keeps a short text, a tombstone, as its value for ever.
func WithDelete(del DeleteFunc) FuncOption { return func(f *funcs) { f.delete = del } }

// Funcs returns a backend on two functions of the host. Keys are canonical:
// "email/domains/example.org.json", without a leading slash. Values reach the
// host as they are, byte for byte.
//
// With nothing but read and write, deleting writes a tombstone, and listing
// works by an index of keys that is kept in 64 values below "_meta/index/"
// (see [WithList] and [WithDelete]). A key is in the index before its value
// is written and the value decides whether the key exists, so a crash between
// the two writes loses nothing. Putting a value where there is one is a
// single write. Opening reads the index once, and the first List after that
// reads each value that it names, to see which of them exist.
//
// The index is kept by one process: with several on the same data, give all
// options, or write a [Backend]. One Store at a time may have it open.
func Funcs(read ReadFunc, write WriteFunc, opts ...FuncOption) Backend {
	f := &funcs{read: read, write: write}
	for _, o := range opts {
		o(f)
	}
	f.index = newKeyIndex(f)
	return f
}

// tombstone is the value of a deleted key where the host cannot delete. It is
// text, since some hosts hold nothing else.
const tombstone = "#deleted: storage tombstone 6b0d0a4e-5c1f-4d0b-9a7e-2f5d8a3c91e7#"

type funcs struct {
	read   ReadFunc
	write  WriteFunc
	list   ListFunc   // nil: the index does it
	delete DeleteFunc // nil: tombstones
	index  *keyIndex

	mu   sync.Mutex
	open bool
}

// Open checks the functions and forgets what was known of the host's data.
func (f *funcs) Open(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.read == nil || f.write == nil:
		return &KeyError{Op: "open functions", Err: errors.New("both a read and a write function are needed")}
	case f.open:
		return &KeyError{Op: "open functions", Err: ErrInUse}
	}
	f.open = true
	f.index = newKeyIndex(f)
	return nil
}

// Close makes room for another Store; the host's functions have nothing to close.
func (f *funcs) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = false
	return nil
}

func (f *funcs) Get(ctx context.Context, key string) ([]byte, error) {
	value, err := f.load(ctx, key)
	switch {
	case err != nil:
		return nil, keyErr("get", key, err)
	case string(value) == tombstone:
		return nil, keyErr("get", key, ErrNotFound)
	}
	return value, nil
}

// load reads whatever the host has, also a tombstone.
func (f *funcs) load(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	value, err := f.read(ctx, key)
	if isNotFound(err) || err == nil && value == nil {
		return nil, ErrNotFound
	}
	return value, err
}

func (f *funcs) Put(ctx context.Context, key string, value []byte) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case MatchPrefix(key, indexRoot):
		return keyErr("put", key, fmt.Errorf("%w: reserved for the index", ErrInvalidKey))
	case string(value) == tombstone:
		return keyErr("put", key, ErrInvalidValue)
	}
	sh := f.index.shardOf(key)
	if err := sh.lock(ctx); err != nil {
		return keyErr("put", key, err)
	}
	defer sh.unlock()
	if f.list == nil {
		if err := sh.add(ctx, key); err != nil {
			return keyErr("put", key, err)
		}
	}
	if err := f.write(ctx, key, value); err != nil {
		return keyErr("put", key, err)
	}
	if len(value) == 0 {
		// An empty value is easily lost: a copy of it may be nil, which means
		// that there is none.
		if back, err := f.read(ctx, key); err == nil && back == nil {
			return keyErr("put", key, fmt.Errorf("%w: the host's functions return nil for an empty value, which means none; return []byte{}", ErrInvalidValue))
		}
	}
	if f.list == nil {
		sh.set(key, alive)
	}
	return nil
}

func (f *funcs) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh := f.index.shardOf(key)
	if err := sh.lock(ctx); err != nil {
		return keyErr("delete", key, err)
	}
	defer sh.unlock()
	if err := f.erase(ctx, key); err != nil {
		sh.markUnknown(key)
		return keyErr("delete", key, err)
	}
	if f.list == nil {
		sh.markDead(ctx, key)
	}
	return nil
}

func (f *funcs) erase(ctx context.Context, key string) error {
	if f.delete != nil {
		return f.delete(ctx, key)
	}
	_, err := f.Get(ctx, key)
	if isNotFound(err) {
		return nil // no tombstones for what never was
	} else if err != nil {
		return err
	}
	return f.write(ctx, key, []byte(tombstone))
}

func (f *funcs) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		keys, err := f.keys(ctx, prefix)
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
		if err != nil {
			yield("", keyErr("list", prefix, err))
		}
	}
}

func (f *funcs) keys(ctx context.Context, prefix string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.list == nil {
		return f.index.keys(ctx, prefix)
	}
	all, err := f.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, k := range all {
		k = strings.TrimPrefix(k, "/")
		if !MatchPrefix(k, prefix) || MatchPrefix(k, indexRoot) {
			continue
		}
		if f.delete == nil { // it may be a tombstone
			if _, err := f.Get(ctx, k); isNotFound(err) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}
