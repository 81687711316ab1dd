package dnsserver

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// zone is one version of a zone. It is immutable; a change makes another one,
// see [zoneEdit].
type zone struct {
	name  string // of the top, wire
	key   string // of the top, which the keys of all nodes come after
	nodes trie
	top   *node // with SOA and NS
	// cuts is how many nodes below the top have NS or DNAME records: what is
	// below them is not ours to answer for. As long as there are none nobody
	// looks for them.
	cuts int
	// noData is the SOA record of negative answers, which may be remembered no
	// longer than its last field says (RFC 2308 section 3).
	noData rrset
	denial denial // nil: not signed

	counters *zoneCounters // of all versions
}

// nodeKey returns the key of a wire name in the zone.
func (z *zone) nodeKey(name string) string { return keyOf(name)[len(z.key):] }

// nameOf returns the wire name of a node.
func (z *zone) nameOf(n *node) string {
	return string(append(appendLabels(make([]byte, 0, len(n.key)+len(z.name)), n.key), z.name...))
}

// serial is that of the SOA record.
func (z *zone) serial() uint32 {
	soa := z.top.set(dns.TypeSOA)
	return uint32At(soa.wire, len(soa.wire)-20)
}

// records iterates over all records in canonical order of names, with
// signatures but without what only stands for others.
func (z *zone) records() iter.Seq[record] {
	return func(yield func(record) bool) {
		for n := range z.nodes.from("") {
			name := z.nameOf(n)
			for i := range n.sets {
				if !n.sets[i].records(name, yield) {
					return
				}
			}
		}
		if z.denial != nil {
			z.denial.records(z)(yield)
		}
	}
}

// contents is records with ALIAS records, which no other server could read.
func (z *zone) contents() iter.Seq[record] {
	return func(yield func(record) bool) {
		for n := range z.nodes.from("") {
			if set := n.set(typeALIAS); set != nil {
				for data := range set.data() {
					if !yield(record{z.nameOf(n), typeALIAS, set.ttl(), data}) {
						return
					}
				}
			}
		}
		z.records()(yield)
	}
}

// records yields the records and signatures of a set that is at name.
func (s *rrset) records(name string, yield func(record) bool) bool {
	if s.rtype == typeALIAS {
		return true
	}
	for _, wire := range []string{s.wire, s.sigs} {
		for len(wire) > 0 {
			end := recordHead + int(uint16At(wire, 10))
			if !yield(record{name, uint16At(wire, 2), uint32At(wire, 6), wire[recordHead:end]}) {
				return false
			}
			wire = wire[end:]
		}
	}
	return true
}

// zoneEdit is a new version of a zone in the making.
type zoneEdit struct {
	zone    // what it will be
	old     *zone
	edit    *edit
	touched map[string]bool // keys of the nodes that were looked at to be changed
	hashed  map[string]bool // keys of nodes of the NSEC3 chain that were changed
	err     error           // the first thing that could not be done
}

// change begins a new version.
func (z *zone) change() *zoneEdit {
	return &zoneEdit{zone: *z, old: z, edit: new(edit), touched: make(map[string]bool)}
}

// newZone begins the first version of a zone, which has no records yet.
func newZone(name string) *zoneEdit {
	key := keyOf(name)
	top := &node{}
	e := (&zone{name: name, key: key, top: top, counters: new(zoneCounters)}).change()
	e.nodes.put(e.edit, top)
	e.old = nil
	return e
}

// node returns what is at a key now, or nil.
func (e *zoneEdit) node(key string) *node { return e.nodes.get(key) }

