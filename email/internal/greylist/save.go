package greylist

import (
	"cmp"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// The list is stored in parts, by the first byte of the keys, so that a change
// writes one of them and not all.
const shards = 64

// version begins each part.
const version = 1

// recordSize: key, network, first and last in seconds, passes.
const recordSize = 16 + 16 + 8 + 8 + 4

func shardOf(k key) int          { return int(k[0]) % shards }
func (l *List) touch(k key)      { l.dirty[shardOf(k)] = true }
func shardKey(i int) string      { return fmt.Sprintf("email/greylist/%02x", i) }
func seconds(t time.Time) uint64 { return uint64(t.Unix()) }

// Open reads the list from cfg.Store and starts to keep it there. A part of it
// that cannot be read is logged and begun anew: mail is put off once more. The
// error is the store's.
func Open(ctx context.Context, cfg Config) (*List, error) {
	l := &List{cfg: cfg.withDefaults(), entries: map[key]*entry{}, perNet: map[key]*list.List{}}
	if l.cfg.Store == nil {
		return l, nil
	}
	if err := l.load(ctx); err != nil {
		return nil, fmt.Errorf("greylist: %w", err)
	}
	l.upkeep = upkeep.New(ctx)
	l.upkeep.Save(l.cfg.SaveEvery, l.cfg.Log, "the greylist", l.save)
	return l, nil
}

// Close stores what has changed. Nothing may be checked after it.
func (l *List) Close(ctx context.Context) error {
	if l.upkeep == nil {
		return nil
	}
	l.upkeep.Close()
	return l.save(ctx)
}

// save stores the parts that have changed.
func (l *List) save(ctx context.Context) error {
	l.mu.Lock()
	dirty := l.dirty
	l.dirty = [shards]bool{}
	var parts [shards][]byte
	for _, order := range []*list.List{&l.waiting, &l.known} {
		for el := order.Front(); el != nil; el = el.Next() {
			e := el.Value.(*entry)
			if i := shardOf(e.key); dirty[i] {
				parts[i] = appendRecord(parts[i], e)
			}
		}
	}
	l.mu.Unlock()

	var errs []error
	for i := range parts {
		if !dirty[i] {
			continue
		}
		if err := l.cfg.Store.Put(ctx, shardKey(i), append([]byte{version}, parts[i]...)); err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			l.dirty[i] = true
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func appendRecord(b []byte, e *entry) []byte {
	b = append(b, e.key[:]...)
	b = append(b, e.net[:]...)
	b = binary.BigEndian.AppendUint64(b, seconds(e.first))
	b = binary.BigEndian.AppendUint64(b, seconds(e.last))
	return binary.BigEndian.AppendUint32(b, e.passes)
}

func (l *List) load(ctx context.Context) error {
	var all []*entry
	for i := range shards {
		b, err := l.cfg.Store.Get(ctx, shardKey(i))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		entries, err := readRecords(b, i)
		if err != nil {
			l.cfg.Log.Warn("a part of the greylist cannot be read and is begun anew", "key", shardKey(i), "err", err)
		}
		all = append(all, entries...)
	}
	// In the order in which they would have come.
	slices.SortFunc(all, func(a, b *entry) int {
		return cmp.Or(a.last.Compare(b.last), slices.Compare(a.key[:], b.key[:]))
	})
	for _, e := range all {
		l.add(e)
	}
	l.dirty = [shards]bool{}
	l.expire(l.cfg.Now())
	return nil
}

// readRecords reads a part; entries that do not belong into it are an error.
func readRecords(b []byte, shard int) ([]*entry, error) {
	if len(b) == 0 || b[0] != version {
		return nil, errors.New("it is of another version")
	}
	b = b[1:]
	if len(b)%recordSize != 0 {
		return nil, fmt.Errorf("%d bytes are not a number of records", len(b))
	}
	var entries []*entry
	seen := map[key]bool{}
	for ; len(b) > 0; b = b[recordSize:] {
		e := &entry{
			key:    key(b[:16]),
			net:    key(b[16:32]),
			first:  time.Unix(int64(binary.BigEndian.Uint64(b[32:])), 0),
			last:   time.Unix(int64(binary.BigEndian.Uint64(b[40:])), 0),
			passes: binary.BigEndian.Uint32(b[48:]),
		}
		if shardOf(e.key) != shard || seen[e.key] {
			return nil, errors.New("a record does not belong here")
		}
		seen[e.key] = true
		entries = append(entries, e)
	}
	return entries, nil
}
