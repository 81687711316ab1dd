package dnsserver

import (
	"encoding/binary"
	"iter"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// compactDenial makes proofs when they are asked for (RFC 9824): a name that is
// not in the zone is shown as one with no type but NXNAME, and what comes from
// a wildcard as if it were there by itself. So a proof is one NSEC record, which
// says nothing of other names.
type compactDenial struct {
	keys   []*key // the one that signs
	negTTL uint32
	online *onlineSigner
}

var _ denial = (*compactDenial)(nil)

func (d *compactDenial) noData(m *message, z *zone, n *node) {
	d.show(m, z, m.asked(), n, dns.TypeRRSIG, dns.TypeNSEC)
}

// noName answers NOERROR, as validators want it that do not know of NXNAME (RFC
// 9824 section 3.1), unless the client has said that it does (section 5.1).
func (d *compactDenial) noName(m *message, z *zone, _ []byte, _ *node) {
	if !m.co {
		m.rcode = dns.RcodeSuccess
	}
	d.show(m, z, m.asked(), nil, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNXNAME)
}

func (d *compactDenial) wildcard(m *message, z *zone, _ []byte, _, star *node, found bool) {
	if !found {
		d.show(m, z, m.asked(), star, dns.TypeRRSIG, dns.TypeNSEC)
	}
}

func (d *compactDenial) insecure(m *message, z *zone, cut *node) {
	labels := 0
	for end := len(z.key) + len(cut.key); labels < m.ends.n && int(m.ends.at[m.ends.n-1-labels]) > end; {
		labels++
	}
	d.show(m, z, m.above(labels), cut, dns.TypeRRSIG, dns.TypeNSEC)
}

func (d *compactDenial) records(*zone) iter.Seq[record] { return func(func(record) bool) {} }

// show adds the NSEC record of a name in the message that has the types of a
// node and some more.
func (d *compactDenial) show(m *message, z *zone, o owner, n *node, types ...uint16) {
	name := appendLower(m.proof.name[:0], m.name[o.at-m.nameAt:])
	var data [2*maxName + 64]byte
	next := appendNext(data[:0], name)
	if next == nil {
		m.fail()
		return
	}
	wire := appendRecord(m.proof.set[:0], dns.TypeNSEC, d.negTTL, appendTypes(next, n, types...))
	set := &m.proof.out
	*set = rrset{rtype: dns.TypeNSEC, count: 1}
	if !d.online.sign(d, z, set, name, wire) {
		m.fail()
		return
	}
	m.need(set, o)
}

// expand returns a set that a wildcard has, signed for the name that is asked
// about, or nil if that cannot be.
func (d *compactDenial) expand(m *message, z *zone, set *rrset) *rrset {
	if set.signs == 0 {
		return set
	}
	name := appendLower(m.proof.name[:0], m.name)
	out := &m.proof.out
	*out = rrset{rtype: set.rtype, count: set.count}
	if !d.online.sign(d, z, out, name, append(m.proof.set[:0], set.wire...)) {
		m.fail()
		return nil
	}
	return out
}

// appendNext appends the name that comes next after a name and all that could
// be below it without being the name itself, or close to that (RFC 4471 section
// 3.1.1). It returns nil if it finds none.
func appendNext(dst, name []byte) []byte {
	if len(name)+2 <= maxName {
		return append(append(dst, 1, 0), name...)
	}
	n := int(name[0])
	if n < 63 && len(name) < maxName {
		dst = append(append(dst, byte(n+1)), name[1:n+1]...)
		return append(append(dst, 0), name[n+1:]...)
	}
	label := name[1 : n+1]
	for len(label) > 1 && label[len(label)-1] == 0xff {
		label = label[:len(label)-1]
	}
	if label[len(label)-1] == 0xff {
		return nil
	}
	dst = append(append(dst, byte(len(label))), label...)
	if dst[len(dst)-1]++; dst[len(dst)-1] == 'A' {
		dst[len(dst)-1] = 'Z' + 1 // capitals do not count
	}
	return append(dst, name[n+1:]...)
}

// onlineSigner makes signatures for questions, but no more in a second than it
// may, and remembers some.
type onlineSigner struct {
	config *DNSSEC
	now    func() time.Time
	shards [16]onlineShard

	mu     sync.Mutex
	budget int
	second int64 // that the budget is for
	maker  *sigMaker
}

type onlineShard struct {
	mu   sync.Mutex
	sigs map[string]onlineSig // by key tag, name and records
	_    [64]byte
}

type onlineSig struct {
	rrset
	from, until int64 // Unix seconds
}

const (
	maxOnline     = 128 // signatures that each shard remembers
	maxOnlineSize = 768 // of their records, in octets
)

func newOnlineSigner(config *DNSSEC, now func() time.Time) *onlineSigner {
	o := &onlineSigner{config: config, now: now}
	for i := range o.shards {
		o.shards[i].sigs = make(map[string]onlineSig)
	}
	return o
}

// sign fills in the records of a set, which are in wire, and their signatures
// by the keys of d. It reports false if the budget of this second is spent.
func (o *onlineSigner) sign(d *compactDenial, z *zone, set *rrset, name, wire []byte) bool {
	var room [maxName + 512 + 8]byte
	id := binary.BigEndian.AppendUint16(room[:0], d.keys[0].tag)
	id = append(append(id, name...), wire...)
	h := uint32(2166136261) // FNV-1a
	for _, c := range name {
		h = (h ^ uint32(c)) * 16777619
	}
	shard := &o.shards[h>>28]
	now := o.now()
	shard.mu.Lock()
	known, ok := shard.sigs[string(id)]
	shard.mu.Unlock()
	if ok && now.Unix() >= known.from && now.Unix() < known.until {
		set.wire, set.sigs, set.signs = known.wire, known.sigs, known.signs
		return true
	}
	made := onlineSig{rrset: *set, from: now.Add(-clockSkew).Unix(), until: now.Add(o.config.Refresh / 2).Unix()}
	made.wire, made.signs = string(wire), 1
	if !o.make(d, z, &made.rrset, string(name), now) {
		return false
	}
	*set = made.rrset
	if len(wire) > maxOnlineSize {
		return true
	}
	shard.mu.Lock()
	if len(shard.sigs) >= maxOnline {
		for k := range shard.sigs { // any one
			delete(shard.sigs, k)
			break
		}
	}
	shard.sigs[string(id)] = made
	shard.mu.Unlock()
	return true
}

// make makes a signature if the budget allows.
func (o *onlineSigner) make(d *compactDenial, z *zone, set *rrset, name string, now time.Time) bool {
	o.mu.Lock()
	if second := now.Unix(); second != o.second {
		o.second, o.budget = second, o.config.SignaturesPerSecond
	}
	if o.budget <= 0 {
		o.mu.Unlock()
		return false
	}
	o.budget--
	maker := o.maker
	o.maker = nil
	o.mu.Unlock()
	if maker == nil {
		maker = new(sigMaker)
	}
	text, out, data := maker.text, maker.out, maker.data
	*maker = *o.config.newSigMaker(z.name, now)
	maker.text, maker.out, maker.data = text, out, data
	var err error
	set.sigs, err = maker.sign(name, set, d.keys)
	o.mu.Lock()
	o.maker = maker
	o.mu.Unlock()
	return err == nil
}
