package keys

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/auth/dkim"
	"github.com/dcrouter/dcrouter/storage"
)

// Errors about keys.
var (
	ErrNoDomain = errors.New("no such domain")
	ErrRotating = errors.New("a rotation is under way already: the new key waits for its record in DNS")
)

// Options of [Open].
type Options struct {
	// Domains has what is configured, by name: A-labels in lower case, without
	// final dot.
	Domains map[string]Config
	// Store keeps the keys. Without it they are made anew each time.
	Store *storage.Store
	Log   *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Publish brings the records of a domain that is Internal into DNS, with
	// these keys. It is called before anything is known of the keys, after each
	// change, and again after an error.
	Publish func(ctx context.Context, domain string, keys []Key) error
	// Seen reports whether the record of a key is in DNS, for domains that are
	// not Internal.
	Seen func(ctx context.Context, domain string, k Key) (bool, error)
	// Changed is told of domains whose keys are not what they were, or whose records
	// were published. It must not wait for anything. Nil is fine.
	Changed func(domain string)
}

// Manager has the keys of a set of domains. Its methods may be called from
// several goroutines.
type Manager struct {
	o        Options
	domains  map[string]*domain // never changes
	generate func(bits int) (*rsa.PrivateKey, error)

	wake   chan struct{}
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// domain is a domain and its keys.
type domain struct {
	name string
	cfg  Config

	now atomic.Pointer[snapshot]
	due atomic.Int64 // when to look at it, in nanoseconds since 1970; 0 is at once

	mu        sync.Mutex // held by whoever looks after the keys
	set       set
	revision  storage.Revision // of what is kept
	published []string         // the records that Publish brought into DNS last, nil before
	news      bool             // they were published since the last report
	wait      time.Duration    // until the next look, while something is missing
}

// snapshot is what others see of a domain.
type snapshot struct {
	signers []dkim.Signer
	keys    []Key
	err     error
}

// Intervals of the upkeep.
const (
	firstWait = time.Minute // where something is missing; twice as long each time
	maxWait   = time.Hour   // between two looks at a domain
	stepTime  = time.Minute // what DNS may take
	workers   = 4           // domains that are looked after at once
)

// Open reads the keys that are kept, with which mail is signed at once, and begins
// to look after them. It does not wait for new keys. Keys that cannot be read are
// logged, and left as they are: the domain signs nothing.
func Open(ctx context.Context, o Options) (*Manager, error) {
	m := newManager(o)
	for _, d := range m.domains {
		if err := m.load(ctx, d); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			m.fail(d, err)
			continue
		}
		d.show(nil)
	}
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.watch(ctx)
	m.done.Go(func() { m.run(ctx) })
	return m, nil
}

func newManager(o Options) *Manager {
	m := &Manager{o: o, domains: make(map[string]*domain, len(o.Domains)), generate: generateRSA, wake: make(chan struct{}, 1)}
	for name, cfg := range o.Domains {
		d := &domain{name: name, cfg: cfg}
		d.now.Store(new(snapshot))
		m.domains[name] = d
	}
	return m
}

// Close ends the upkeep. It waits for a key that is being made.
func (m *Manager) Close() error {
	m.cancel()
	m.done.Wait()
	return nil
}

// Signers returns the keys that sign a domain's mail now, nil if there are none.
// The slice belongs to the Manager.
func (m *Manager) Signers(domain string) []dkim.Signer {
	if d := m.domains[domain]; d != nil {
		return d.now.Load().signers
	}
	return nil
}

// Keys returns all keys of a domain, in the order in which they were made, and
// what last went wrong with them. The slice belongs to the Manager.
func (m *Manager) Keys(domain string) ([]Key, error) {
	d := m.domains[domain]
	if d == nil {
		return nil, ErrNoDomain
	}
	s := d.now.Load()
	return s.keys, s.err
}

// Rotate makes new keys for a domain, which sign as soon as their records are in
// DNS and have been for as long as others may remember that they were not.
func (m *Manager) Rotate(ctx context.Context, name string) error {
	return m.edit(ctx, name, func(d *domain, s *set) (bool, error) {
		list := s.lacking(m.o.Now(), &d.cfg, true)
		if len(list) == 0 {
			return false, ErrRotating
		}
		return true, s.make(list, m.o.Now(), &d.cfg, m.generate)
	})
}

// Import adds a private key in PEM (PKCS #8, or PKCS #1 for RSA) under a selector
// of its own. It goes through the states of a new one.
func (m *Manager) Import(ctx context.Context, name, selector string, text []byte) error {
	return m.edit(ctx, name, func(d *domain, s *set) (bool, error) {
		return true, s.add(selector, text, m.o.Now(), &d.cfg)
	})
}

// edit changes the keys of a domain and has a look taken at what comes of it.
func (m *Manager) edit(ctx context.Context, name string, apply func(*domain, *set) (bool, error)) error {
	d := m.domains[name]
	if d == nil {
		return ErrNoDomain
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := m.change(ctx, d, func(s *set) (bool, error) { return apply(d, s) }); err != nil {
		return fmt.Errorf("the DKIM keys of %s: %w", name, err)
	}
	d.show(nil)
	d.wait = 0
	m.look(d)
	return nil
}

// look has a domain looked after at once.
func (m *Manager) look(d *domain) {
	d.due.Store(0)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// watch has domains looked after whose keys somebody else has changed. Where a
// change is not reported, it is found within maxWait.
func (m *Manager) watch(ctx context.Context) {
	if m.o.Store == nil {
		return
	}
	events := m.o.Store.Watch(ctx, strings.TrimSuffix(prefix, "/"))
	m.done.Go(func() {
		for e, err := range events {
			if err != nil {
				if ctx.Err() == nil {
					m.o.Log.Debug("changes of DKIM keys by others are noticed late from now on", "err", err)
				}
				return
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(e.Key, prefix), "/")
			for _, d := range m.domains {
				if d.name == name || e.Type == storage.EventOverflow {
					m.look(d)
				}
			}
		}
	})
}

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

// show lets others see the keys as they are. The domain is locked.
func (d *domain) show(err error) {
	s := &snapshot{keys: d.set.public(), err: err}
	for i := range d.set {
		if k := &d.set[i]; k.state == Active {
			signer := dkim.Signer{Domain: d.name, Selector: k.selector, Key: k.private}
			if k.algorithm == RSA {
				s.signers = append([]dkim.Signer{signer}, s.signers...)
			} else {
				s.signers = append(s.signers, signer)
			}
		}
	}
	d.now.Store(s)
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

func (m *Manager) fail(d *domain, err error) {
	m.o.Log.Error("the DKIM keys of a domain cannot be read, and its mail is not signed", "domain", d.name, "err", err)
	d.now.Store(&snapshot{err: err})
}
