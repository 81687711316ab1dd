package dnsserver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// maxChain is how many aliases an answer follows.
const maxChain = 16

// answer fills m with what zones say to the question, by the algorithm of RFC
// 1034 section 4.3.2 with the additions of RFC 4592 and RFC 6672. It writes the
// message as it goes and allocates nothing. It returns the zone that the
// question is for, or nil.
func (zs *zoneSet) answer(m *message, anyOverTCP bool) *zone {
	m.setName(questionAt)
	ref := zs.find(m, m.qtype == dns.TypeDS)
	if ref == nil {
		m.rcode = dns.RcodeRefused
		return nil
	}
	first := ref.current.Load()
	if first == nil {
		m.rcode = dns.RcodeServerFailure
		return nil
	}
	m.aa = true
	z := first
	for i := range maxChain {
		if !z.answer(m, anyOverTCP) || m.full || m.goesInCircle() {
			break
		}
		// Where the alias leads out of our zones, whoever asked goes on.
		next := zs.find(m, m.qtype == dns.TypeDS)
		if next == nil {
			break
		}
		m.versions[i] = version{ref, z}
		ref = next
		if z = m.versionOf(ref, i+1); z == nil {
			break
		}
	}
	m.proveStars()
	return first
}

// version is a zone as an answer has seen it first.
type version struct {
	of   *zoneRef
	zone *zone
}

// versionOf returns what is served of a zone, in the version that is among the
// first n of the answer if it is there.
func (m *message) versionOf(ref *zoneRef, n int) *zone {
	for _, v := range m.versions[:n] {
		if v.of == ref {
			return v.zone
		}
	}
	return ref.current.Load()
}

// goesInCircle reports whether the name that an alias has led to has been asked
// about before, and keeps it in mind otherwise.
func (m *message) goesInCircle() bool {
	for _, at := range m.hops[:m.hop] {
		if foldedEqual(m.b[m.base+int(at):], m.name) {
			return true
		}
	}
	if m.hop < len(m.hops) {
		m.hops[m.hop] = uint16(m.nameAt)
		m.hop++
	}
	return false
}

// answer adds what the zone says about the name of m. It reports whether that
// was an alias, of which m has now the name.
func (z *zone) answer(m *message, anyOverTCP bool) (again bool) {
	key := m.key[len(z.key):]
	n := z.nodes.getBytes(key)
	encloser, stars := z.top, false
	if n == nil || z.cuts > 0 || len(key) > 0 && z.top.set(dns.TypeDNAME) != nil {
		// Downwards from the top: whatever takes the names below it out of the
		// zone is found on the way.
		depth := 0 // of the top
		for depth < m.ends.n && int(m.ends.at[depth]) <= len(z.key) {
			depth++
		}
		for ; depth <= m.ends.n; depth++ {
			left := m.ends.n - depth // labels below encloser
			if left > 0 {
				if alias := encloser.set(dns.TypeDNAME); alias != nil {
					return z.substitute(m, encloser, alias, left)
				}
			}
			if encloser != z.top && encloser.set(dns.TypeNS) != nil && (left > 0 || m.qtype != dns.TypeDS) {
				z.refer(m, encloser, left)
				return false
			}
			if left == 0 {
				break
			}
			below := z.nodes.getBytes(key[:int(m.ends.at[depth])-len(z.key)])
			if below == nil {
				n = nil
				break
			}
			encloser = below
		}
	}
	if n == nil {
		star := append(append(m.starKey[:0], encloser.key...), starKey...)
		if n = z.nodes.getBytes(star); n == nil {
			m.rcode = dns.RcodeNameError
			if z.answerNSEC(m, nil, true) {
				return false
			}
			z.negative(m)
			if z.denial != nil && m.do {
				z.denial.noName(m, z, key, encloser)
			}
			return false
		}
		stars = true
	}
	return z.answerNode(m, n, encloser, stars, anyOverTCP)
}

