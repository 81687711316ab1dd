package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/storage"
)

// zones are the zones of a server and the one way to change them.
type zones struct {
	responder *responder
	store     *storage.Store // nil: changes are lost in the end
	log       *slog.Logger
	now       func() time.Time
	// published is told of each new version of a zone, in order, while the zone
	// is locked. d is nil where the two versions have nothing to do with each
	// other.
	published func(z *servedZone, d *delta)
	keys      keyring

	wake chan struct{} // for the upkeep
	// parentDS is what [WithParentDS] has set, or nil.
	parentDS func(ctx context.Context, zone string) ([]string, error)

	mu   sync.Mutex
	list map[string]*servedZone // by key
}

// servedZone is a zone under its name.
type servedZone struct {
	name string // wire
	ref  zoneRef
	all  *zones

	peers zonePeers
	copy  *zoneCopy // nil: this server is the source of the zone
	// catalog is set if the zone lists others, which are served then, and member
	// if it is in such a list itself.
	catalog *catalogConfig
	member  memberOf

	mu      sync.Mutex // held by whoever changes it
	journal journal
	history history
	signer  *signer   // nil: it is not signed here
	retryAt time.Time // of the upkeep alone
	// nextLook is when the upkeep looks at the zone next, in nanoseconds.
	nextLook atomic.Int64
	retired  bool // another Start has made it anew
}

// errSecondary keeps changes to where they belong.
var errSecondary = errors.New("the zone is a copy of another server's; change it there")

// unwritten names the zones of which something is being stored.
func (zs *zones) unwritten() string {
	var names []string
	for _, z := range zs.sorted() {
		if z.storing() {
			names = append(names, nameText(z.name))
		}
	}
	return strings.Join(names, ", ")
}

// storing reports whether something of the zone is being stored, or waits for
// that: all but copies are under a lock meanwhile.
func (z *servedZone) storing() bool {
	free := z.mu.TryLock()
	if free {
		z.mu.Unlock()
	}
	if free && z.signer != nil {
		if free = z.signer.mu.TryLock(); free {
			z.signer.mu.Unlock()
		}
	}
	return !free || z.copy != nil && z.copy.storing.Load()
}

// find returns the zone that a wire name is in.
func (zs *zones) find(name string) (*servedZone, error) {
	zs.mu.Lock()
	defer zs.mu.Unlock()
	for key := keyOf(name); ; key = parentKey(key) {
		if z := zs.list[key]; z != nil {
			return z, nil
		}
		if key == "" {
			return nil, fmt.Errorf("%s: %w", nameText(name), zs.absence())
		}
	}
}

// absence is why a zone is not there. zs.mu is held.
func (zs *zones) absence() error {
	if zs.list == nil {
		return ErrNotLoaded
	}
	return ErrNoZone
}

// get returns the zone of this name, or nil.
func (zs *zones) get(name string) *servedZone {
	zs.mu.Lock()
	defer zs.mu.Unlock()
	return zs.list[keyOf(name)]
}

// unsorted returns all zones.
func (zs *zones) unsorted() []*servedZone {
	zs.mu.Lock()
	defer zs.mu.Unlock()
	return slices.Collect(maps.Values(zs.list))
}

// sorted returns all zones, by name.
func (zs *zones) sorted() []*servedZone {
	list := zs.unsorted()
	slices.SortFunc(list, func(a, b *servedZone) int { return strings.Compare(nameText(a.name), nameText(b.name)) })
	return list
}

// put adds zones, takes others out, and makes that known to the responder.
func (zs *zones) put(add []*servedZone, remove ...*servedZone) {
	zs.mu.Lock()
	defer zs.mu.Unlock()
	for _, z := range remove {
		delete(zs.list, keyOf(z.name))
	}
	for _, z := range add {
		zs.list[keyOf(z.name)] = z
	}
	refs := make(map[string]*zoneRef, len(zs.list))
	for key, z := range zs.list {
		refs[key] = &z.ref
	}
	zs.responder.zones.Store(newZoneSet(refs))
}

