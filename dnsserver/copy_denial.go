package dnsserver

import (
	"crypto/sha1" //nolint // RFC 5155 knows no other
	"iter"
	"strings"

	"github.com/miekg/dns"
)

// copiedNSEC3 proves what does not exist by the NSEC3 records that a copied
// zone came with (RFC 5155 section 7.2). Other than those of [nsec3Denial] they
// may have salt and iterations, and leave out delegations (opt-out).
type copiedNSEC3 struct {
	chain      trie   // by the key of the first label
	params     string // of the chain to prove with: iterations and salt as in its records, from the third octet
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
		if len(data) == 5+int(data[4]) && data[1] == 0 { // with flags it says nothing (RFC 5155 section 4.1.2)
			d.params, d.iterations, d.salt = data[2:], int(uint16At(data, 2)), data[5:]
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
	m.prove(z, d.covering(d.hash(z, key)), dns.TypeNSEC3)
}

// covering returns the node of the chain at the key of a hash, or the last before
// it. There are others in between while the primary changes salt or iterations
// (RFC 5155 section 7.3).
func (d *copiedNSEC3) covering(hash string) *node {
	nearest := d.before(hash)
	n := nearest
	for range 32 { // in a zone that is not sound there may be any number
		if d.inChain(n) {
			return n
		}
		if n.key == "" { // at the top, where there should be none
			n = d.chain.last()
		} else {
			n = d.before(beforeKey(n.key))
		}
	}
	return nearest
}

func (d *copiedNSEC3) before(hash string) *node {
	if n := d.chain.floor(hash); n != nil {
		return n
	}
	return d.chain.last() // which covers what is before the first
}

func (d *copiedNSEC3) inChain(n *node) bool {
	for data := range n.set(dns.TypeNSEC3).data() {
		if len(data) > 2 && strings.HasPrefix(data[2:], d.params) {
			return true
		}
	}
	return false
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
