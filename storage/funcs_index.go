package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
)

// indexShards is part of the format: a key's shard must not change.
const indexShards = 64

// keyIndex remembers the keys of a host that cannot list them, in values of
// the host's store. It holds every key that has a value, and perhaps some
// that have none: a key is added before its first value is written and is
// taken out some time after its last one is gone. Which of its keys exist
// only the values tell; that is remembered once it is known.
type keyIndex struct {
	f      *funcs
	shards [indexShards]indexShard
}

type indexShard struct {
	ix     *keyIndex
	name   string        // the key of the shard's value
	sem    chan struct{} // one element: locked
	loaded bool
	keys   map[string]life // what the durable shard holds
	dead   int             // how many of keys are dead
}

type life int

const (
	unknown life = iota // the value must be read to know
	alive
	dead
)

// shardRecord is the value of a shard.
type shardRecord struct {
	Version int      `json:"version"`
	Keys    []string `json:"keys"`
}

func newKeyIndex(f *funcs) *keyIndex {
	ix := &keyIndex{f: f}
	for i := range ix.shards {
		ix.shards[i] = indexShard{ix: ix, name: fmt.Sprintf("%s/%02x", indexRoot, i), sem: make(chan struct{}, 1)}
	}
	return ix
}

func (ix *keyIndex) shardOf(key string) *indexShard {
	h := fnv.New32a()
	h.Write([]byte(key))
	return &ix.shards[h.Sum32()%indexShards]
}

// keys returns the keys that exist at and below prefix.
func (ix *keyIndex) keys(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	for i := range ix.shards {
		found, err := ix.shards[i].list(ctx, prefix)
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

// lock is held while a key of the shard is written or deleted, value and index both.
func (sh *indexShard) lock(ctx context.Context) error {
	select {
	case sh.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (sh *indexShard) unlock() { <-sh.sem }

func (sh *indexShard) list(ctx context.Context, prefix string) ([]string, error) {
	if err := sh.lock(ctx); err != nil {
		return nil, err
	}
	defer sh.unlock()
	if err := sh.load(ctx); err != nil {
		return nil, err
	}
	var keys []string
	for k, l := range sh.keys {
		if !MatchPrefix(k, prefix) {
			continue
		}
		if l == unknown {
			_, err := sh.ix.f.Get(ctx, k)
			if err != nil && !isNotFound(err) {
				return nil, err
			}
			l = alive
			if err != nil {
				l = dead
			}
			sh.set(k, l)
		}
		if l == alive {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// add makes sure that the durable index has key. The caller then writes the
// value; if that fails List must look whether it is there.
func (sh *indexShard) add(ctx context.Context, key string) error {
	if err := sh.load(ctx); err != nil {
		return err
	}
	if _, ok := sh.keys[key]; !ok {
		if err := sh.save(ctx, key); err != nil {
			return err
		}
	}
	sh.set(key, unknown)
	return nil
}

// markDead notes that key has no value. It never fails: the index may hold
// more than there is. Now and then the dead are taken out.
func (sh *indexShard) markDead(ctx context.Context, key string) {
	if !sh.loaded {
		return
	}
	if _, ok := sh.keys[key]; ok {
		sh.set(key, dead)
	}
	if sh.dead > 32 && sh.dead > len(sh.keys)/2 {
		_ = sh.save(ctx, "") // the delete itself is done; if this fails the next one tries again
	}
}

// markUnknown notes that a delete of key failed, or did not.
func (sh *indexShard) markUnknown(key string) {
	if _, ok := sh.keys[key]; ok && sh.loaded {
		sh.set(key, unknown)
	}
}

func (sh *indexShard) set(key string, l life) {
	if sh.keys[key] == dead {
		sh.dead--
	}
	if l == dead {
		sh.dead++
	}
	sh.keys[key] = l
}

func (sh *indexShard) load(ctx context.Context) error {
	if sh.loaded {
		return nil
	}
	data, err := sh.ix.f.load(ctx, sh.name)
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("index %q: %w", sh.name, err)
	}
	var rec shardRecord
	if err == nil {
		if err := json.Unmarshal(data, &rec); err != nil {
			return fmt.Errorf("index %q: %w: %w", sh.name, ErrCorrupt, err)
		}
		if rec.Version != 1 {
			return fmt.Errorf("index %q: %w: version %d, known is 1", sh.name, ErrSchema, rec.Version)
		}
	}
	sh.keys = make(map[string]life, len(rec.Keys))
	for _, k := range rec.Keys {
		sh.keys[k] = unknown
	}
	sh.dead, sh.loaded = 0, true
	return nil
}

// save writes the shard without the dead and with one key more, unless that
// is empty.
func (sh *indexShard) save(ctx context.Context, more string) error {
	rec := shardRecord{Version: 1, Keys: make([]string, 0, len(sh.keys)+1)}
	next := make(map[string]life, len(sh.keys)+1)
	for k, l := range sh.keys {
		if l != dead {
			rec.Keys = append(rec.Keys, k)
			next[k] = l
		}
	}
	if more != "" {
		rec.Keys = append(rec.Keys, more)
		next[more] = unknown
	}
	slices.Sort(rec.Keys)
	data, err := json.Marshal(rec)
	if err == nil {
		err = sh.ix.f.write(ctx, sh.name, data)
	}
	if err != nil {
		sh.loaded = false // either version may be there; look before the next use
		return fmt.Errorf("index %q: %w", sh.name, err)
	}
	sh.keys, sh.dead = next, 0
	return nil
}
