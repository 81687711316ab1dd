package dnsserver

import (
	"crypto/sha1" //nolint // RFC 5155 knows no other
	"iter"

	"github.com/miekg/dns"
)

// copiedNSEC3 proves what does not exist by the NSEC3 records that a copied
// zone came with (RFC 5155 section 7.2). Other than those of [nsec3Denial] they
// may have salt and iterations, and leave out delegations (opt-out).
type copiedNSEC3 struct {
	chain      trie // by the key of the first label
	iterations int
	salt       string
}

var _ denial = (*copiedNSEC3)(nil)

// newCopiedDenial returns the proofs of a zone, or nil if it is not signed.
func newCopiedDenial(e *zoneEdit, hashes trie) (denial, error) {
	if hashes.size == 0 {
		if e.top.set(dns.TypeNSEC) == nil {
			return nil, nil
		}
		return nsecDenial{}, nil
	}
	d := &copiedNSEC3{chain: hashes}
	params := e.top.set(dns.TypeNSEC3PARAM)
	if params == nil {
		return d, nil // it is being signed: what is there is transferred on
	}
	for data := range params.data() {
		if len(data) == 5+int(data[4]) {
			d.iterations, d.salt = int(uint16At(data, 2)), data[5:]
		}
	}
	if d.iterations > maxIterations {
		return nil, errIterations
	}
	return d, nil
}

func (d *copiedNSEC3) records(z *zone) iter.Seq[record] {
	return func(yield func(record) bool) {
		for n := range d.chain.from("") {
			name := z.nameOf(n)
			for i := range n.sets {
				if !n.sets[i].records(name, yield) {
					return
				}
			}
		}
	}
}

func (d *copiedNSEC3) noData(m *message, z *zone, n *node) { d.matchOrAbove(m, z, n.key) }

func (d *copiedNSEC3) noName(m *message, z *zone, key []byte, encloser *node) {
	d.matchOrAbove(m, z, encloser.key)
	d.cover(m, z, nextCloser(string(key), encloser.key))
	d.cover(m, z, encloser.key+starKey)
}

func (d *copiedNSEC3) wildcard(m *message, z *zone, key []byte, encloser, star *node, found bool) {
	if !found {
		d.matchOrAbove(m, z, encloser.key)
	}
	d.cover(m, z, nextCloser(string(key), encloser.key))
	if !found {
		d.matchOrAbove(m, z, star.key)
	}
}

func (d *copiedNSEC3) insecure(m *message, z *zone, cut *node) { d.matchOrAbove(m, z, cut.key) }

// cover adds the record that covers a name.
func (d *copiedNSEC3) cover(m *message, z *zone, key string) {
	n := d.chain.floor(d.hash(z, key))
	if n == nil {
		n = d.chain.last() // which covers what is before the first
	}
	m.prove(z, n, dns.TypeNSEC3)
}

// matchOrAbove proves with the record of a name, or, if the name was left out
// (RFC 5155 section 6), with that of the nearest one above it which has one.
func (d *copiedNSEC3) matchOrAbove(m *message, z *zone, key string) {
	if n := d.chain.get(d.hash(z, key)); n != nil {
		m.prove(z, n, dns.TypeNSEC3)
		return
	}
	for next := key; next != ""; next = parentKey(next) {
		if n := d.chain.get(d.hash(z, parentKey(next))); n != nil {
			m.prove(z, n, dns.TypeNSEC3)
			d.cover(m, z, next)
			return
		}
	}
}

// hash returns the key of the record of a name (RFC 5155 section 5).
func (d *copiedNSEC3) hash(z *zone, key string) string {
	b := append(appendLabels(make([]byte, 0, maxName), key), z.name...)
	for range d.iterations {
		sum := sha1.Sum(append(b, d.salt...))
		b = append(b[:0], sum[:]...)
	}
	return string(appendHashKey(nil, append(b, d.salt...)))
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
