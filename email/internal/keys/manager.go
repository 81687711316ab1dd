package keys

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
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

func (m *Manager) fail(d *domain, err error) {
	m.o.Log.Error("the DKIM keys of a domain cannot be read, and its mail is not signed", "domain", d.name, "err", err)
	d.now.Store(&snapshot{err: err})
}