// answerNode answers from a node. If stars is set it is the wildcard below
// encloser, and stands for the name.
func (z *zone) answerNode(m *message, n, encloser *node, stars, anyOverTCP bool) (again bool) {
	var found *rrset
	foundAt := m.len()
	switch m.qtype {
	case typeALIAS: // not for others
	case dns.TypeANY:
		found, foundAt = z.answerAny(m, n, stars, anyOverTCP)
	case dns.TypeRRSIG:
		for i := range n.sets {
			if s := &n.sets[i]; s.signs > 0 {
				if found = s; !m.do || !m.ledHere(n, s, stars) {
					m.need(&rrset{wire: s.sigs, count: s.signs}, m.asked())
				}
			}
		}
	default:
		if z.answerNSEC(m, n, false) {
			return false
		}
		if found = n.set(m.qtype); found != nil {
			z.needAsked(m, n, found, stars)
		}
	}
	if found == nil && m.qtype != dns.TypeNSEC && m.qtype != dns.TypeANY {
		if found = n.set(dns.TypeCNAME); found != nil {
			at := m.len() + recordHead
			z.needAsked(m, n, found, stars)
			again = !m.full && at <= 0x3fff
			if stars && z.denial != nil && m.do {
				m.stars[m.due] = starProof{z, encloser, n, m.nameAt}
				m.due++
			}
			if again {
				m.setName(at)
			}
			return again
		}
	}
	if found == nil {
		z.negative(m)
		switch {
		case z.denial == nil || !m.do:
		case stars:
			z.proveWildcard(m, encloser, n, false)
		default:
			z.denial.noData(m, z, n)
		}
		return false
	}
	m.proveStars()
	if stars {
		z.proveWildcard(m, encloser, n, true)
	}
	if m.qtype != dns.TypeRRSIG && (m.qtype != dns.TypeANY || !anyOverTCP) { // the set alone begins at foundAt
		z.addTargets(m, found, foundAt)
	}
	return false
}

// needAsked adds a set of the name that is asked about, or of the wildcard n that
// stands for it.
func (z *zone) needAsked(m *message, n *node, s *rrset, stars bool) {
	if m.ledHere(n, s, stars) {
		return
	}
	if compact, ok := z.denial.(*compactDenial); ok && stars && m.do {
		if s = compact.expand(m, z, s); s == nil {
			return
		}
	}
	m.need(s, m.asked())
}

// ledHere reports whether a set is the DNAME record of names below that have led
// here, and so in the answer already.
func (m *message) ledHere(n *node, s *rrset, stars bool) bool {
	return s.rtype == dns.TypeDNAME && !stars && slices.Contains(m.dnames[:m.dname], n)
}

// answerNSEC answers a question for an NSEC record that is made when it is asked
// for. missing is set if the name is not in the zone, and n is nil then.
func (z *zone) answerNSEC(m *message, n *node, missing bool) bool {
	compact, ok := z.denial.(*compactDenial)
	if !ok || m.qtype != dns.TypeNSEC || !m.do {
		return false
	}
	if missing {
		compact.noName(m, z, nil, nil)
	} else {
		compact.noData(m, z, n)
	}
	return true
}

// answerAny answers a question for any type: over UDP with one set, so that
// nobody can be flooded with the rest (RFC 8482 section 4.1). It returns the last
// one, and where that begins.
func (z *zone) answerAny(m *message, n *node, stars, all bool) (found *rrset, at int) {
	for i := range n.sets {
		s := &n.sets[i]
		if s.rtype == typeALIAS || s.rtype == dns.TypeNSEC && len(n.sets) > 1 {
			continue
		}
		found, at = s, m.len()
		if z.needAsked(m, n, s, stars); !all {
			break
		}
	}
	return found, at
}

// proveWildcard proves that there is no better match than a wildcard. The proof
// goes into the authority section also when answers follow.
func (z *zone) proveWildcard(m *message, encloser, star *node, found bool) {
	if z.denial == nil || !m.do {
		return
	}
	m.section = authoritySection
	z.denial.wildcard(m, z, m.key[len(z.key):], encloser, star, found)
}

// starProof is what is to be shown of a wildcard that an alias came from, when
// the answer section is complete.
type starProof struct {
	zone           *zone
	encloser, star *node
	at             int // of the name
}

// proveStars shows that there was nothing better than the wildcards that the
// answer has come by.
func (m *message) proveStars() {
	if m.due == 0 {
		return
	}
	at := m.nameAt
	for _, p := range m.stars[:m.due] {
		m.setName(p.at)
		p.zone.proveWildcard(m, p.encloser, p.star, true)
	}
	m.due = 0
	m.setName(at)
}

// negative adds what says how long it may be remembered that there is nothing
// (RFC 2308 section 3).
func (z *zone) negative(m *message) {
	m.proveStars()
	m.section = authoritySection
	m.need(&z.noData, m.zoneTop(z))
}