// update changes a zone. What apply changes is checked, gets a serial number, is
// signed and kept, and is visible to the next query; or nothing of it, and there
// is an error. It returns the version that is served then.
func (z *servedZone) update(ctx context.Context, apply func(e *zoneEdit) error) (*zone, error) {
	return z.change(ctx, apply, true)
}

// derive is update for what can be found out again: it is not kept.
func (z *servedZone) derive(ctx context.Context, apply func(e *zoneEdit) error) (*zone, error) {
	return z.change(ctx, apply, false)
}

func (z *servedZone) change(ctx context.Context, apply func(e *zoneEdit) error, keep bool) (*zone, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.copy != nil {
		return nil, &ZoneError{Zone: nameText(z.name), Err: errSecondary}
	}
	old := z.ref.current.Load()
	if old == nil {
		return nil, fmt.Errorf("%s: %w", nameText(z.name), ErrNotLoaded)
	}
	e := old.change()
	if err := apply(e); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	if z.signer != nil {
		// Signing would undo it without a word.
		for _, rtype := range []uint16{dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY} {
			if !old.top.set(rtype).same(e.top.set(rtype)) {
				return nil, &ZoneError{Zone: nameText(z.name), Name: nameText(z.name), Err: errOwnType}
			}
		}
	}
	if old.top.set(dns.TypeNS) != nil && e.top.set(dns.TypeNS) == nil {
		return nil, &ZoneError{Zone: nameText(z.name), Err: errors.New("it would have no NS record at its top")}
	}
	// Who follows the zone takes a serial number that is not later for no news.
	if !serialAfter(e.serial(), old.serial()) {
		e.setSerial(old.serial())
	}
	changed := e.changes()
	if len(changed) == 0 {
		return old, nil
	}
	if !keep {
		changed = nil
	}
	return z.publish(ctx, e, changed)
}

// same reports whether two sets have the same records; either may be nil.
func (s *rrset) same(other *rrset) bool {
	if s == nil || other == nil {
		return s == other
	}
	return s.wire == other.wire
}

// renew has the zone signed anew where that is due.
func (z *servedZone) renew(ctx context.Context) (*zone, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	old := z.ref.current.Load()
	if old == nil {
		return nil, nil
	}
	return z.publish(ctx, old.change(), nil)
}

// publish brings an edit to its end. kept is what is to be found again after a
// restart.
func (z *servedZone) publish(ctx context.Context, e *zoneEdit, kept []setChange) (*zone, error) {
	if z.retired {
		return nil, fmt.Errorf("%s: %w", nameText(z.name), ErrNotLoaded)
	}
	from := e.old.serial()
	if e.serial() == from {
		e.setSerial(nextSerial(from))
	}
	if z.signer != nil {
		if err := z.signer.sign(e, z.all.now()); err != nil {
			return nil, &ZoneError{Zone: nameText(z.name), Err: fmt.Errorf("signing it: %w", err)}
		}
	}
	next := e.finish()
	d := newDelta(e, from, next.serial())
	if err := z.journal.append(ctx, next, kept); err != nil {
		return nil, &ZoneError{Zone: nameText(z.name), Err: err}
	}
	z.history.add(d)
	z.ref.current.Store(next)
	if z.signer != nil || z.journal.next-z.journal.state.Folded > foldAfter {
		z.look()
	}
	next.counters.updates.Add(1)
	if z.all.published != nil {
		z.all.published(z, d)
	}
	return next, nil
}

// replace makes a zone what another says, which is all of it but what signing
// adds, and need not be kept because it can be had again. What both have in
// common is taken over, so that others can follow by what has changed. The
// caller has locked the zone.
func (z *servedZone) replace(ctx context.Context, whole *zone, keepSerial bool) (*zone, error) {
	old := z.ref.current.Load()
	if old == nil {
		z.ref.current.Store(whole)
		if z.all.published != nil {
			z.all.published(z, nil)
		}
		return whole, nil
	}
	e := old.change()
	e.become(whole, keepSerial)
	if len(e.changes()) == 0 {
		return old, nil
	}
	return z.publish(ctx, e, nil)
}

