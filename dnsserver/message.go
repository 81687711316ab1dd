package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// message is a response in the making. It begins with the question, and the
// name in that, or one in the data of a record before, is what pointers point
// to: nothing else is compressed.
type message struct {
	b     []byte // what was in the buffer, then the message
	base  int    // where the message begins
	limit int    // of its length

	counts  [3]uint16 // of answer, authority, additional
	section int
	do      bool // with signatures
	co      bool // NXDOMAIN beside a compact proof
	padded  bool // if the client asks for it
	full    bool // something necessary did not fit

	// The name that the answer is about: the question's, or what a CNAME record
	// of the answer points to.
	nameAt  int
	name    []byte // wire
	key     []byte
	ends    labelEnds
	keys    [maxKey]byte
	starKey [maxKey + 4]byte
	// For other names.
	other     [maxKey]byte
	otherEnds labelEnds
	// For proofs.
	labels [maxName]byte
	proof  proofScratch
	shown  [2 * maxChain]*node // what has been shown
	shows  int
	dnames [maxChain]*node // DNAME records that are in the answer
	dname  int
	stars  [maxChain]starProof // what is still to be shown
	due    int

	targets [64]*node // whose addresses have been added
	target  int

	hops     [maxChain]uint16 // where the names before it are
	hop      int
	versions [maxChain]version // of the zones that aliases have led out of

	qtype uint16
	rcode int
	aa    bool
}

const (
	answerSection = iota
	authoritySection
	additionalSection
)

// begin starts a response to a query with its question.
func (m *message) begin(dst []byte, q *query, limit int) {
	m.base, m.limit = len(dst), limit
	m.counts, m.section, m.full, m.rcode, m.aa = [3]uint16{}, answerSection, false, dns.RcodeSuccess, false
	m.shows, m.due, m.dname, m.target = 0, 0, 0, 0
	m.do, m.co, m.qtype = q.do, q.co, q.qtype
	m.b = append(dst, q.wire[:q.end]...)
	m.nameAt, m.name, m.hops[0], m.hop = questionAt, q.name, questionAt, 1
}

func (m *message) len() int { return len(m.b) - m.base }

// setName makes the name at an offset of the message, where it is not
// compressed, the one that the answer is about.
func (m *message) setName(at int) {
	m.nameAt = at
	name := m.b[m.base+at:]
	m.name = name[:nameLen(name)]
	m.key = appendKey(m.keys[:0], m.name, &m.ends)
}

// owner is the name of a record that is written: labels, then a pointer to an
// offset of the message.
type owner struct {
	labels []byte
	at     int
}

// asked is the name that the answer is about.
func (m *message) asked() owner { return owner{at: m.nameAt} }

// above is the name that has n labels fewer than the one asked about.
func (m *message) above(n int) owner {
	at := 0
	for range n {
		at += int(m.name[at]) + 1
	}
	return owner{at: m.nameAt + at}
}

// zoneTop is the top of the zone that the name asked about is in.
func (m *message) zoneTop(z *zone) owner {
	return owner{at: m.nameAt + len(m.name) - len(z.name)}
}

// put adds the records of a set, and their signatures if wanted, and reports
// whether they had room. It adds all or none.
func (m *message) put(s *rrset, o owner) bool {
	count, wire, sigs := s.count, s.wire, ""
	if m.do {
		count += s.signs
		sigs = s.sigs
	}
	more := int(count) * len(o.labels)
	if o.at > 0x3fff || m.len()+len(wire)+len(sigs)+more > m.limit {
		return false
	}
	m.write(wire, o)
	m.write(sigs, o)
	m.counts[m.section] += count
	return true
}

// need is put for what the response is wrong without.
func (m *message) need(s *rrset, o owner) {
	if !m.put(s, o) {
		m.full = true
	}
}

// fail makes the response one that says no more than that there is none.
func (m *message) fail() { m.full, m.aa, m.rcode = true, false, dns.RcodeServerFailure }

func (m *message) write(wire string, o owner) {
	if len(o.labels) > 0 {
		for len(wire) > 0 {
			end := recordHead + int(uint16At(wire, 10))
			m.b = append(m.b, o.labels...)
			m.b = binary.BigEndian.AppendUint16(m.b, 0xc000|uint16(o.at))
			m.b = append(m.b, wire[2:end]...)
			wire = wire[end:]
		}
		return
	}
	at := len(m.b)
	m.b = append(m.b, wire...)
	if o.at == questionAt {
		return
	}
	for b := m.b[at:]; len(b) > 0; b = b[recordHead+int(binary.BigEndian.Uint16(b[10:])):] {
		binary.BigEndian.PutUint16(b, 0xc000|uint16(o.at))
	}
}

// finish writes the header of a response to q.
func (m *message) finish(q *query) {
	if m.full {
		m.b = m.b[:m.base+q.end]
		m.counts = [3]uint16{}
	}
	flags := q.flags&(opcodeMask|flagRD|flagCD) | flagQR | uint16(m.rcode&15)
	if m.aa {
		flags |= flagAA
	}
	if m.full && m.rcode != dns.RcodeServerFailure {
		flags |= flagTC
	}
	b := m.b[m.base:]
	binary.BigEndian.PutUint16(b[2:], flags)
	questions := uint16(1)
	if q.end == headLen {
		questions = 0
	}
	binary.BigEndian.PutUint16(b[4:], questions)
	for i, n := range m.counts {
		binary.BigEndian.PutUint16(b[6+2*i:], n)
	}
}
