package dnsserver

import (
	"crypto/sha1"
	"encoding/base32"
	"iter"

	"github.com/miekg/dns"
)

// copiedDenial proves what does not exist by the NSEC or NSEC3 records that a
// copied zone came with.
type copiedDenial struct {
	hashes     trie // NSEC3 records, by the key of their first label; empty: there are NSEC records
	iterations int
	salt       string
}

// newCopiedDenial returns the proofs of a zone, or nil if it is not signed.
func newCopiedDenial(e *zoneEdit, hashes trie) (*copiedDenial, error) {
	d := &copiedDenial{hashes: hashes}
	if hashes.size == 0 {
		if e.top.set(dns.TypeNSEC) == nil {
			return nil, nil
		}
		return d, nil
	}
	params := e.top.set(dns.TypeNSEC3PARAM)
	if params == nil {
		return d, nil // it is being signed: what is there is transferred on
	}
	for data := range params.data() {
		if len(data) < 5 || len(data) != 5+int(data[4]) {
			continue
		}
		d.iterations, d.salt = int(uint16At(data, 2)), data[5:]
	}
	if d.iterations > maxIterations {
		return nil, errIterations
	}
	return d, nil
}

// records yields the NSEC3 records, which belong to no node.
func (d *copiedDenial) records(z *zone) iter.Seq[record] {
	return func(yield func(record) bool) {
		for n := range d.hashes.from("") {
			name := z.nameOf(n)
			for i := range n.sets {
				if !n.sets[i].records(name, yield) {
					return
				}
			}
		}
	}
}

// proof puts records into a message, each once.
type proof struct {
	d   *copiedDenial
	m   *message
	z   *zone
	put [6]*node
	n   int
}

func (d *copiedDenial) proof(m *message, z *zone) *proof { return &proof{d: d, m: m, z: z} }

// add adds the NSEC or NSEC3 record at a node, which may be nil.
func (p *proof) add(n *node) {
	if n == nil {
		return
	}
	for _, other := range p.put[:p.n] {
		if other == n {
			return
		}
	}
	set := n.set(dns.TypeNSEC)
	if p.d.hashes.size > 0 {
		set = n.set(dns.TypeNSEC3)
	}
	if set == nil || p.n == len(p.put) {
		return
	}
	p.put[p.n] = n
	p.n++
	o := p.m.zoneTop(p.z)
	o.labels = appendLabels(nil, n.key)
	if len(o.labels) == 0 {
		o.labels = nil
	}
	p.m.need(set, o)
}

func (d *copiedDenial) hashed() bool { return d.hashes.size > 0 }

func (d *copiedDenial) noData(m *message, z *zone, n *node) {
	p := d.proof(m, z)
	switch {
	case !d.hashed() && n.set(dns.TypeNSEC) != nil:
		p.add(n)
	case !d.hashed(): // a name between others, without records
		p.add(p.cover(n.key))
	default:
		p.matchOrAbove(n.key)
	}
}

func (d *copiedDenial) noName(m *message, z *zone, key []byte, encloser *node) {
	p := d.proof(m, z)
	star := encloser.key + starKey
	if !d.hashed() {
		p.add(p.cover(string(key)))
		p.add(p.cover(star))
		return
	}
	p.add(p.match(encloser.key))
	p.add(p.coverHash(nextCloser(string(key), encloser.key)))
	p.add(p.coverHash(star))
}

func (d *copiedDenial) wildcard(m *message, z *zone, key []byte, encloser, star *node, found bool) {
	p := d.proof(m, z)
	if !d.hashed() {
		p.add(p.cover(string(key)))
		if !found {
			p.add(star)
		}
		return
	}
	if !found {
		p.add(p.match(encloser.key))
	}
	p.add(p.coverHash(nextCloser(string(key), encloser.key)))
	if !found {
		p.add(p.match(star.key))
	}
}

func (d *copiedDenial) insecure(m *message, z *zone, cut *node) {
	p := d.proof(m, z)
	if !d.hashed() {
		p.add(cut)
		return
	}
	p.matchOrAbove(cut.key)
}

// cover returns the node whose NSEC record covers a name that does not exist:
// the nearest one before it that has one.
func (p *proof) cover(key string) *node {
	for {
		n := p.z.nodes.floor(key)
		if n == nil || n.set(dns.TypeNSEC) != nil || n.key == "" {
			return n
		}
		// Glue, and names without records. All keys end with the least symbol, so
		// nothing is between this and the key without it.
		key = n.key[:len(n.key)-1]
	}
}

// match returns the NSEC3 record of a name, or nil.
func (p *proof) match(key string) *node { return p.d.hashes.get(p.hash(key)) }

// coverHash returns the NSEC3 record that covers a name.
func (p *proof) coverHash(key string) *node {
	if n := p.d.hashes.floor(p.hash(key)); n != nil {
		return n
	}
	return p.d.hashes.last() // the last one covers what is before the first
}

// matchOrAbove proves with the NSEC3 record of a name, or, if the name was left
// out (RFC 5155 section 6), with that of the nearest one above it which has one.
func (p *proof) matchOrAbove(key string) {
	if n := p.match(key); n != nil {
		p.add(n)
		return
	}
	for next := key; next != ""; next = parentKey(next) {
		if n := p.match(parentKey(next)); n != nil {
			p.add(n)
			p.add(p.coverHash(next))
			return
		}
	}
}

// hash returns the key of the NSEC3 record of a name (RFC 5155 section 5).
func (p *proof) hash(key string) string {
	b := append(appendLabels(make([]byte, 0, maxName), key), p.z.name...)
	for range p.d.iterations + 1 {
		sum := sha1.Sum(append(b, p.d.salt...))
		b = append(b[:0], sum[:]...)
	}
	label := base32.HexEncoding.EncodeToString(b) // 32 digits: no padding
	return keyOf(string(append(append([]byte{byte(len(label))}, label...), 0)))
}

// nextCloser returns the key of the name one label below encloser on the way to
// key (RFC 5155 section 1.3).
func nextCloser(key, encloser string) string {
	for {
		up := parentKey(key)
		if len(up) <= len(encloser) {
			return key
		}
		key = up
	}
}
