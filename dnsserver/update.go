package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Dynamic updates (RFC 2136), which must be signed (RFC 3007 section 2).

// updateTimeout bounds how long the storage may take with one.
const updateTimeout = 10 * time.Second

// updateError is a response code that ends an update.
type updateError int

func (e updateError) Error() string { return rcodeText(int(e)) }

// update makes a dynamic update, whole or not at all, and returns the response
// code.
func (t *transfers) update(q *query, from *asker) int {
	if q.qtype != dns.TypeSOA || q.qclass != dns.ClassINET {
		return dns.RcodeFormatError
	}
	name := lowerName(q.name)
	z := t.zones.get(name)
	switch {
	case z == nil:
		return dns.RcodeNotAuth
	case from.key == nil || z.copy != nil || !anyRule(z.peers.rules, from.key):
		if t.mayLog() {
			t.log.Debug("a dynamic update was refused", "zone", nameText(name), "remote", from.addr, "signed", from.key != nil)
		}
		return dns.RcodeRefused
	}
	signature, ok := readTSIG(q.wire, q.tsig)
	if !ok {
		return dns.RcodeFormatError
	}
	// What comes twice, as over UDP, is made once: also if somebody else sends
	// it again later on.
	done, rcode, again := t.updates.enter(string(signature.mac), t.now())
	if again {
		return rcode
	}
	rcode = dns.RcodeServerFailure
	defer func() { done(rcode) }()
	rcode = t.makeUpdate(z, q, from)
	return rcode
}

func anyRule(rules []updateRule, key *tsigKey) bool {
	for i := range rules {
		if rules[i].key == key {
			return true
		}
	}
	return false
}

func (t *transfers) makeUpdate(z *servedZone, q *query, from *asker) int {
	u, err := readUpdate(q, z.name)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), updateTimeout)
		defer cancel()
		_, err = z.update(ctx, func(e *zoneEdit) error {
			if err := u.check(e); err != nil {
				return err
			}
			if err := u.permitted(e, z.peers.rules, from.key); err != nil {
				return err
			}
			u.apply(e)
			return nil
		})
	}
	var code updateError
	var broken *ZoneError
	switch {
	case err == nil:
		return dns.RcodeSuccess
	case errors.As(err, &code):
		if code == dns.RcodeRefused {
			t.log.Info("a dynamic update was refused", "zone", nameText(z.name), "remote", from.addr, "key", nameText(from.key.name))
		}
		return int(code)
	case errors.As(err, &broken) && broken.Name != "":
		// The records would break the zone.
		t.log.Info("a dynamic update was refused", "zone", nameText(z.name), "remote", from.addr, "key", nameText(from.key.name), "err", err)
		return dns.RcodeRefused
	}
	t.log.Error("a dynamic update failed", "zone", nameText(z.name), "remote", from.addr, "err", err)
	return dns.RcodeServerFailure
}

// dynamicUpdate is an update message: prerequisites, then changes.
type dynamicUpdate struct {
	needs, changes []sentRecord
}

// readUpdate reads the records of an update, with the checks of RFC 2136
// sections 3.2 and 3.4.1 that need no look at the zone.
func readUpdate(q *query, zone string) (*dynamicUpdate, error) {
	u := new(dynamicUpdate)
	at := q.end
	for section, list := range []*[]sentRecord{&u.needs, &u.changes} {
		for range binary.BigEndian.Uint16(q.wire[6+2*section:]) {
			r, next, err := readRecord(q.wire, at)
			if err != nil {
				return nil, updateError(dns.RcodeFormatError)
			}
			at = next
			if !isBelow(r.name, zone) {
				return nil, updateError(dns.RcodeNotZone)
			}
			if section == 0 {
				err = r.checkNeed()
			} else {
				err = r.checkChange()
			}
			if err != nil {
				return nil, err
			}
			*list = append(*list, r)
		}
	}
	return u, nil
}

