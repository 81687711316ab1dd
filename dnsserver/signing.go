package dnsserver

import (
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// signing is one call of [signer.sign]: it brings an edit to a state in which
// all that is to be signed is.
type signing struct {
	*zoneEdit
	config *DNSSEC
	keys   *keySet
	now    time.Time
	// until is when signatures have to be good at least.
	until uint32
	// work has the keys of the nodes that are looked at.
	work     map[string]bool
	negTTL   uint32 // of NSEC and NSEC3 records
	makers   []*sigMaker
	maxTTL   uint32
	progress func(done, all int) // told how far it is, if it takes long
}

// item is a node that is to be brought in order.
type item struct {
	n        *node
	occluded bool   // below a cut: not the zone's own
	hashed   bool   // a node of the NSEC3 chain
	nsec     rrset  // that it is to have; empty for none
	done     *node  // the result, which may be n
	ttl      uint32 // the longest of what was signed
	err      error
}

// isCut reports whether names below the node are not the zone's own.
func isCut(n *node) bool { return isDelegation(n) || n.set(dns.TypeDNAME) != nil }

func isDelegation(n *node) bool { return n.key != "" && n.set(dns.TypeNS) != nil }

// cutAbove returns the highest cut above a key, or nil if there is none.
func (z *zone) cutAbove(key string) *node {
	switch {
	case key == "":
		return nil
	case z.top.set(dns.TypeDNAME) != nil:
		return z.top
	case z.cuts == 0:
		return nil
	}
	for i := 0; i < len(key)-1; {
		if key[i] != symEnd {
			_, n := octetOf(key[i:])
			i += n
			continue
		}
		i++
		if n := z.nodes.get(key[:i]); n != nil && isCut(n) {
			return n
		}
	}
	return nil
}

// hasOwn reports whether the node has records other than those that signing
// makes.
func hasOwn(n *node) bool {
	for i := range n.sets {
		if !ownType(n.sets[i].rtype) || n.key == "" {
			return true
		}
	}
	return false
}

// isSigned reports whether sets of a type at a node get signatures: at a
// delegation only what the zone above is the source of (RFC 4035 section 2.2).
func isSigned(n *node, rtype uint16) bool {
	if rtype == typeALIAS {
		return false
	}
	return !isDelegation(n) || rtype == dns.TypeDS || rtype == dns.TypeNSEC
}

// add puts a key among those that are looked at.
func (p *signing) add(key string) { p.work[key] = true }

// collect finds what is to be looked at: what has been touched, and what is
// below names that have become cuts or are none any more.
func (p *signing) collect() {
	p.add("")
	for key := range p.touched {
		p.add(key)
		was, is := false, false
		if n := p.old.nodes.get(key); n != nil {
			was = isCut(n)
		}
		if n := p.node(key); n != nil {
			is = isCut(n)
		}
		if was != is {
			for n := range p.nodes.below(key) {
				p.add(n.key)
			}
		}
	}
}

// put replaces a node by one with the same names below and the same cuts.
func (p *signing) put(n *node) {
	p.nodes.put(p.edit, n)
	if n.key == "" {
		p.top = n
	}
	if p.old != nil {
		p.touched[n.key] = true
	}
}

// complete makes of a node what is to be served: with the NSEC records given,
// and with good signatures for all that is to be signed.
func (p *signing) complete(maker *sigMaker, it *item) {
	n := it.n
	var name string
	var sets []rrset
	changed := false
	keep := func(set rrset) {
		switch {
		case it.occluded || !isSigned(n, set.rtype):
			if set.signs > 0 {
				set.sigs, set.signs, changed = "", 0, true
			}
		default:
			keys := p.keys.signersAt(n.key, set.rtype)
			it.ttl = max(it.ttl, set.ttl())
			if set.isFresh(keys, p.now, p.until) {
				break
			}
			if name == "" {
				name = p.nameOf(n)
			}
			sigs, err := maker.sign(name, &set, keys)
			if err != nil {
				it.err = err
			}
			set.sigs, set.signs, changed = sigs, uint16(len(keys)), true
		}
		sets = append(sets, set)
	}
	placed := it.nsec.count == 0
	place := func() {
		if !placed {
			placed = true
			if old := n.set(dns.TypeNSEC); old != nil && old.wire == it.nsec.wire {
				keep(*old)
				return
			}
			changed = true
			keep(it.nsec)
		}
	}
	for _, set := range n.sets {
		if set.rtype > dns.TypeNSEC {
			place()
		}
		if ownType(set.rtype) && !it.hashed && (set.rtype != dns.TypeNSEC3PARAM || n.key != "") {
			changed = changed || set.rtype != dns.TypeNSEC || it.nsec.count == 0
			continue
		}
		keep(set)
	}
	place()
	if it.done = n; changed {
		it.done = &node{key: n.key, sets: sets}
	}
}

// completeAll completes nodes, many of them on all processors.
func (p *signing) completeAll(items []item) error {
	const part = 64
	workers := min(runtime.GOMAXPROCS(0), (len(items)+part-1)/part)
	for len(p.makers) < max(workers, 1) {
		p.makers = append(p.makers, p.config.newSigMaker(p.name, p.now))
	}
	if workers <= 1 {
		for i := range items {
			p.complete(p.makers[0], &items[i])
		}
	} else {
		var wg sync.WaitGroup
		next := make(chan int, len(items)/part+1)
		for at := 0; at < len(items); at += part {
			next <- at
		}
		close(next)
		for _, maker := range p.makers[:workers] {
			wg.Go(func() {
				for at := range next {
					for i := at; i < min(at+part, len(items)); i++ {
						p.complete(maker, &items[i])
					}
				}
			})
		}
		wg.Wait()
	}
	for i := range items {
		if it := &items[i]; it.err != nil {
			return it.err
		} else {
			p.maxTTL = max(p.maxTTL, it.ttl)
		}
	}
	return nil
}

// batch is how many nodes are completed before they are put into the trie.
const batch = 8192

// completeMany completes nodes and hands out those that have changed.
func (p *signing) completeMany(items []item, put func(n *node)) error {
	all := len(items)
	for done := 0; done < all; done += batch {
		part := items[done:min(done+batch, all)]
		if err := p.completeAll(part); err != nil {
			return err
		}
		for i := range part {
			if it := &part[i]; it.done != it.n {
				put(it.done)
			}
			part[i] = item{} // its memory is needed for the next
		}
		if p.progress != nil {
			p.progress(done+len(part), all)
		}
	}
	return nil
}

// all completes every node of the zone. It returns which of them are the zone's
// own, those without records included.
func (p *signing) all(chain bool) (own []*node, err error) {
	items := make([]item, 0, p.nodes.size)
	cut := ""
	last := -1 // the member of the chain before
	for n := range p.nodes.from("") {
		it := item{n: n, occluded: cut != "" && n.key != cut && strings.HasPrefix(n.key, cut)}
		if n.key != "" && p.top.set(dns.TypeDNAME) != nil {
			it.occluded = true
		}
		items = append(items, it)
		if it.occluded {
			continue
		}
		if isCut(n) {
			cut = n.key
		}
		own = append(own, n)
		if chain && hasOwn(n) {
			if last >= 0 {
				items[last].nsec = p.nsec(items[last].n, n.key)
			}
			last = len(items) - 1
		}
	}
	if last >= 0 {
		items[last].nsec = p.nsec(items[last].n, "")
	}
	empty := false
	err = p.completeMany(items, func(n *node) {
		if len(n.sets) == 0 && n.key != "" {
			empty = true // it had nothing but what signing makes
		}
		p.put(n)
	})
	if empty && err == nil {
		own = p.prune(own)
	}
	return own, err
}

// prune takes out names that have become empty, from below.
func (p *signing) prune(own []*node) []*node {
	var keys []string
	for n := range p.nodes.from("") {
		if len(n.sets) == 0 && n.key != "" {
			keys = append(keys, n.key)
		}
	}
	for i := len(keys) - 1; i >= 0; i-- {
		if !p.hasBelow(keys[i]) {
			p.nodes.remove(p.edit, keys[i])
		}
	}
	rest := own[:0]
	for _, n := range own {
		if p.node(n.key) != nil {
			rest = append(rest, n)
		}
	}
	return rest
}

// some completes the nodes that are to be looked at.
func (p *signing) some(chain bool) error {
	var items []item
	if chain {
		p.chainNSEC()
	}
	for key := range p.work {
		n := p.node(key)
		if n == nil {
			continue
		}
		it := item{n: n, occluded: p.cutAbove(key) != nil}
		if chain && !it.occluded && hasOwn(n) {
			it.nsec = p.nsec(n, p.after(n))
		}
		items = append(items, it)
	}
	return p.completeMany(items, func(n *node) {
		p.put(n)
		if len(n.sets) == 0 && n.key != "" {
			p.replace(n.key, rrset{rtype: dns.TypeRRSIG}) // and so the node, if it is of no use
		}
	})
}
