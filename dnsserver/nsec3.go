package dnsserver

import (
	"crypto/sha1" //nolint // RFC 5155 knows no other
	"iter"

	"github.com/miekg/dns"
)

// nsec3Denial proves by the NSEC3 records of a zone (RFC 5155 section 7.2),
// whose names are hashes: of all names of the zone, those without records
// included, but not of what is below cuts. It is immutable.
type nsec3Denial struct {
	// chain has a node for each hash. Its key is the label in which the hash is
	// written, under the zone's own, and its one set the NSEC3 record.
	chain trie
}

var _ denial = (*nsec3Denial)(nil)

// nsec3Head begins the data of NSEC3 and NSEC3PARAM records: SHA-1, no flags, no
// further iterations, no salt (RFC 9276 section 3.1).
const nsec3Head = "\x01\x00\x00\x00\x00"

const hashLabel = 32 // octets of a hash in base 32

// proofScratch is what proofs need to be made without allocating.
type proofScratch struct {
	name [maxName + 2]byte
	key  [2*hashLabel + 1]byte
	set  [512]byte
	out  rrset
}

// appendHashKey appends the key of the hash of a wire name.
func appendHashKey(key, name []byte) []byte {
	sum := sha1.Sum(name)
	const digits = "0123456789abcdefghijklmnopqrstuv" // RFC 4648 section 7, in lower case
	for at := 0; at < len(sum); at += 5 {
		n := uint64(sum[at])<<32 | uint64(sum[at+1])<<24 | uint64(sum[at+2])<<16 | uint64(sum[at+3])<<8 | uint64(sum[at+4])
		for shift := 35; shift >= 0; shift -= 5 {
			key = appendSymbols(key, digits[n>>shift&31])
		}
	}
	return append(key, symEnd)
}