// checkNeed checks the form of a prerequisite (RFC 2136 section 3.2).
func (r *sentRecord) checkNeed() error {
	bad := r.ttl != 0
	switch r.class {
	case dns.ClassANY, dns.ClassNONE:
		bad = bad || r.data != "" || metaType(r.rtype) && r.rtype != dns.TypeANY
	case dns.ClassINET:
		bad = bad || metaType(r.rtype) || !r.whole()
	default:
		bad = true
	}
	if bad {
		return updateError(dns.RcodeFormatError)
	}
	return nil
}

// checkChange checks the form of a change (RFC 2136 section 3.4.1).
func (r *sentRecord) checkChange() error {
	bad := false
	switch r.class {
	case dns.ClassINET:
		bad = metaType(r.rtype) || !r.whole()
	case dns.ClassANY:
		bad = r.ttl != 0 || r.data != "" || metaType(r.rtype) && r.rtype != dns.TypeANY
	case dns.ClassNONE:
		bad = r.ttl != 0 || metaType(r.rtype) || !r.whole()
	default:
		bad = true
	}
	if bad {
		return updateError(dns.RcodeFormatError)
	}
	if ownType(r.rtype) {
		return updateError(dns.RcodeRefused)
	}
	return nil
}

// whole reports whether the data are what a zone file could have, so that they
// can be kept and read again.
func (r *record) whole() bool {
	if r.data == "" {
		return r.rtype == dns.TypeAPL || r.rtype == dns.TypeNULL || dns.TypeToString[r.rtype] == ""
	}
	again, err := parseText(r.text())
	return err == nil && again.rtype == r.rtype && canonicalData(r.rtype, again.data) == canonicalData(r.rtype, r.data)
}

// used reports whether a name has records (RFC 2136 section 3.2.4), those aside
// that come from signing.
func (n *node) used() bool {
	if n != nil {
		for i := range n.sets {
			if !ownType(n.sets[i].rtype) {
				return true
			}
		}
	}
	return false
}

// check checks the prerequisites (RFC 2136 section 3.2.5).
func (u *dynamicUpdate) check(e *zoneEdit) error {
	type setKey struct {
		name  string
		rtype uint16
	}
	want := make(map[setKey]map[string]bool)
	for i := range u.needs {
		r := &u.needs[i]
		n := e.node(e.nodeKey(r.name))
		set := (*rrset)(nil)
		if n != nil && r.rtype != dns.TypeANY {
			set = n.set(r.rtype)
		}
		switch {
		case r.class == dns.ClassINET:
			key := setKey{r.name, r.rtype}
			if want[key] == nil {
				want[key] = make(map[string]bool)
			}
			want[key][canonicalData(r.rtype, r.data)] = true
		case r.class == dns.ClassANY && r.rtype == dns.TypeANY && !n.used():
			return updateError(dns.RcodeNameError)
		case r.class == dns.ClassANY && r.rtype != dns.TypeANY && set == nil:
			return updateError(dns.RcodeNXRrset)
		case r.class == dns.ClassNONE && r.rtype == dns.TypeANY && n.used():
			return updateError(dns.RcodeYXDomain)
		case r.class == dns.ClassNONE && r.rtype != dns.TypeANY && set != nil:
			return updateError(dns.RcodeYXRrset)
		}
	}
	for key, data := range want {
		set := e.setAt(key.name, key.rtype)
		if set == nil || int(set.count) != len(data) {
			return updateError(dns.RcodeNXRrset)
		}
		for d := range set.data() {
			if !data[canonicalData(key.rtype, d)] {
				return updateError(dns.RcodeNXRrset)
			}
		}
	}
	return nil
}

