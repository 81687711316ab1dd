package dnsserver

import "iter"

// delta is what has changed from one version of a zone to the next, signatures
// included.
type delta struct {
	zone     string // wire name
	from, to uint32 // serials
	sets     []setChange
	// gone and come are records beside those of sets, or in their place where
	// the change was told so.
	gone, come []record
	size       int // octets, about
}

func newDelta(e *zoneEdit, from, to uint32) *delta {
	d := &delta{zone: e.name, from: from, to: to, sets: e.changes()}
	for i := range d.sets {
		c := &d.sets[i]
		d.size += 128 + len(c.before.wire) + len(c.before.sigs) + len(c.after.wire) + len(c.after.sigs)
	}
	return d
}

// removed iterates over the records that are gone.
func (d *delta) removed() iter.Seq[record] {
	return func(yield func(record) bool) {
		for i := range d.sets {
			if !d.only(d.sets[i].key, &d.sets[i].before, &d.sets[i].after, yield) {
				return
			}
		}
		for _, r := range d.gone {
			if !yield(r) {
				return
			}
		}
	}
}

// added iterates over the records that are new.
func (d *delta) added() iter.Seq[record] {
	return func(yield func(record) bool) {
		for i := range d.sets {
			if !d.only(d.sets[i].key, &d.sets[i].after, &d.sets[i].before, yield) {
				return
			}
		}
		for _, r := range d.come {
			if !yield(r) {
				return
			}
		}
	}
}

// only yields the records of a that are not in b.
func (d *delta) only(key string, a, b *rrset, yield func(record) bool) bool {
	other := make(map[string]bool)
	name := string(append(appendLabels(nil, key), d.zone...))
	b.records(name, func(r record) bool {
		other[r.data] = r.ttl == a.ttlOr(r.ttl)
		return true
	})
	return a.records(name, func(r record) bool { return other[r.data] || yield(r) })
}

// ttlOr returns the TTL of the set, or another if it is empty.
func (s *rrset) ttlOr(other uint32) uint32 {
	if s.count == 0 {
		return other
	}
	return s.ttl()
}

// growth is by how much a change that was told record by record makes a copy
// larger.
func (d *delta) growth() (n int) {
	for i := range d.come {
		n += d.come[i].cost()
	}
	for i := range d.gone {
		n -= d.gone[i].cost()
	}
	return n
}
