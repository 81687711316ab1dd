package dmarcrpt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// shards is how many parts the data is stored in, so that what changes is not
// written for each domain alone, nor all of it.
const shards = 32

func shardOf(domain string) int {
	h := fnv.New32a()
	h.Write([]byte(domain))
	return int(h.Sum32() % shards)
}

func shardKey(i int) string { return fmt.Sprintf("email/dmarc-reports/%02d.json", i) }

// stored is a domain as it is stored.
type stored struct {
	Day          int64       `json:"day"`
	Name         string      `json:"name"`
	Organization string      `json:"organization"`
	Policy       published   `json:"policy"`
	Aggregate    []string    `json:"rua"`
	Messages     int         `json:"messages"`
	Omitted      int         `json:"omitted,omitempty"`
	Sent         []string    `json:"sent,omitempty"`
	Rows         []storedRow `json:"rows"`
}

type storedRow struct {
	row
	Count int `json:"count"`
}

// save stores the parts that have changed.
func (r *Reporter) save(ctx context.Context) error {
	if r.cfg.Store == nil {
		return nil
	}
	r.saving.Lock()
	defer r.saving.Unlock()
	var errs []error
	for i := range shards {
		if err := r.saveShard(ctx, i); err != nil {
			errs = append(errs, err)
			r.mu.Lock()
			r.dirty[i] = true
			r.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func (r *Reporter) saveShard(ctx context.Context, i int) error {
	list, dirty := r.changed(i)
	if !dirty {
		return nil
	}
	if len(list) == 0 {
		return r.cfg.Store.Delete(ctx, shardKey(i))
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return r.cfg.Store.Put(ctx, shardKey(i), data)
}

// changed copies a part if it has changed, and takes it for stored.
func (r *Reporter) changed(i int) (list []stored, dirty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.dirty[i] {
		return nil, false
	}
	r.dirty[i] = false
	for _, e := range r.domains {
		if shardOf(e.name) != i {
			continue
		}
		s := stored{
			Day: e.day, Name: e.name, Organization: e.organization, Policy: e.policy, Aggregate: e.rua,
			Messages: e.messages, Omitted: e.omitted, Sent: e.sent,
		}
		for line, count := range e.rows {
			s.Rows = append(s.Rows, storedRow{line, count})
		}
		list = append(list, s)
	}
	return list, true
}

// load reads what is stored, but for days that nobody reports any more.
func (r *Reporter) load(ctx context.Context) error {
	if r.cfg.Store == nil {
		return nil
	}
	oldest := dayOf(r.cfg.Now().Add(-giveUp - 24*time.Hour))
	for i := range shards {
		data, err := r.cfg.Store.Get(ctx, shardKey(i))
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var list []stored
		if err := json.Unmarshal(data, &list); err != nil {
			r.cfg.Log.Warn("a part of the data of DMARC reports cannot be read and is lost", "key", shardKey(i), "err", err)
			continue
		}
		for _, s := range list {
			if s.Day < oldest {
				r.dirty[i] = true
				continue
			}
			r.insert(s.domain())
		}
	}
	return nil
}

func (s *stored) domain() *domain {
	e := &domain{
		key: key{s.Day, s.Name}, organization: s.Organization, policy: s.Policy, rua: s.Aggregate,
		rows: map[row]int{}, messages: s.Messages, omitted: s.Omitted, sent: s.Sent,
	}
	for _, line := range s.Rows {
		e.rows[line.row] = line.Count
	}
	return e
}