// permitted checks that the key may make all of the changes (RFC 2136 section
// 3.3).
func (u *dynamicUpdate) permitted(e *zoneEdit, rules []updateRule, key *tsigKey) error {
	for i := range u.changes {
		r := &u.changes[i]
		if r.rtype != dns.TypeANY {
			if !allows(rules, key, r.name, r.rtype) {
				return updateError(dns.RcodeRefused)
			}
			continue
		}
		// All there is at the name; what the update itself has put there before
		// has been checked.
		if n := e.node(e.nodeKey(r.name)); n != nil {
			for j := range n.sets {
				if kept := n.key == "" && (n.sets[j].rtype == dns.TypeSOA || n.sets[j].rtype == dns.TypeNS); kept || ownType(n.sets[j].rtype) {
					continue
				}
				if !allows(rules, key, r.name, n.sets[j].rtype) {
					return updateError(dns.RcodeRefused)
				}
			}
		}
	}
	return nil
}

// apply makes the changes (RFC 2136 section 3.4.2).
func (u *dynamicUpdate) apply(e *zoneEdit) {
	for i := range u.changes {
		r := &u.changes[i]
		top := r.name == e.name
		switch r.class {
		case dns.ClassINET:
			u.add(e, &r.record)
		case dns.ClassANY:
			if top && (r.rtype == dns.TypeSOA || r.rtype == dns.TypeNS) {
				continue
			}
			c := change{kind: clearStep, record: record{name: r.name, rtype: r.rtype}}
			if r.rtype == dns.TypeANY {
				c.record.rtype = 0
			}
			e.apply(&c)
		case dns.ClassNONE:
			if r.rtype == dns.TypeSOA {
				continue
			}
			if top && r.rtype == dns.TypeNS {
				if set := e.setAt(r.name, dns.TypeNS); set != nil && set.count == 1 {
					continue // the last one stays
				}
			}
			e.remove(r.name, r.rtype, r.data)
		}
	}
}

// add adds a record, unless it does not go with those that are there: that is
// ignored (RFC 2136 section 3.4.2.2).
func (u *dynamicUpdate) add(e *zoneEdit, r *record) {
	n := e.node(e.nodeKey(r.name))
	switch {
	case r.rtype == dns.TypeSOA:
		if r.name != e.name || !serialAfter(soaSerial(r.data), e.serial()) {
			return
		}
	case n == nil:
	case r.rtype == dns.TypeCNAME:
		for i := range n.sets {
			if t := n.sets[i].rtype; t != dns.TypeCNAME && !ownType(t) {
				return
			}
		}
	case n.set(dns.TypeCNAME) != nil:
		return
	}
	e.add(r)
}

// updateLog remembers the updates of the last minutes by their signatures.
type updateLog struct {
	mu   sync.Mutex
	seen map[string]*loggedUpdate
	old  []*loggedUpdate // the oldest first
}

type loggedUpdate struct {
	signature string
	at        time.Time
	done      chan struct{}
	rcode     int
}

const (
	updatesKept    = 2 * tsigFudge * time.Second // a signature is good no longer than this
	maxUpdatesKept = 64 << 10
)

// enter begins an update. If it has been made before, it returns what came of
// it; otherwise done says that.
func (l *updateLog) enter(signature string, now time.Time) (done func(rcode int), rcode int, again bool) {
	l.mu.Lock()
	if l.seen == nil {
		l.seen = make(map[string]*loggedUpdate)
	}
	for len(l.old) > 0 && (len(l.old) >= maxUpdatesKept || now.Sub(l.old[0].at) > updatesKept) {
		l.forget(l.old[0])
		l.old = l.old[1:]
	}
	if u := l.seen[signature]; u != nil {
		l.mu.Unlock()
		<-u.done
		return nil, u.rcode, true
	}
	u := &loggedUpdate{signature: signature, at: now, done: make(chan struct{}), rcode: dns.RcodeServerFailure}
	l.seen[signature] = u
	l.old = append(l.old, u)
	l.mu.Unlock()
	return func(rcode int) {
		u.rcode = rcode
		close(u.done)
		if rcode == dns.RcodeServerFailure { // may be tried again
			l.mu.Lock()
			defer l.mu.Unlock()
			l.forget(u)
		}
	}, 0, false
}

func (l *updateLog) forget(u *loggedUpdate) {
	if l.seen[u.signature] == u {
		delete(l.seen, u.signature)
	}
}
