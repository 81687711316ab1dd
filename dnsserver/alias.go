package dnsserver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// aliases keeps the addresses up to date that ALIAS records stand for. They are
// sets of the zone like others, signed and transferred, but not kept: after a
// restart they are looked up anew.
type aliases struct {
	resolver Resolver
	wake     chan struct{}
	slots    chan struct{} // of lookups
	retry    time.Duration // after an error

	mu   sync.Mutex
	list map[aliasID]*alias
}

type aliasID struct {
	zone *servedZone
	key  string
}

// alias is an ALIAS record.
type alias struct {
	target string // wire; "" if the record is gone, but not its addresses yet
	ttl    uint32
	due    time.Time
	busy   bool
	failed bool // at the last lookup
	put    [2]string
}

const (
	maxLookups  = 16 // at a time
	aliasRetry  = 30 * time.Second
	minAliasTTL = 30        // seconds
	maxAliasAge = time.Hour // between lookups
	noAddrsAge  = time.Minute

	longestLookup = 30 * time.Second
)

// aliasTypes are what an ALIAS record stands for.
func aliasTypes() [2]uint16 { return [2]uint16{dns.TypeA, dns.TypeAAAA} }

// look sees which ALIAS records there are after a change, or with d nil in the
// whole zone. It is called while the zone is locked.
func (a *aliases) look(z *servedZone, d *delta) {
	current := z.ref.current.Load()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.list == nil {
		a.list = make(map[aliasID]*alias)
	}
	see := func(key string, set *rrset) {
		id := aliasID{z, key}
		now := a.list[id]
		if set == nil || set.count == 0 {
			if now != nil && now.target != "" {
				now.target, now.due = "", time.Time{}
				a.hurry()
			}
			return
		}
		for target := range set.data() {
			if now == nil {
				now = &alias{}
				a.list[id] = now
			}
			if now.target != target || now.ttl != set.ttl() {
				now.target, now.ttl, now.due = target, set.ttl(), time.Time{}
				a.hurry()
			}
		}
	}
	if d != nil {
		for i := range d.sets {
			if c := &d.sets[i]; c.after.rtype == typeALIAS || c.before.rtype == typeALIAS {
				see(c.key, &c.after)
			}
		}
		return
	}
	for n := range current.nodes.from("") {
		if set := n.set(typeALIAS); set != nil {
			see(n.key, set)
		}
	}
	for id := range a.list {
		if id.zone == z {
			if n := current.nodes.get(id.key); n == nil || n.set(typeALIAS) == nil {
				see(id.key, nil)
			}
		}
	}
}

func (a *aliases) hurry() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// forget is for the end.
func (a *aliases) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.list)
}

