package warmup

import (
	"cmp"
	"slices"
	"time"
)

// Stats is a snapshot, to be shown as JSON.
type Stats struct {
	// Addresses are those of the pools, and one without an address for mail
	// that no pool is for, if there was any.
	Addresses []AddressStats `json:"addresses"`
	// Providers sums over all addresses.
	Providers map[string]ProviderStats `json:"providers"`
}

// AddressStats is what is known of an address.
type AddressStats struct {
	Address string `json:"address"`
	Pool    string `json:"pool"`
	HELO    string `json:"helo"`
	// Warm is set by configuration.
	Warm bool `json:"warm"`
	Stage
	ProviderStats
	// Providers has the lanes that were used.
	Providers map[string]LaneStats `json:"providers"`
}

// LaneStats is what is known of an address at a provider.
type LaneStats struct {
	Stage
	ProviderStats
	// Held says why today does not count, or is empty. SteppedBack says that
	// it has cost days of the schedule, too.
	Held        string `json:"held"`
	SteppedBack bool   `json:"steppedBack"`
}

// Stage is where a warm-up stands.
type Stage struct {
	// Day is the day of the schedule, from 1 on, of Days; after them it is warm
	// and Day is 0.
	Day  int `json:"day"`
	Days int `json:"days"`
	// Limit is today's number, 0 if there is none, and Today what was sent.
	Limit int `json:"limit"`
	Today int `json:"today"`
}

// ProviderStats is recent traffic.
type ProviderStats struct {
	// LastHour and LastDay count what happened in the last hour and the last 24.
	LastHour Counts `json:"lastHour"`
	LastDay  Counts `json:"lastDay"`
	// Rates and Score, 0 to 100, are of the last 24 hours.
	Rates Rates `json:"rates"`
	Score int   `json:"score"`
}

// rated fills in what follows from the counts.
func (s *ProviderStats) rated() { s.Rates, s.Score = s.LastDay.Rates(), s.LastDay.Score() }

// Stats returns a snapshot.
func (p *Pools) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	s := Stats{Providers: map[string]ProviderStats{}}
	for _, a := range p.addresses {
		if !a.ip.IsValid() && len(a.lanes) == 0 {
			continue
		}
		s.Addresses = append(s.Addresses, p.addressStats(a, now, s.Providers))
	}
	for name, all := range s.Providers {
		all.rated()
		s.Providers[name] = all
	}
	slices.SortFunc(s.Addresses, func(a, b AddressStats) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Address, b.Address))
	})
	return s
}

func (p *Pools) addressStats(a *address, now time.Time, providers map[string]ProviderStats) AddressStats {
	s := AddressStats{Pool: a.pool, HELO: a.helo, Warm: a.warm, Providers: map[string]LaneStats{}}
	if a.ip.IsValid() {
		s.Address = a.ip.String()
	}
	a.total.turn(dayOf(now), p.schedule)
	s.Stage = p.stage(a, a.total)
	for name := range a.lanes {
		l := p.lane(a, name)
		one := LaneStats{Stage: p.stage(a, l), Held: l.held, SteppedBack: l.back}
		one.LastHour, one.LastDay = l.hour.sum(now), l.day.sum(now)
		one.rated()
		s.Providers[name] = one

		all := providers[name]
		for _, sum := range []*ProviderStats{&s.ProviderStats, &all} {
			sum.LastHour.add(one.LastHour)
			sum.LastDay.add(one.LastDay)
		}
		providers[name] = all
	}
	s.rated()
	return s
}

func (p *Pools) stage(a *address, l *lane) Stage {
	s := Stage{Days: len(p.schedule), Today: l.counts.Sent}
	if a.warm {
		return Stage{Today: s.Today}
	}
	if n := l.number(p.schedule); n != unlimited {
		s.Day, s.Limit = l.standing()+1, n
	}
	return s
}
