package dnsserver

import "sync/atomic"

// zoneSet is the zones that are served. It is immutable, but the zones in it
// change.
type zoneSet struct {
	zones map[string]*zoneRef // by key
	// depths has the numbers of labels that the names of zones have.
	depths [maxLabels]bool
}

// zoneRef is a zone under its name, whatever its version.
type zoneRef struct {
	current atomic.Pointer[zone] // nil: not there yet, or too old to be served
}

func newZoneSet(zones map[string]*zoneRef) *zoneSet {
	zs := &zoneSet{zones: zones}
	for key := range zones {
		zs.depths[labelsOf(key)] = true
	}
	return zs
}

// labelsOf returns the number of labels in a key, without that of the root.
func labelsOf(key string) int {
	n := 0
	for ; key != ""; key = parentKey(key) {
		n++
	}
	return n
}

// find returns the zone that the name of m belongs to, the nearest one above
// it, or nil. With above set the zone of that very name does not count, unless
// there is no other: DS records belong to the zone above (RFC 4035 section
// 3.1.4.1).
func (zs *zoneSet) find(m *message, above bool) *zoneRef {
	var same *zoneRef
	for i := m.ends.n; i >= 0; i-- {
		if !zs.depths[i] {
			continue
		}
		end := 0
		if i > 0 {
			end = int(m.ends.at[i-1])
		}
		ref := zs.zones[string(m.key[:end])]
		if ref == nil {
			continue
		}
		if above && i == m.ends.n && i > 0 {
			same = ref
			continue
		}
		return ref
	}
	return same
}
