package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// run looks after domains when they are due.
func (m *Manager) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-timer.C:
		}
		timer.Reset(m.round(ctx))
	}
}

// round looks after the domains that are due, and returns when to come back.
func (m *Manager) round(ctx context.Context) time.Duration {
	var working sync.WaitGroup
	slots := make(chan struct{}, workers)
	for _, d := range m.domains {
		if d.due.Load() > m.o.Now().UnixNano() {
			continue
		}
		slots <- struct{}{}
		working.Go(func() {
			m.step(ctx, d)
			<-slots
		})
	}
	working.Wait()
	next := maxWait
	for _, d := range m.domains {
		next = min(next, time.Unix(0, d.due.Load()).Sub(m.o.Now()))
	}
	return max(next, 0)
}

// step does what is due for a domain, and sets when to look at it next.
func (m *Manager) step(ctx context.Context, d *domain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due.Store(m.o.Now().Add(maxWait).UnixNano()) // unless it is changed meanwhile
	before := d.due.Load()
	err := m.upkeep(ctx, d)
	if ctx.Err() != nil {
		return
	}
	m.report(d, err)
	now := m.o.Now()
	limit := now.Add(maxWait)
	if err != nil || len(d.pending()) > 0 {
		d.wait = min(max(2*d.wait, firstWait), maxWait)
		limit = now.Add(d.wait)
	} else {
		d.wait = 0
	}
	at := d.set.next(&d.cfg, limit)
	if at.Before(now.Add(firstWait)) {
		at = now.Add(firstWait) // what is overdue could not be done
	}
	d.due.CompareAndSwap(before, at.UnixNano())
}

// upkeep brings the keys of a domain, and their records, to where they should be.
func (m *Manager) upkeep(ctx context.Context, d *domain) error {
	if err := m.load(ctx, d); err != nil {
		return err // what is published stays as it is, too
	}
	err := m.grow(ctx, d)
	asking, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	var seen []string
	var dnsErr error
	if d.cfg.Internal {
		seen, dnsErr = m.publish(asking, d)
	} else {
		seen, dnsErr = m.seen(asking, d)
	}
	if err = errors.Join(err, dnsErr); len(seen) == 0 {
		return err
	}
	return errors.Join(err, m.change(ctx, d, func(s *set) (bool, error) {
		changed := s.seen(seen, m.o.Now())
		return s.age(m.o.Now(), &d.cfg) || changed, nil
	}))
}

// grow makes what keys are missing and moves on those whose time has come.
func (m *Manager) grow(ctx context.Context, d *domain) error {
	trial := slices.Clone(d.set)
	if !trial.age(m.o.Now(), &d.cfg) && len(trial.lacking(m.o.Now(), &d.cfg, false)) == 0 {
		return nil // as nearly always: nobody is kept from anything
	}
	return m.change(ctx, d, func(s *set) (bool, error) {
		changed := s.age(m.o.Now(), &d.cfg)
		list := s.lacking(m.o.Now(), &d.cfg, false)
		if len(list) == 0 {
			return changed, nil
		}
		return true, s.make(list, m.o.Now(), &d.cfg, m.generate)
	})
}

// publish brings the records into DNS if they are not yet, and lists the keys that
// have waited for that.
func (m *Manager) publish(ctx context.Context, d *domain) (selectors []string, err error) {
	list := d.set.public()
	records := []string{} // not nil: that there is none is to be published as well
	for _, k := range list {
		records = append(records, k.Selector+" "+k.Record)
	}
	if d.published == nil || !slices.Equal(d.published, records) {
		if err := m.o.Publish(ctx, d.name, list); err != nil {
			return nil, fmt.Errorf("the records could not be published: %w", err)
		}
		d.published, d.news = records, true
	}
	for _, k := range d.pending() {
		selectors = append(selectors, k.Selector)
	}
	return selectors, nil
}

// seen lists the waiting keys whose records others have brought into DNS.
func (m *Manager) seen(ctx context.Context, d *domain) (selectors []string, err error) {
	for _, k := range d.pending() {
		ok, e := m.o.Seen(ctx, d.name, k)
		if e != nil {
			err = fmt.Errorf("looking for the record of %s: %w", k.Selector, e)
		}
		if ok {
			selectors = append(selectors, k.Selector)
		}
	}
	return selectors, err
}

func (d *domain) pending() (list []Key) {
	for _, k := range d.set.public() {
		if k.State == Pending {
			list = append(list, k)
		}
	}
	return list
}

func (s set) public() []Key {
	list := make([]Key, len(s))
	for i := range s {
		list[i] = s[i].public()
	}
	return list
}

// report logs what has changed since the last report, and shows it.
func (m *Manager) report(d *domain, err error) {
	old := d.now.Load()
	d.show(err)
	was := make(map[string]State)
	for _, k := range old.keys {
		was[k.Selector] = k.State
	}
	changed := d.news
	d.news = false
	for _, k := range d.now.Load().keys {
		if was[k.Selector] != k.State {
			changed = true
			m.o.Log.Info("a DKIM key has changed its state", "domain", d.name, "selector", k.Selector, "state", string(k.State))
		}
	}
	if changed && m.o.Changed != nil {
		m.o.Changed(d.name)
	}
	if err != nil && !errors.Is(err, errBusy) && (old.err == nil || old.err.Error() != err.Error()) {
		m.o.Log.Warn("the DKIM keys of a domain are not as they should be", "domain", d.name, "err", err)
	}
}