// appendHash appends the hash that a key of the chain stands for.
func appendHash(dst []byte, key string) []byte {
	n, bits := uint64(0), 0
	for i := range hashLabel {
		c, _ := octetOf(key[i:]) // a digit or letter, and so one symbol
		if c -= '0'; c > 9 {
			c -= 'a' - '0' - 10
		}
		n, bits = n<<5|uint64(c), bits+5
		if bits == 40 {
			dst = append(dst, byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
			n, bits = 0, 0
		}
	}
	return dst
}

// hashAbove returns the key of the hash of the name that has some labels fewer
// than the one asked about. It is good until the next call.
func (m *message) hashAbove(labels int) []byte {
	name := m.name
	for range labels {
		name = name[int(name[0])+1:]
	}
	return appendHashKey(m.proof.key[:0], appendLower(m.proof.name[:0], name))
}

// hashNode is the same for the name of a node.
func (m *message) hashNode(z *zone, key string) []byte {
	name := append(appendLabels(m.proof.name[:0], key), z.name...)
	return appendHashKey(m.proof.key[:0], name)
}

// before returns the node at a key or the last one before it: the greatest of
// all if there is none.
func (d *nsec3Denial) before(key []byte) *node {
	if n := floor(&d.chain, key); n != nil {
		return n
	}
	return d.chain.last()
}

// match shows the record of a node.
func (d *nsec3Denial) match(m *message, z *zone, n *node) {
	m.prove(z, d.before(m.hashNode(z, n.key)), dns.TypeNSEC3)
}

// closer shows that there is no name one label below the encloser (RFC 5155
// section 7.2.1).
func (d *nsec3Denial) closer(m *message, z *zone, encloser *node) {
	depth, end := 0, len(z.key)+len(encloser.key)
	for depth < m.ends.n && int(m.ends.at[depth]) <= end {
		depth++
	}
	m.prove(z, d.before(m.hashAbove(m.ends.n-depth-1)), dns.TypeNSEC3)
}

// noData shows the types that the name has (RFC 5155 sections 7.2.3 and 7.2.4).
func (d *nsec3Denial) noData(m *message, z *zone, n *node) { d.match(m, z, n) }

// noName shows the nearest name above, that the next one below it is not there,
// and neither a wildcard (RFC 5155 section 7.2.2).
func (d *nsec3Denial) noName(m *message, z *zone, _ []byte, encloser *node) {
	d.match(m, z, encloser)
	d.closer(m, z, encloser)
	name := append(m.proof.name[:0], "\x01*"...)
	name = append(appendLabels(name, encloser.key), z.name...)
	m.prove(z, d.before(appendHashKey(m.proof.key[:0], name)), dns.TypeNSEC3)
}

// wildcard shows that the name is not there (RFC 5155 sections 7.2.5 and 7.2.6).
func (d *nsec3Denial) wildcard(m *message, z *zone, _ []byte, encloser, star *node, found bool) {
	d.closer(m, z, encloser)
	if !found {
		d.match(m, z, encloser)
		d.match(m, z, star)
	}
}

// insecure shows that the cut has no DS records (RFC 5155 section 7.2.7).
func (d *nsec3Denial) insecure(m *message, z *zone, cut *node) { d.match(m, z, cut) }

func (d *nsec3Denial) records(z *zone) iter.Seq[record] {
	return func(yield func(record) bool) {
		if d.chain.size == 0 {
			return
		}
		for n := range d.chain.from("") {
			if !n.sets[0].records(z.nameOf(n), yield) {
				return
			}
		}
	}
}

// hashedNames is the NSEC3 chain of a zone, or nil.
func hashedNames(d denial) *trie {
	if d, ok := d.(*nsec3Denial); ok {
		return &d.chain
	}
	return nil
}

// chainNSEC3 brings the chain of hashes in step with the zone. own are all its
// names, if all are to be looked at; otherwise those are that have been worked
// on, and what is above them. due has the keys of nodes of the chain that need
// new signatures.
func (p *signing) chainNSEC3(old *trie, own []*node, due []string) (*nsec3Denial, error) {
	d := new(nsec3Denial)
	if old != nil && own == nil {
		d.chain = *old
	}
	types := make(map[string]string) // bitmaps, by the hash's key
	dirty := make(map[string]bool)
	var moved []string
	look := func(key string, n *node) {
		name := append(appendLabels(make([]byte, 0, maxName), key), p.name...)
		hash := string(appendHashKey(make([]byte, 0, hashLabel+1), name))
		there := d.chain.get(hash) != nil
		if n == nil {
			if there {
				d.chain.remove(p.edit, hash)
				p.hashed[hash] = true
				moved = append(moved, hash)
			}
			return
		}
		types[hash] = string(appendNSEC3Types(nil, n))
		dirty[hash] = true
		if !there {
			d.chain.put(p.edit, &node{key: hash, sets: []rrset{{rtype: dns.TypeNSEC3}}})
			moved = append(moved, hash)
		}
	}
	if own != nil {
		for _, n := range own {
			look(n.key, p.node(n.key))
		}
	} else {
		seen := make(map[string]bool)
		for key := range p.work {
			for ; !seen[key]; key = parentKey(key) {
				seen[key] = true
				n := p.node(key)
				if n != nil && p.cutAbove(key) != nil {
					n = nil
				}
				look(key, n)
				if key == "" {
					break
				}
			}
		}
	}
	for _, hash := range moved {
		if before := d.chain.floor(beforeKey(hash)); before != nil {
			dirty[before.key] = true
		} else {
			dirty[d.chain.last().key] = true
		}
	}
	for _, hash := range due {
		dirty[hash] = true
	}
	var items []item
	for hash := range dirty {
		n := d.chain.get(hash)
		if n == nil {
			continue
		}
		bitmap, known := types[hash]
		if !known {
			bitmap = nsec3Types(&n.sets[0])
		}
		set := p.nsec3(d, hash, bitmap)
		if n.sets[0].wire != set.wire {
			n = &node{key: hash, sets: []rrset{set}}
		}
		items = append(items, item{n: n, hashed: true})
	}
	err := p.completeMany(items, func(n *node) {
		d.chain.put(p.edit, n)
		p.hashed[n.key] = true
	})
	return d, err
}

// nsec3 makes the NSEC3 record of a hash.
func (p *signing) nsec3(d *nsec3Denial, hash, types string) rrset {
	next := d.chain.root.first().key
	for n := range d.chain.from(hash + "\x00") {
		next = n.key
		break
	}
	data := append(make([]byte, 0, 64), nsec3Head...)
	data = appendHash(append(data, sha1.Size), next)
	data = append(data, types...)
	return rrset{rtype: dns.TypeNSEC3, count: 1, wire: string(appendRecord(nil, dns.TypeNSEC3, p.negTTL, data))}
}

// nsec3Types is the bitmap of the types in an NSEC3 record.
func nsec3Types(set *rrset) string {
	for data := range set.data() {
		return data[len(nsec3Head)+1+sha1.Size:]
	}
	return ""
}

// appendNSEC3Types appends the bitmap for the hash of a node (RFC 5155 section
// 3.2.1). It has RRSIG only where something is signed.
func appendNSEC3Types(dst []byte, n *node) []byte {
	for i := range n.sets {
		if isSigned(n, n.sets[i].rtype) {
			return appendTypes(dst, n, dns.TypeRRSIG)
		}
	}
	return appendTypes(dst, n)
}
