package dnsserver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/miekg/dns"
)

// copyEdit makes a version of a copied zone out of records as they were sent,
// with signatures and proofs of denial. Unlike a [zoneEdit] it keeps all of
// them as they are.
type copyEdit struct {
	e      *zoneEdit
	hashes trie // NSEC3 records, by the key of their first label
	sets   map[looseKey]*looseSet
}

// looseKey names a set. NSEC3 records have a place of their own: their names
// are none of the zone's (RFC 5155 section 7.2.8).
type looseKey struct {
	key   string
	rtype uint16
}

// looseSet is a set in the making.
type looseSet struct {
	ttl  uint32
	data map[string]string // by what makes data equal
	sigs map[string]record // by their data
}

var (
	errNotThere   = errors.New("a change takes out what is not there")
	errThere      = errors.New("a change adds what is there")
	errIterations = errors.New("its NSEC3 records have more iterations than this server computes, which is 500")
	errSetSize    = errors.New("it has more records of one name and type than fit into a message")
)

const (
	maxIterations = 500  // RFC 9276 section 3.2 lets anybody refuse more than 0
	maxSet        = 5000 // records of 12 octets fit into a message
)

// looseKeyOf returns the set that a record belongs to.
func (c *copyEdit) looseKeyOf(r *record) looseKey {
	k := looseKey{c.e.nodeKey(r.name), r.rtype}
	if r.rtype == dns.TypeRRSIG {
		k.rtype = uint16At(r.data, 0)
	}
	return k
}

// newCopy makes a zone of all its records, the SOA record first. It changes
// their order.
func newCopy(name string, records []record, counters *zoneCounters) (*zone, error) {
	c := &copyEdit{e: newZone(name)}
	if counters != nil {
		c.e.counters = counters
	}
	type keyed struct {
		looseKey
		record
	}
	list := make([]keyed, len(records))
	for i := range records {
		list[i] = keyed{c.looseKeyOf(&records[i]), records[i]}
	}
	slices.SortStableFunc(list, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.looseKey.rtype, b.looseKey.rtype))
	})
	for len(list) > 0 {
		set, n := &looseSet{}, 0
		for n < len(list) && list[n].looseKey == list[0].looseKey {
			if n++; n > maxSet {
				return nil, errSetSize
			}
			set.add(&list[n-1].record)
		}
		c.put(list[0].looseKey, set)
		list = list[n:]
	}
	return c.finish()
}

// changed makes the version of a copy that follows upon changes.
func (z *zone) changed(deltas []*delta) (*zone, error) {
	c := &copyEdit{e: z.change(), sets: make(map[looseKey]*looseSet)}
	if d, ok := z.denial.(*copiedNSEC3); ok {
		c.hashes = d.chain
	}
	for _, d := range deltas {
		for i := range d.gone {
			r := &d.gone[i]
			if !c.set(c.looseKeyOf(r)).remove(r) {
				return nil, fmt.Errorf("%s %s: %w", nameText(r.name), typeText(r.rtype), errNotThere)
			}
		}
		for i := range d.come {
			r := &d.come[i]
			if !c.set(c.looseKeyOf(r)).add(r) {
				return nil, fmt.Errorf("%s %s: %w", nameText(r.name), typeText(r.rtype), errThere)
			}
		}
	}
	for k, set := range c.sets {
		c.put(k, set)
	}
	return c.finish()
}

// set returns a set to change, as it is now.
func (c *copyEdit) set(k looseKey) *looseSet {
	if s := c.sets[k]; s != nil {
		return s
	}
	s := &looseSet{}
	c.sets[k] = s
	nodes := &c.e.nodes
	if k.rtype == dns.TypeNSEC3 {
		nodes = &c.hashes
	}
	if n := nodes.get(k.key); n != nil {
		if set := n.set(k.rtype); set != nil {
			set.records("", func(r record) bool { return s.add(&r) })
		}
	}
	return s
}

// add adds a record, and reports false if it is there already.
func (s *looseSet) add(r *record) bool {
	if r.rtype == dns.TypeRRSIG {
		if _, there := s.sigs[r.data]; there || len(s.sigs) == maxSet {
			return false
		}
		if s.sigs == nil {
			s.sigs = make(map[string]record, 1)
		}
		s.sigs[r.data] = *r
		return true
	}
	key := canonicalData(r.rtype, r.data)
	if _, there := s.data[key]; there || len(s.data) == maxSet {
		return false
	}
	if s.data == nil {
		s.data = make(map[string]string, 1)
	}
	s.data[key], s.ttl = r.data, r.ttl
	return true
}

// remove takes a record out, and reports whether it was there.
func (s *looseSet) remove(r *record) bool {
	if r.rtype == dns.TypeRRSIG {
		_, there := s.sigs[r.data]
		delete(s.sigs, r.data)
		return there
	}
	key := canonicalData(r.rtype, r.data)
	_, there := s.data[key]
	delete(s.data, key)
	return there
}

// put puts a set into its place. Signatures of nothing are left out.
func (c *copyEdit) put(k looseKey, s *looseSet) {
	set := newSet(k.rtype, s.ttl, slices.Collect(maps.Values(s.data)))
	if len(s.data) > 0 {
		var wire []byte
		for _, data := range slices.Sorted(maps.Keys(s.sigs)) {
			wire = appendRecord(wire, dns.TypeRRSIG, s.sigs[data].ttl, data)
		}
		set.sigs, set.signs = string(wire), uint16(len(s.sigs))
	}
	if k.rtype != dns.TypeNSEC3 {
		c.e.replace(k.key, set)
		return
	}
	if set.count == 0 {
		c.hashes.remove(c.e.edit, k.key)
		return
	}
	n := &node{key: k.key}
	c.hashes.put(c.e.edit, n.with(set))
}

// finish checks the zone and ends the edit.
func (c *copyEdit) finish() (*zone, error) {
	if err := c.e.check(); err != nil {
		return nil, err
	}
	d, err := newCopiedDenial(c.e, c.hashes)
	if err != nil {
		return nil, err
	}
	c.e.denial = d
	return c.e.finish(), nil
}