// become replaces all sets that are different in another zone, signatures and
// what belongs to them aside.
func (e *zoneEdit) become(whole *zone, keepSerial bool) {
	serial := e.serial()
	for n := range whole.nodes.from("") {
		for _, set := range n.sets {
			before := rrset{}
			if old := e.node(n.key); old != nil {
				if s := old.set(set.rtype); s != nil {
					before = *s
				}
			}
			if before.wire != set.wire {
				e.replace(n.key, set)
			}
		}
	}
	for n := range e.old.nodes.from("") {
		other := whole.nodes.get(n.key)
		for _, set := range n.sets {
			if other != nil && other.set(typeALIAS) != nil && (set.rtype == dns.TypeA || set.rtype == dns.TypeAAAA) {
				continue // the alias looks after these
			}
			made := ownType(set.rtype) || e.denial != nil && keyType(set.rtype)
			if !made && (other == nil || other.set(set.rtype) == nil) {
				e.replace(n.key, rrset{rtype: set.rtype})
			}
		}
	}
	if !keepSerial {
		e.setSerial(serial)
	}
}

// nextSerial returns the serial number after another (RFC 1982). Zero is left
// out, which some take for none.
func nextSerial(serial uint32) uint32 { return max(serial+1, 1) }

// serialAfter reports whether a is later than b (RFC 1982 section 3.2).
func serialAfter(a, b uint32) bool { return int32(a-b) > 0 }

// update makes changes in all zones that they concern.
func (zs *zones) update(ctx context.Context, tx *Tx) error { return zs.change(ctx, tx, true) }

// derive is update for what can be found out again: it is not kept.
func (zs *zones) derive(ctx context.Context, tx *Tx) error { return zs.change(ctx, tx, false) }

func (zs *zones) change(ctx context.Context, tx *Tx, keep bool) error {
	list, err := tx.read()
	if err != nil {
		return err
	}
	type part struct {
		zone    *servedZone
		changes []change
	}
	var parts []*part
	byZone := make(map[*servedZone]*part)
	for _, c := range list {
		z, err := zs.find(c.record.name)
		if err != nil {
			return err
		}
		p := byZone[z]
		if p == nil {
			p = &part{zone: z}
			byZone[z], parts = p, append(parts, p)
		}
		p.changes = append(p.changes, c)
	}
	for i, p := range parts {
		_, err := p.zone.change(ctx, func(e *zoneEdit) error {
			for j := range p.changes {
				e.apply(&p.changes[j])
			}
			return nil
		}, keep)
		if err != nil {
			if i > 0 {
				err = fmt.Errorf("%w (the changes of %d other zones have been made)", err, i)
			}
			return err
		}
	}
	return nil
}

// history is the latest changes of a zone, for those who follow it (RFC 1995).
type history struct {
	mu     sync.Mutex
	deltas []*delta // the oldest first
	size   int
}

const (
	maxHistory     = 4096    // changes
	maxHistorySize = 4 << 20 // octets
)

func (h *history) add(d *delta) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deltas = append(h.deltas, d)
	h.size += d.size
	drop := 0
	for len(h.deltas)-drop > maxHistory || h.size > maxHistorySize && drop < len(h.deltas) {
		h.size -= h.deltas[drop].size
		drop++
	}
	if drop > 0 {
		h.deltas = slices.Clone(h.deltas[drop:])
	}
}

// since returns the changes that lead from a serial to the present, or false if
// the way is not known any more.
func (h *history) since(serial uint32) ([]*delta, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.deltas) - 1; i >= 0; i-- {
		if h.deltas[i].from == serial {
			return slices.Clone(h.deltas[i:]), true
		}
	}
	return nil, false
}