// followAliases looks addresses up when they are due, until ctx ends.
func (t *transfers) followAliases(ctx context.Context) {
	a := &t.aliases
	for {
		now, next := time.Now(), time.Now().Add(maxAliasAge)
		type job struct {
			id aliasID
			alias
		}
		var jobs []job
		a.mu.Lock()
		for id, one := range a.list {
			switch {
			case one.busy:
			case !one.due.After(now):
				one.busy = true
				jobs = append(jobs, job{id, *one})
			case one.due.Before(next):
				next = one.due
			}
		}
		a.mu.Unlock()
		for _, j := range jobs {
			select {
			case a.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if !t.goes(func(ctx context.Context) {
				defer func() { <-a.slots }()
				t.followAlias(ctx, j.id, j.alias)
			}) {
				<-a.slots // of which there are no more after another start
				return
			}
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-a.wake:
			timer.Stop()
		}
	}
}

// followAlias looks the addresses of one ALIAS record up and puts them into the
// zone. What could not be looked up stays as it is.
func (t *transfers) followAlias(ctx context.Context, id aliasID, was alias) {
	ctx, cancel := context.WithTimeout(ctx, longestLookup)
	defer cancel()
	age := maxAliasAge
	var found [2]*rrset // nil: not known
	var errs []error
	for i, rtype := range aliasTypes() {
		if was.target == "" {
			found[i] = &rrset{rtype: rtype}
			continue
		}
		addrs, ttl, err := t.lookUpAlias(ctx, was.target, rtype)
		if err != nil {
			errs = append(errs, err)
			age = t.aliases.retry
			continue
		}
		set := rrset{rtype: rtype}
		if len(addrs) > 0 {
			seconds := max(min(int64(was.ttl), int64(ttl/time.Second)), minAliasTTL)
			set = newSet(rtype, uint32(seconds), addrData(addrs, rtype))
			age = min(age, max(ttl, minAliasTTL*time.Second))
		}
		found[i] = &set
	}
	if found[0] != nil && found[1] != nil && found[0].count+found[1].count == 0 {
		age = min(age, noAddrsAge)
	}
	put := was.put
	_, err := id.zone.derive(ctx, func(e *zoneEdit) error {
		n := e.node(id.key)
		if was.target != "" && !isAlias(n, was.target) {
			return errChanged
		}
		for i, set := range found {
			if set != nil && set.settle(e, id.key, was.put[i], was.target == "") {
				put[i] = set.wire
			}
		}
		return nil
	})
	if errors.Is(err, errChanged) {
		err = nil
	}
	if err = errors.Join(append(errs, err)...); err != nil && !was.failed && ctx.Err() == nil {
		t.log.Warn("the addresses of an ALIAS record could not be brought up to date", "zone", nameText(id.zone.name), "target", nameText(was.target), "err", err)
	}
	a := &t.aliases
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.list[id]
	if now == nil {
		return
	}
	now.busy, now.put, now.failed = false, put, err != nil
	switch {
	case now.target != was.target || now.ttl != was.ttl: // due at once
	case now.target == "" && err == nil:
		delete(a.list, id)
	default:
		now.due = time.Now().Add(age)
	}
	a.hurry()
}

// errChanged ends a lookup of which the record is not there any more.
var errChanged = errors.New("the record has changed")

func isAlias(n *node, target string) bool {
	if n != nil {
		if set := n.set(typeALIAS); set != nil {
			for data := range set.data() {
				return data == target
			}
		}
	}
	return false
}

// settle puts a set of addresses into the place of those there are, and reports
// whether it has. That their TTL is another one is no reason: with resolvers it
// is so each time. If the alias is gone, only what it has put is taken out.
func (s *rrset) settle(e *zoneEdit, key, put string, gone bool) bool {
	var now rrset
	n := e.node(key)
	if n != nil && n.set(s.rtype) != nil {
		now = *n.set(s.rtype)
	}
	if gone && (now.wire != put || n == nil || n.set(typeALIAS) != nil) {
		return false
	}
	if slices.Equal(slices.Collect(now.data()), slices.Collect(s.data())) && (now.count == 0 || now.ttl() <= s.ttl()) {
		return false
	}
	e.replace(key, *s)
	return true
}

// addrData returns addresses as record data, each once.
func addrData(addrs []netip.Addr, rtype uint16) []string {
	var list []string
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.Is4() == (rtype == dns.TypeA) && addr.IsValid() {
			list = append(list, string(addr.AsSlice()))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(len(list), maxAddrs)]
}

// lookUpAlias looks up addresses: in our own zones what is there, elsewhere by
// the resolver.
func (t *transfers) lookUpAlias(ctx context.Context, target string, rtype uint16) ([]netip.Addr, time.Duration, error) {
	for range maxChain {
		z, err := t.zones.find(target)
		if err != nil || z.ref.current.Load() == nil {
			break
		}
		r := t.zones.responder
		a, err := readAnswer(r.respond(r.newScratch(), nil, beginMessage(target, rtype, 0), &asker{transport: overTCP}))
		if err != nil {
			return nil, 0, err
		}
		addrs, name, ttl, err := a.addrs(target, rtype)
		if err != nil || len(addrs) > 0 {
			return addrs, ttl, err
		}
		if name == target {
			if a.flags&flagAA == 0 {
				break // it is delegated
			}
			return nil, 0, nil
		}
		target = name
	}
	return t.aliases.resolver.LookupAddrs(ctx, nameText(target), rtype)
}