// replace puts a set in the place of the one of its type, or takes that out if
// the set is empty. Names in between come and go as needed.
func (e *zoneEdit) replace(key string, set rrset) {
	e.touched[key] = true
	n := e.nodes.get(key)
	if n == nil {
		if set.count == 0 {
			return
		}
		n = &node{key: strings.Clone(key)} // without what it was cut from
		for up := key; up != ""; {
			up = parentKey(up)
			if e.nodes.get(up) != nil {
				break
			}
			e.nodes.put(e.edit, &node{key: up})
		}
	}
	if key != "" && (set.rtype == dns.TypeNS || set.rtype == dns.TypeDNAME) {
		if n.set(set.rtype) != nil {
			e.cuts--
		}
		if set.count > 0 {
			e.cuts++
		}
	}
	n = n.with(set)
	e.nodes.put(e.edit, n)
	if key == "" {
		e.top = n
	}
	for len(n.sets) == 0 && n.key != "" && !e.hasBelow(n.key) {
		e.nodes.remove(e.edit, n.key)
		n = e.nodes.get(parentKey(n.key))
	}
}

// hasBelow reports whether there are names below this one.
func (e *zoneEdit) hasBelow(key string) bool {
	for n := range e.nodes.below(key) {
		if n.key != key {
			return true
		}
	}
	return false
}

// add adds a record, and reports whether that changes anything. The set takes
// its TTL (RFC 2181 section 5.2).
func (e *zoneEdit) add(r *record) bool {
	key := e.nodeKey(r.name)
	var data []string
	if n := e.node(key); n != nil {
		if set := n.set(r.rtype); set != nil {
			same := false
			for d := range set.data() {
				if canonicalData(r.rtype, d) == canonicalData(r.rtype, r.data) {
					same = true
				} else {
					data = append(data, d)
				}
			}
			if same && set.ttl() == r.ttl {
				return false
			}
			if single(r.rtype) {
				data = nil
			}
		}
	}
	set := newSet(r.rtype, r.ttl, append(data, r.data))
	if len(set.wire) > maxSetSize {
		if e.err == nil {
			e.err = &ZoneError{Zone: nameText(e.name), Name: nameText(r.name), Err: fmt.Errorf("its %s records do not fit into a message", typeText(r.rtype))}
		}
		return false
	}
	e.replace(key, set)
	return true
}

// maxSetSize is the size of a set of records in octets, with room for what else
// there is in a message.
const maxSetSize = 60_000

// single reports whether there can be one record of a type at a name.
func single(rtype uint16) bool {
	return rtype == dns.TypeSOA || rtype == dns.TypeCNAME || rtype == dns.TypeDNAME || rtype == typeALIAS
}

// remove takes a record out, and reports whether it was there.
func (e *zoneEdit) remove(name string, rtype uint16, data string) bool {
	key := e.nodeKey(name)
	n := e.node(key)
	if n == nil {
		return false
	}
	set := n.set(rtype)
	if set == nil {
		return false
	}
	var rest []string
	for d := range set.data() {
		if canonicalData(rtype, d) != canonicalData(rtype, data) {
			rest = append(rest, d)
		}
	}
	if len(rest) == int(set.count) {
		return false
	}
	e.replace(key, newSet(rtype, set.ttl(), rest))
	return true
}

// setSerial changes the serial number.
func (e *zoneEdit) setSerial(serial uint32) {
	soa := e.top.set(dns.TypeSOA)
	for data := range soa.data() {
		b := []byte(data)
		at := len(b) - 20
		b[at], b[at+1], b[at+2], b[at+3] = byte(serial>>24), byte(serial>>16), byte(serial>>8), byte(serial)
		e.replace("", newSet(dns.TypeSOA, soa.ttl(), []string{string(b)}))
		return
	}
}

// check reports what makes the new version none that can be served. Only what
// has changed is looked at.
func (e *zoneEdit) check() error {
	if e.err != nil {
		return e.err
	}
	soa := e.top.set(dns.TypeSOA)
	if soa == nil {
		return &ZoneError{Zone: nameText(e.name), Err: fmt.Errorf("it has no SOA record at its top")}
	}
	for key := range e.touched {
		n := e.node(key)
		if n == nil {
			continue
		}
		if err := e.checkNode(n); err != nil {
			return &ZoneError{Zone: nameText(e.name), Name: nameText(e.nameOf(n)), Err: err}
		}
	}
	return nil
}

