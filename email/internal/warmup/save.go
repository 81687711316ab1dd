package warmup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/upkeep"
	"github.com/dcrouter/dcrouter/storage"
)

// stored is an address as it is stored.
type stored struct {
	Total storedLane            `json:"total"`
	Lanes map[string]storedLane `json:"lanes"`
}

type storedLane struct {
	Stage  int              `json:"stage"`
	Today  day              `json:"today"`
	Used   day              `json:"used"`
	Counts Counts           `json:"counts"`
	Held   string           `json:"held,omitempty"`
	Back   bool             `json:"back,omitempty"`
	Before int              `json:"before"`
	Hour   map[int64]Counts `json:"hour,omitempty"` // the slots that are not 0
	Day    map[int64]Counts `json:"day,omitempty"`
}

func (a *address) key() string {
	if !a.ip.IsValid() {
		return "email/warmup/default.json"
	}
	return "email/warmup/" + a.ip.String() + ".json"
}

// Open checks the settings, reads the state from cfg.Store and starts to keep it
// there. State that cannot be read is logged and begun anew. Errors are those of
// [Settings.Validate] and of the store.
func Open(ctx context.Context, cfg Config) (*Pools, error) {
	if cfg.SaveEvery <= 0 {
		cfg.SaveEvery = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p, err := newPools(cfg)
	if err != nil {
		return nil, err
	}
	for _, a := range p.addresses {
		if err := p.load(ctx, a); err != nil {
			return nil, fmt.Errorf("warmup: %w", err)
		}
	}
	if cfg.Store == nil {
		return p, nil
	}
	p.upkeep = upkeep.New(ctx)
	p.upkeep.Save(p.cfg.SaveEvery, p.cfg.Log, "the state of source addresses", p.save)
	return p, nil
}

// Close stores what has changed. What is taken after it is not stored any more.
func (p *Pools) Close(ctx context.Context) error {
	if p.upkeep == nil {
		return nil
	}
	p.upkeep.Close()
	return p.save(ctx)
}

// save stores the addresses that have changed.
func (p *Pools) save(ctx context.Context) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	var errs []error
	for a, s := range p.changed() {
		data, err := json.Marshal(s)
		if err == nil {
			err = p.cfg.Store.Put(ctx, a.key(), data)
		}
		if err != nil {
			errs = append(errs, err)
			p.mu.Lock()
			a.dirty = true
			p.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

// changed copies the addresses that have changed, and takes them for stored.
func (p *Pools) changed() map[*address]stored {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := map[*address]stored{}
	for _, a := range p.addresses {
		if !a.dirty {
			continue
		}
		a.dirty = false
		s := stored{Total: a.total.stored(), Lanes: map[string]storedLane{}}
		s.Total.Hour, s.Total.Day = nil, nil
		for name, l := range a.lanes {
			s.Lanes[name] = l.stored()
		}
		list[a] = s
	}
	return list
}

// load reads an address's state. Without any, days since the beginning of its
// warm-up count as used.
func (p *Pools) load(ctx context.Context, a *address) error {
	now := p.cfg.Now()
	var s stored
	found, err := p.read(ctx, a, &s)
	if err != nil {
		return err
	}
	if found {
		a.total.load(s.Total, p.schedule)
		for name, share := range p.shares {
			if one, ok := s.Lanes[name]; ok {
				l := newLane(share, now)
				l.load(one, p.schedule)
				a.lanes[name] = l
			}
		}
		return nil
	}
	if age := dayOf(now) - a.since; a.since > 0 && age > 0 {
		a.total.stage = min(int(age), len(p.schedule))
		for name, share := range p.shares {
			a.lanes[name] = newLane(share, now)
			a.lanes[name].stage = a.total.stage
		}
	}
	return nil
}

func (p *Pools) read(ctx context.Context, a *address, s *stored) (found bool, err error) {
	if p.cfg.Store == nil {
		return false, nil
	}
	data, err := p.cfg.Store.Get(ctx, a.key())
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, s); err != nil {
		p.cfg.Log.Warn("the state of a source address cannot be read and is begun anew", "key", a.key(), "err", err)
		return false, nil
	}
	return true, nil
}

func (l *lane) stored() storedLane {
	return storedLane{
		Stage: l.stage, Today: l.today, Used: l.used, Counts: l.counts, Held: l.held, Back: l.back, Before: l.before,
		Hour: l.hour.stored(), Day: l.day.stored(),
	}
}

// load takes over what was stored, by a schedule that may have been another.
func (l *lane) load(s storedLane, schedule []int) {
	l.stage = min(max(0, s.Stage), len(schedule))
	l.today, l.used, l.counts, l.held, l.back, l.before = s.Today, s.Used, s.Counts, s.Held, s.Back, s.Before
	l.hour.load(s.Hour)
	l.day.load(s.Day)
}

func (r *recent) stored() map[int64]Counts {
	slots := map[int64]Counts{}
	for i := max(0, r.last-r.size()+1); i <= r.last; i++ {
		if c := r.slots[i%r.size()]; c != (Counts{}) {
			slots[i] = c
		}
	}
	return slots
}

func (r *recent) load(slots map[int64]Counts) {
	for i := range slots {
		r.last = max(r.last, i)
	}
	for i, c := range slots {
		if i >= 0 && i > r.last-r.size() {
			r.slots[i%r.size()] = c
		}
	}
}
