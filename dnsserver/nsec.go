package dnsserver

import (
	"iter"
	"slices"

	"github.com/miekg/dns"
)

// nsecDenial proves by the NSEC records in the zone (RFC 4035 section 3.1.3).
// It is the same for all zones.
type nsecDenial struct{}

var _ denial = nsecDenial{}

// noData shows the types that the name has, or, if it has none, that the next
// name is below it.
func (nsecDenial) noData(m *message, z *zone, n *node) {
	m.prove(z, covering(z, n.key), dns.TypeNSEC)
}

// noName shows that neither the name nor a wildcard for it is in the zone.
func (nsecDenial) noName(m *message, z *zone, key []byte, encloser *node) {
	m.prove(z, covering(z, key), dns.TypeNSEC)
	star := append(append(m.starKey[:0], encloser.key...), starKey...)
	m.prove(z, covering(z, star), dns.TypeNSEC)
}

// wildcard shows that the name is not in the zone, and what the wildcard has.
func (nsecDenial) wildcard(m *message, z *zone, key []byte, _, star *node, found bool) {
	m.prove(z, covering(z, key), dns.TypeNSEC)
	if !found {
		m.prove(z, covering(z, star.key), dns.TypeNSEC)
	}
}

// insecure shows that the cut has no DS records.
func (nsecDenial) insecure(m *message, z *zone, cut *node) { m.prove(z, cut, dns.TypeNSEC) }

func (nsecDenial) records(*zone) iter.Seq[record] { return func(func(record) bool) {} }

// prove adds the set of a type at a node, with its signatures, once.
func (m *message) prove(z *zone, n *node, rtype uint16) {
	set := n.set(rtype)
	if set == nil { // would be a mistake of ours; no answer is better than a wrong one
		m.fail()
		return
	}
	for _, shown := range m.shown[:m.shows] {
		if shown == n {
			return
		}
	}
	if m.shows < len(m.shown) {
		m.shown[m.shows] = n
		m.shows++
	}
	if rtype == dns.TypeNSEC && n.key == string(m.key[len(z.key):]) {
		m.need(set, m.asked())
		return
	}
	m.need(set, owner{labels: appendLabels(m.labels[:0], n.key), at: m.zoneTop(z).at})
}

// covering returns the node of the NSEC chain at a key, or the last before it.
// Names without records and those below cuts are not in the chain.
func covering[K string | []byte](z *zone, key K) *node {
	n := floor(&z.nodes, key)
	for {
		if n.set(dns.TypeNSEC) != nil || n.key == "" {
			return n
		}
		if cut := z.cutAbove(n.key); cut != nil {
			return cut
		}
		if len(n.sets) > 0 {
			// A new one, while the chain is made; or in a copy one that its primary
			// has no proof for, of which there may be any number.
			return n
		}
		n = z.nodes.floor(beforeKey(n.key))
	}
}

// beforeKey is what floor takes to find the last key before one, which is not
// that of the top.
func beforeKey(key string) string { return key[:len(key)-1] }

// behindAll is a symbol that is greater than all in keys; see highRange.
const behindAll = "\x30"

// after returns the key of the next member of the chain.
func (p *signing) after(n *node) string {
	for key := n.key; ; {
		next := (*node)(nil)
		from := key + "\x00" // the least key that is greater
		if m := p.node(key); m != nil && isCut(m) {
			from = key + behindAll
		}
		for m := range p.nodes.from(from) {
			next = m
			break
		}
		if next == nil {
			return ""
		}
		if hasOwn(next) {
			return next.key
		}
		key = next.key
	}
}

// chainNSEC takes names out of the chain that do not belong there any more, and
// adds to the work those whose NSEC record has to change for others.
func (p *signing) chainNSEC() {
	var moved []string
	for key := range p.work {
		n := p.node(key)
		is := n != nil && hasOwn(n) && p.cutAbove(key) == nil
		was := false
		if before := p.old.nodes.get(key); before != nil {
			was = before.set(dns.TypeNSEC) != nil
		}
		if is != was {
			moved = append(moved, key)
		}
		if !is && n != nil && n.set(dns.TypeNSEC) != nil {
			p.replace(key, rrset{rtype: dns.TypeNSEC})
		}
	}
	for _, key := range moved {
		if key != "" {
			p.add(covering(&p.zone, beforeKey(key)).key)
		}
	}
}

// nsec makes the NSEC record of a node whose successor has the key next.
func (p *signing) nsec(n *node, next string) rrset {
	data := append(appendLabels(make([]byte, 0, 64), next), p.name...)
	data = appendTypes(data, n, dns.TypeRRSIG, dns.TypeNSEC)
	return rrset{rtype: dns.TypeNSEC, count: 1, wire: string(appendRecord(nil, dns.TypeNSEC, p.negTTL, string(data)))}
}

// appendTypes appends the bitmap of the types at a node (RFC 4034 section
// 4.1.2), and some more. It may be nil.
func appendTypes(dst []byte, n *node, more ...uint16) []byte {
	var room [64]uint16
	types := append(room[:0], more...)
	if n != nil {
		for i := range n.sets {
			if t := n.sets[i].rtype; t != typeALIAS && (!ownType(t) || t == dns.TypeNSEC3PARAM) && (!isDelegation(n) || t == dns.TypeNS || t == dns.TypeDS) {
				types = append(types, t)
			}
		}
	}
	slices.Sort(types)
	for i := 0; i < len(types); {
		window := byte(types[i] >> 8)
		var bits [32]byte
		size := 0
		for ; i < len(types) && byte(types[i]>>8) == window; i++ {
			at := int(types[i]&0xff) / 8
			bits[at] |= 0x80 >> (types[i] & 7)
			size = at + 1
		}
		dst = append(append(dst, window, byte(size)), bits[:size]...)
	}
	return dst
}

// negativeTTL is for how long others may remember that something is not there
// (RFC 9077 section 3).
func (z *zone) negativeTTL() uint32 {
	soa := z.top.set(dns.TypeSOA)
	return min(soa.ttl(), uint32At(soa.wire, len(soa.wire)-4))
}
