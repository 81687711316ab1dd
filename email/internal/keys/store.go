package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// The keys of a domain are at prefix/{domain}/keys.json. A key at
// prefix/{domain}/private.key is one that an operator put there, or an earlier
// system; it is taken over as the first one.
const (
	prefix   = "email/dkim/"
	keysFile = "/keys.json"
	oldFile  = "/private.key"
	version  = 1
)

// storedSet and storedKey are the form in which keys are kept.
type storedSet struct {
	Version int         `json:"version"`
	Keys    []storedKey `json:"keys"`
}

type storedKey struct {
	Selector  string    `json:"selector"`
	Algorithm string    `json:"algorithm"`
	Base      string    `json:"configuredSelector"`
	Bits      int       `json:"configuredBits"`
	State     State     `json:"state"`
	Created   time.Time `json:"created"`
	Since     time.Time `json:"since"`
	Private   string    `json:"private,omitempty"` // PEM
}

func (s set) encode() ([]byte, error) {
	out := storedSet{Version: version}
	for i := range s {
		k := &s[i]
		stored := storedKey{k.selector, k.algorithm, k.base, k.bits, k.state, k.created, k.since, ""}
		if k.private != nil {
			var err error
			if stored.Private, err = encode(k.private); err != nil {
				return nil, err
			}
		}
		out.Keys = append(out.Keys, stored)
	}
	return json.MarshalIndent(out, "", "\t")
}

// parse reads the form of encode. Its errors say nothing of the content.
func parse(data []byte) (set, error) {
	var in storedSet
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, errors.New("it is not JSON of the form that is written here")
	}
	if in.Version != version {
		return nil, fmt.Errorf("it is of version %d, and %d is known here", in.Version, version)
	}
	var s set
	for i, stored := range in.Keys {
		k := key{selector: stored.Selector, algorithm: stored.Algorithm, base: stored.Base, bits: stored.Bits, state: stored.State, created: stored.Created, since: stored.Since}
		switch k.state {
		case Revoked:
		case Pending, Published, Active, Retiring:
			private, algorithm, err := decode([]byte(stored.Private))
			if err == nil && algorithm != k.algorithm {
				err = fmt.Errorf("it is for %q and the private key is not", k.algorithm)
			}
			if err != nil {
				return nil, fmt.Errorf("keys[%d]: %w", i, err)
			}
			k.private = private
		default:
			return nil, fmt.Errorf("keys[%d]: the state %q is not known", i, k.state)
		}
		s = append(s, k)
	}
	return s, nil
}

// load reads the keys of a domain. Without storage they are what they are.
func (m *Manager) load(ctx context.Context, d *domain) error {
	if m.o.Store == nil {
		return nil
	}
	item, err := m.o.Store.GetItem(ctx, prefix+d.name+keysFile)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		d.set, d.revision = nil, ""
		return m.loadOld(ctx, d)
	case err != nil:
		return err
	case item.Revision == d.revision:
		return nil
	}
	s, err := parse(item.Value)
	if err != nil {
		return fmt.Errorf("the keys at %s%s%s cannot be read: %w", prefix, d.name, keysFile, err)
	}
	d.set, d.revision = s, item.Revision
	return nil
}

// loadOld takes a key over that was there before there were any of ours. It is
// kept with the first change.
func (m *Manager) loadOld(ctx context.Context, d *domain) error {
	text, err := m.o.Store.Get(ctx, prefix+d.name+oldFile)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = d.set.add(d.cfg.Selector, text, m.o.Now(), &d.cfg)
	}
	if err != nil {
		return fmt.Errorf("the key at %s%s%s: %w", prefix, d.name, oldFile, err)
	}
	return nil
}

// add adds a key from outside. Keys of its kind whose records nobody has seen
// give way to it.
func (s *set) add(selector string, text []byte, now time.Time, c *Config) error {
	private, algorithm, err := decode(text)
	if err != nil {
		return err
	}
	k := key{selector: selector, algorithm: algorithm, base: c.Selector, bits: c.Bits, state: Pending, created: now, since: now, private: private}
	*s = slices.DeleteFunc(*s, func(k key) bool { return k.algorithm == algorithm && k.state == Pending })
	if slices.ContainsFunc(*s, func(other key) bool { return other.selector == selector }) {
		return fmt.Errorf("there is a key with the selector %q already", selector)
	}
	*s = append(*s, k)
	return nil
}

// errBusy means that another Manager is changing the keys.
var errBusy = errors.New("the keys are being changed by somebody else")

// change applies a change to the keys of a domain and keeps it. The domain is
// locked.
func (m *Manager) change(ctx context.Context, d *domain, apply func(s *set) (bool, error)) error {
	if m.o.Store == nil {
		return d.apply(apply, func(set) error { return nil })
	}
	lease, err := m.o.Store.TryAcquire(ctx, prefix+d.name, 0)
	if errors.Is(err, storage.ErrLocked) {
		return errBusy
	}
	if err != nil {
		return err
	}
	defer func() {
		// If it cannot be given back it ends by itself.
		_ = lease.Release(context.WithoutCancel(ctx))
	}()
	if err := m.load(ctx, d); err != nil {
		return err
	}
	return d.apply(apply, func(s set) error {
		data, err := s.encode()
		if err != nil {
			return err
		}
		if err := lease.Err(); err != nil {
			return err
		}
		at := prefix + d.name + keysFile
		if d.revision == "" {
			d.revision, err = m.o.Store.Create(ctx, at, data)
		} else {
			d.revision, err = m.o.Store.CompareAndSwap(ctx, at, d.revision, data)
		}
		if err != nil {
			d.revision = "" // what is there is not known
		}
		return err
	})
}

// apply makes a change of a copy, which takes the place of the keys once it is
// kept.
func (d *domain) apply(change func(s *set) (bool, error), keep func(set) error) error {
	s := slices.Clone(d.set)
	changed, err := change(&s)
	if err != nil || !changed {
		return err
	}
	if err := keep(s); err != nil {
		return err
	}
	d.set = s
	return nil
}
