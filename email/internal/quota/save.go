package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// shards is how many parts the counts are stored in, so that a change writes one
// of them, and many changes few.
const shards = 16

func shardOf(key string) int {
	h := fnv.New32a()
	h.Write([]byte(key))
	return int(h.Sum32() % shards)
}

func shardKey(i int) string { return fmt.Sprintf("email/quota/%02d.json", i) }

// stored is a part as it is stored.
type stored map[string]storedCount

// storedCount has the slots that are not 0, by their number.
type storedCount struct {
	Hour map[int64]int `json:"hour"`
	Day  map[int64]int `json:"day"`
}

// Open reads the counts from cfg.Store and starts to keep them there. What cannot
// be read is logged and begun anew. The error is the store's.
func Open(ctx context.Context, cfg Config) (*Quota, error) {
	if cfg.SaveEvery <= 0 {
		cfg.SaveEvery = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	q := &Quota{cfg: cfg, counts: map[string]*count{}}
	q.SetLimits(cfg.Limits)
	if cfg.Store == nil {
		return q, nil
	}
	if err := q.load(ctx); err != nil {
		return nil, fmt.Errorf("quota: %w", err)
	}
	q.upkeep = upkeep.New(ctx)
	q.upkeep.Save(q.cfg.SaveEvery, q.cfg.Log, "the quotas", q.save)
	return q, nil
}

// Close stores what has changed. What is taken after it is not stored any more.
func (q *Quota) Close(ctx context.Context) error {
	if q.upkeep == nil {
		return nil
	}
	q.upkeep.Close()
	return q.save(ctx)
}

// save stores the parts that have changed.
func (q *Quota) save(ctx context.Context) error {
	q.saving.Lock()
	defer q.saving.Unlock()
	parts := q.changed()
	var errs []error
	for i, part := range parts {
		data, err := json.Marshal(part)
		if err == nil {
			err = q.cfg.Store.Put(ctx, shardKey(i), data)
		}
		if err != nil {
			errs = append(errs, err)
			q.mu.Lock()
			q.dirty[i] = true
			q.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// changed copies the parts that have changed, and takes them for stored.
func (q *Quota) changed() map[int]stored {
	q.mu.Lock()
	defer q.mu.Unlock()
	parts := map[int]stored{}
	for i, dirty := range q.dirty {
		if dirty {
			parts[i] = stored{}
		}
	}
	q.dirty = [shards]bool{}
	now := q.cfg.Now()
	for key, c := range q.counts {
		if part := parts[shardOf(key)]; part != nil {
			c.advance(now)
			part[key] = storedCount{c.hour.stored(), c.day.stored()}
		}
	}
	return parts
}

func (q *Quota) load(ctx context.Context) error {
	now := q.cfg.Now()
	for i := range shards {
		data, err := q.cfg.Store.Get(ctx, shardKey(i))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var part stored
		if err := json.Unmarshal(data, &part); err != nil {
			q.cfg.Log.Warn("a part of the quotas cannot be read and is begun anew", "key", shardKey(i), "err", err)
			continue
		}
		for key, s := range part {
			if c := q.counts[key]; c != nil {
				c.hour.load(s.Hour, now)
				c.day.load(s.Day, now)
			}
		}
	}
	return nil
}

func (r *ring) stored() map[int64]int {
	slots := map[int64]int{}
	for i := max(0, r.last-r.size()+1); i <= r.last; i++ {
		if n := *r.slot(i); n != 0 {
			slots[i] = n
		}
	}
	return slots
}

// load takes what is still in the span. What is of the future, by a clock that was
// set back, counts as of now.
func (r *ring) load(slots map[int64]int, now time.Time) {
	r.advance(now)
	for number, n := range slots {
		if number > r.last-r.size() && number >= 0 && n > 0 {
			*r.slot(min(number, r.last)) += n
			r.sum += n
		}
	}
}
