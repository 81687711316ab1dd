package dnsserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// copyStore keeps a copied zone, so that it can be served after a restart while
// no primary can be reached: all records at some time in
// dns/zones/{zone}/copy/{generation}-{part}, each change since then in
// dns/zones/{zone}/copy/{generation}-change-{number}, both in the form of the
// wire, and in dns/zones/{zone}/copy/state which of these count. When a primary
// was heard last is in dns/zones/{zone}/copy/checked.
type copyStore struct {
	store   *storage.Store // nil: nothing is kept
	prefix  string
	state   copyState
	changes int  // kept since
	grown   int  // octets of them
	size    int  // octets of the parts
	broken  bool // what is kept does not go with the zone
}

type copyState struct {
	Generation uint64 `json:"generation"`
	Parts      int    `json:"parts"`
}

// maxKeptChanges is after how many the zone is written anew.
const maxKeptChanges = 256

func newCopyStore(store *storage.Store, zone string) copyStore {
	j := newJournal(store, zone)
	return copyStore{store: store, prefix: j.prefix + "copy/"}
}

func (s *copyStore) part(i int) string {
	return fmt.Sprintf("%s%d-%d", s.prefix, s.state.Generation, i)
}

func (s *copyStore) change(i int) string {
	return fmt.Sprintf("%s%d-change-%d", s.prefix, s.state.Generation, i)
}

// load reads the zone, or returns nil if none is kept.
func (s *copyStore) load(ctx context.Context, name string) (z *zone, checked time.Time, err error) {
	if s.store == nil {
		return nil, checked, nil
	}
	text, err := s.store.Get(ctx, s.prefix+"state")
	if errors.Is(err, storage.ErrNotFound) {
		return nil, checked, nil
	}
	if err != nil {
		return nil, checked, err
	}
	s.broken = true
	if err := json.Unmarshal(text, &s.state); err != nil {
		return nil, checked, fmt.Errorf("%sstate: %w", s.prefix, err)
	}
	var records []record
	for i := range s.state.Parts {
		list, size, err := s.read(ctx, s.part(i))
		if err != nil {
			return nil, checked, err
		}
		records = append(records, list...)
		s.size += size
	}
	if z, err = newCopy(name, records, nil); err != nil {
		return nil, checked, err
	}
	for {
		list, size, err := s.read(ctx, s.change(s.changes))
		if errors.Is(err, storage.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, checked, err
		}
		if z, err = z.changed([]*delta{deltaOf(name, list)}); err != nil {
			return nil, checked, err
		}
		s.changes++
		s.grown += size
	}
	if text, err := s.store.Get(ctx, s.prefix+"checked"); err == nil {
		if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			checked = time.Unix(n, 0)
		}
	}
	s.broken = false
	return z, checked, nil
}

// read reads the records of a value.
func (s *copyStore) read(ctx context.Context, key string) (list []record, size int, err error) {
	wire, err := s.store.Get(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	for at := 0; at < len(wire); {
		r, next, err := readRecord(wire, at)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", key, err)
		}
		list = append(list, r.record)
		at = next
	}
	return list, len(wire), nil
}

// deltaOf returns the change that records say in the order of a transfer.
func deltaOf(name string, list []record) *delta {
	d := &delta{zone: name}
	soas := 0
	for _, r := range list {
		if r.rtype == dns.TypeSOA {
			soas++
		}
		if soas < 2 {
			d.gone = append(d.gone, r)
		} else {
			d.come = append(d.come, r)
		}
	}
	return d
}

// keepChanges keeps changes that led to z.
func (s *copyStore) keepChanges(ctx context.Context, z *zone, deltas []*delta) error {
	if s.store == nil {
		return nil
	}
	if s.broken || s.state.Parts == 0 || s.changes+len(deltas) > maxKeptChanges || s.grown > max(s.size, 64<<10) {
		return s.keep(ctx, z)
	}
	for _, d := range deltas {
		var wire []byte
		for _, list := range [][]record{d.gone, d.come} {
			for i := range list {
				wire = appendRecordTail(append(wire, list[i].name...), &list[i])
			}
		}
		if len(wire) > partSize {
			return s.keep(ctx, z)
		}
		s.broken = true
		if err := s.store.Put(ctx, s.change(s.changes), wire); err != nil {
			return err
		}
		s.broken = false
		s.changes++
		s.grown += len(wire)
	}
	return nil
}

// keep keeps all of a zone, and forgets what was kept before.
func (s *copyStore) keep(ctx context.Context, z *zone) error {
	if s.store == nil {
		return nil
	}
	s.broken = true
	next := copyStore{store: s.store, prefix: s.prefix, state: copyState{Generation: s.state.Generation + 1}}
	var wire []byte
	write := func() error {
		if len(wire) == 0 {
			return nil
		}
		next.state.Parts++
		next.size += len(wire)
		err := s.store.Put(ctx, next.part(next.state.Parts-1), wire)
		wire = wire[:0]
		return err
	}
	// Leftovers of a write that did not come to its end would be taken for
	// changes.
	if err := next.forgetOthers(ctx, s.state.Generation); err != nil {
		return err
	}
	for r := range z.records() {
		if wire = appendRecordTail(append(wire, r.name...), &r); len(wire) > partSize {
			if err := write(); err != nil {
				return err
			}
		}
	}
	if err := write(); err != nil {
		return err
	}
	text, err := json.Marshal(next.state)
	if err != nil {
		return err
	}
	if err := s.store.Put(ctx, s.prefix+"state", text); err != nil {
		return err
	}
	*s = next
	return s.forgetOthers(ctx, s.state.Generation)
}

// forgetOthers deletes what belongs to other generations.
func (s *copyStore) forgetOthers(ctx context.Context, generation uint64) error {
	var others []string
	for key, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(key, s.prefix)
		if number, _, ok := strings.Cut(name, "-"); ok && number != strconv.FormatUint(generation, 10) {
			others = append(others, key)
		}
	}
	for _, key := range others {
		if err := s.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// keepChecked keeps when a primary was heard.
func (s *copyStore) keepChecked(ctx context.Context, at time.Time) error {
	if s.store == nil {
		return nil
	}
	return s.store.Put(ctx, s.prefix+"checked", strconv.AppendInt(nil, at.Unix(), 10))
}

// drop forgets all that is kept.
func (s *copyStore) drop(ctx context.Context) error {
	if s.store == nil {
		return nil
	}
	var keys []string
	for key, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := s.store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}