// substitute answers with a DNAME record, at the name that left labels are
// below, and the CNAME record that follows from it (RFC 6672 section 3.1).
func (z *zone) substitute(m *message, n *node, alias *rrset, left int) (again bool) {
	if !slices.Contains(m.dnames[:m.dname], n) {
		m.need(alias, m.above(left))
		m.dnames[m.dname] = n
		m.dname++
	}
	at := 0
	for range left {
		at += int(m.name[at]) + 1
	}
	for target := range alias.data() {
		if at+len(target) > maxName {
			m.rcode = dns.RcodeYXDomain
			return false
		}
		if m.full || m.len()+recordHead+at+len(target) > m.limit || m.nameAt > 0x3fff {
			m.full = true
			return false
		}
		head := m.len()
		var record [recordHead]byte
		copy(record[:], alias.wire[:recordHead])
		record[0], record[1] = 0xc0|byte(m.nameAt>>8), byte(m.nameAt)
		record[2], record[3] = 0, byte(dns.TypeCNAME)
		record[10], record[11] = byte((at+len(target))>>8), byte(at+len(target))
		m.b = append(m.b, record[:]...)
		m.b = append(m.b, m.name[:at]...)
		m.b = append(m.b, target...)
		m.counts[answerSection]++
		if m.qtype == dns.TypeCNAME || m.qtype == dns.TypeANY {
			return false
		}
		m.setName(head + recordHead)
		return true
	}
	return false
}

// refer answers with the name servers of the zone below cut, which is left
// labels above the name.
func (z *zone) refer(m *message, cut *node, left int) {
	if m.counts[answerSection] == 0 {
		m.aa = false
	}
	m.proveStars()
	m.section = authoritySection
	o := m.above(left)
	servers := cut.set(dns.TypeNS)
	dataAt := m.len()
	m.need(&rrset{wire: servers.wire, count: servers.count}, o)
	if m.do && z.denial != nil {
		if ds := cut.set(dns.TypeDS); ds != nil {
			m.need(ds, o)
		} else {
			z.denial.insecure(m, z, cut)
		}
	}
	if m.full {
		return
	}
	// Without the addresses of servers below the cut nobody could go on, so they
	// may not be missing (RFC 9471 section 3). Those of others may.
	m.section = additionalSection
	for _, needed := range []bool{true, false} {
		at := dataAt
		for server := range servers.data() {
			at += recordHead
			if n := z.nodeFor(m, server); n != nil && strings.HasPrefix(n.key, cut.key) == needed {
				m.addresses(n, at, needed)
			}
			at += len(server)
		}
	}
}

// addTargets adds the addresses of the names that a set points to, which begins
// at an offset of the message (RFC 1034 section 3.3.9, RFC 2782, RFC 9460
// section 4.2). Those of the first names will do.
func (z *zone) addTargets(m *message, s *rrset, at int) {
	skip := 0
	switch s.rtype {
	case dns.TypeNS:
	case dns.TypeMX, dns.TypeAFSDB, dns.TypeKX, dns.TypeSVCB, dns.TypeHTTPS:
		skip = 2
	case dns.TypeSRV:
		skip = 6
	default:
		return
	}
	if m.full {
		return
	}
	m.section = additionalSection
	for data := range s.data() {
		at += recordHead
		name := data[skip:]
		nameAt, service, alias := at+skip, s.rtype == dns.TypeSVCB || s.rtype == dns.TypeHTTPS, false
		if service {
			alias = data[0] == 0 && data[1] == 0
			name = name[:nameLen(name)]
		}
		n := z.nodeFor(m, name)
		if name == "\x00" {
			n = nil                // there is no such service (RFC 2782, RFC 7505)
			if service && !alias { // the owner itself (RFC 9460 section 2.5)
				n, nameAt = z.nodes.getBytes(m.key[len(z.key):]), m.nameAt
			}
		}
		// Several records may have the same target.
		if n != nil && m.target < len(m.targets) && !slices.Contains(m.targets[:m.target], n) {
			m.targets[m.target] = n
			m.target++
			if set := n.set(s.rtype); alias && set != nil && set != s {
				m.put(set, owner{at: nameAt})
			}
			m.addresses(n, nameAt, false)
		}
		at += len(data)
	}
}

// nodeFor returns the node of a wire name in any case, or nil if the zone has
// none.
func (z *zone) nodeFor(m *message, name string) *node {
	key := appendKey(m.other[:0], name, &m.otherEnds)
	if len(key) < len(z.key) || string(key[:len(z.key)]) != z.key {
		return nil
	}
	return z.nodes.getBytes(key[len(z.key):])
}

// addresses adds the addresses at a node, whose name is at an offset of the
// message. If they are needed the response is truncated without them; but where
// no pointer reaches their name no other transport would help, and there are
// those of hundreds of servers before them.
func (m *message) addresses(n *node, at int, needed bool) {
	for i := range n.sets {
		if s := &n.sets[i]; s.rtype == dns.TypeA || s.rtype == dns.TypeAAAA {
			if !m.put(s, owner{at: at}) && needed && at <= 0x3fff {
				m.full = true
			}
		}
	}
}