// checkNode reports what the records at a name break the rules of RFC 1034
// section 3.6.2, RFC 2181 section 10 and RFC 6672 section 2.4 with.
func (e *zoneEdit) checkNode(n *node) error {
	for i := range n.sets {
		s := &n.sets[i]
		switch s.rtype {
		case dns.TypeCNAME:
			for j := range n.sets {
				if t := n.sets[j].rtype; t != dns.TypeCNAME && t != dns.TypeNSEC {
					return fmt.Errorf("it has a CNAME record, and so can have no %s record", typeText(t))
				}
			}
		case dns.TypeSOA:
			if n.key != "" {
				return fmt.Errorf("a SOA record belongs at the top of a zone")
			}
		case dns.TypeDNAME:
			if n.key != "" && n.set(dns.TypeNS) != nil {
				return fmt.Errorf("it has a DNAME record, and so can have no NS record")
			}
		case typeALIAS:
			if n.set(dns.TypeNS) != nil && n.key != "" {
				return fmt.Errorf("it has an ALIAS record, and so can have no NS record")
			}
		}
	}
	return nil
}

// finish ends the edit. The zone that it returns must not be changed any more.
func (e *zoneEdit) finish() *zone {
	soa := e.top.set(dns.TypeSOA)
	e.noData = *soa
	for data := range soa.data() {
		minimum := uint32At(data, len(data)-4)
		e.noData = newSet(dns.TypeSOA, min(soa.ttl(), minimum), []string{data})
	}
	e.noData.sigs, e.noData.signs = withTTL(soa.sigs, e.noData.ttl()), soa.signs
	z := e.zone
	return &z
}

// setChange is a set before and after a change; either may be empty.
type setChange struct {
	key           string
	before, after rrset
}

// changes returns what is different from the version before: one setChange for
// each set of which the records are not the same.
func (e *zoneEdit) changes() []setChange {
	var old, oldHashed, hashed *trie
	if e.old != nil {
		old, oldHashed = &e.old.nodes, hashedNames(e.old.denial)
	}
	list := appendChanges(nil, e.touched, old, &e.nodes)
	if hashed = hashedNames(e.denial); hashed != nil || oldHashed != nil {
		list = appendChanges(list, e.hashed, oldHashed, hashed)
	}
	return list
}

// appendChanges appends what is different at keys; either trie may be nil.
func appendChanges(list []setChange, keys map[string]bool, old, now *trie) []setChange {
	for _, key := range sortedKeys(keys) {
		var before, after []rrset
		if old != nil {
			if n := old.get(key); n != nil {
				before = n.sets
			}
		}
		if now != nil {
			if n := now.get(key); n != nil {
				after = n.sets
			}
		}
		for len(before) > 0 || len(after) > 0 {
			c := setChange{key: key}
			switch {
			case len(after) == 0 || len(before) > 0 && before[0].rtype < after[0].rtype:
				c.before, before = before[0], before[1:]
			case len(before) == 0 || after[0].rtype < before[0].rtype:
				c.after, after = after[0], after[1:]
			default:
				c.before, before = before[0], before[1:]
				c.after, after = after[0], after[1:]
			}
			if c.before.wire != c.after.wire || c.before.sigs != c.after.sigs {
				list = append(list, c)
			}
		}
	}
	return list
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func typeText(rtype uint16) string {
	if rtype == typeALIAS {
		return "ALIAS"
	}
	return dns.Type(rtype).String()
}

// ZoneError is what is wrong with the contents of a zone.
type ZoneError struct {
	Zone string // its top, with final dot
	File string // zone file, or ""
	Line int    // in File, or 0
	Name string // of the record, or ""
	Err  error
}

// Error names the place, then what is wrong there.
func (e *ZoneError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "zone %s", e.Zone)
	if e.File != "" {
		fmt.Fprintf(&b, ": %s", e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
	}
	if e.Name != "" && e.Name != e.Zone {
		fmt.Fprintf(&b, ": %s", e.Name)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns the cause.
func (e *ZoneError) Unwrap() error { return e.Err }
