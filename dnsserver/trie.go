package dnsserver

import (
	"iter"
	"math/bits"
	"strings"
)

// trie is an immutable ordered map from keys to nodes: a qp-trie (a radix tree
// whose branches have room only for the children they have) over the alphabet
// of keys. A change makes a new trie, which shares with the old one all but the
// branches on the way to what has changed. So whoever reads needs no lock, and
// the change of one name costs the same in a zone of a million.
type trie struct {
	root slot
	size int
}

// slot is a leaf, a branch, or, in an empty trie, nothing.
type slot struct {
	leaf   *node
	branch *branch
}

// branch is where the keys below first differ.
type branch struct {
	bits   uint64 // which children there are; see symbolAt
	edit   *edit  // that made the branch and may change it
	kids   []slot // in order
	offset uint16 // of the symbol
}

// edit is a series of changes that nobody sees before it is over. Branches that
// it has made it changes in place.
type edit struct{ _ byte }

// symbolAt returns the bit for the symbol of a key at an offset. The end of the
// key goes before all symbols.
func symbolAt[K string | []byte](key K, offset int) uint64 {
	if offset >= len(key) {
		return 1
	}
	return 2 << key[offset]
}

func (b *branch) place(bit uint64) int { return bits.OnesCount64(b.bits & (bit - 1)) }

// get returns the node with this key, or nil.
func (t *trie) get(key string) *node {
	s := &t.root
	for s.branch != nil {
		b := s.branch
		bit := symbolAt(key, int(b.offset))
		if b.bits&bit == 0 {
			return nil
		}
		s = &b.kids[b.place(bit)]
	}
	if s.leaf != nil && s.leaf.key == key {
		return s.leaf
	}
	return nil
}

// getBytes is get for a key that is no string.
func (t *trie) getBytes(key []byte) *node {
	s := &t.root
	for s.branch != nil {
		b := s.branch
		bit := uint64(1)
		if at := int(b.offset); at < len(key) {
			bit = 2 << key[at]
		}
		if b.bits&bit == 0 {
			return nil
		}
		s = &b.kids[b.place(bit)]
	}
	if s.leaf != nil && s.leaf.key == string(key) {
		return s.leaf
	}
	return nil
}

// near returns a leaf that shares with key as long a beginning as any does.
// There must be one.
func near[K string | []byte](t *trie, key K) *node {
	s := &t.root
	for s.branch != nil {
		b := s.branch
		at := 0
		if bit := symbolAt(key, int(b.offset)); b.bits&bit != 0 {
			at = b.place(bit)
		}
		s = &b.kids[at]
	}
	return s.leaf
}

// differ returns the offset of the first symbol in which two keys differ.
func differ[K string | []byte](a string, b K) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func (s *slot) first() *node {
	for s.branch != nil {
		s = &s.branch.kids[0]
	}
	return s.leaf
}

func (s *slot) last() *node {
	for s.branch != nil {
		s = &s.branch.kids[len(s.branch.kids)-1]
	}
	return s.leaf
}

// floor returns the node with the greatest key that is not above key, or nil.
func (t *trie) floor(key string) *node { return floor(t, key) }

func floor[K string | []byte](t *trie, key K) *node {
	if t.size == 0 {
		return nil
	}
	near := near(t, key)
	if near.key == string(key) {
		return near
	}
	at := differ(near.key, key)
	var left *slot // what goes before the way taken
	s := &t.root
	for s.branch != nil && int(s.branch.offset) < at {
		b := s.branch
		i := b.place(symbolAt(key, int(b.offset)))
		if i > 0 {
			left = &b.kids[i-1]
		}
		s = &b.kids[i]
	}
	if b := s.branch; b != nil && int(b.offset) == at {
		if i := b.place(symbolAt(key, at)); i > 0 {
			return b.kids[i-1].last()
		}
	} else if symbolAt(near.key, at) < symbolAt(key, at) {
		return s.last()
	}
	if left == nil {
		return nil
	}
	return left.last()
}

// last returns the node with the greatest key, or nil.
func (t *trie) last() *node { return t.root.last() }

// from iterates in order over the nodes whose keys are not below key.
func (t *trie) from(key string) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		if t.size > 0 {
			t.root.from(key, yield)
		}
	}
}

func (s *slot) from(key string, yield func(*node) bool) bool {
	b := s.branch
	if b == nil {
		return s.leaf.key < key || yield(s.leaf)
	}
	// All keys below are alike up to the offset.
	first := s.first().key
	switch at := differ(first, key); {
	case at >= len(key), at < int(b.offset) && symbolAt(first, at) > symbolAt(key, at):
		return s.all(yield)
	case at < int(b.offset):
		return true // all are below
	}
	bit := symbolAt(key, int(b.offset))
	i := b.place(bit)
	if b.bits&bit != 0 {
		if !b.kids[i].from(key, yield) {
			return false
		}
		i++
	}
	for ; i < len(b.kids); i++ {
		if !b.kids[i].all(yield) {
			return false
		}
	}
	return true
}

func (s *slot) all(yield func(*node) bool) bool {
	if s.branch == nil {
		return yield(s.leaf)
	}
	for i := range s.branch.kids {
		if !s.branch.kids[i].all(yield) {
			return false
		}
	}
	return true
}

// below iterates in order over the nodes whose keys begin with key: the name
// itself and those under it.
func (t *trie) below(key string) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for n := range t.from(key) {
			if !strings.HasPrefix(n.key, key) || !yield(n) {
				return
			}
		}
	}
}

// own returns the branch in a slot as one that may be changed.
func (e *edit) own(s *slot) *branch {
	b := s.branch
	if b.edit != e {
		b = &branch{bits: b.bits, edit: e, kids: append(make([]slot, 0, len(b.kids)+1), b.kids...), offset: b.offset}
		s.branch = b
	}
	return b
}

// put adds a node, or replaces the one with its key.
func (t *trie) put(e *edit, n *node) {
	if t.size == 0 {
		t.root, t.size = slot{leaf: n}, 1
		return
	}
	near := near(t, n.key)
	at := differ(near.key, n.key)
	replace := near.key == n.key
	s := &t.root
	for s.branch != nil && (replace || int(s.branch.offset) < at) {
		b := e.own(s)
		s = &b.kids[b.place(symbolAt(n.key, int(b.offset)))]
	}
	if replace {
		s.leaf = n
		return
	}
	t.size++
	bit := symbolAt(n.key, at)
	if s.branch != nil && int(s.branch.offset) == at {
		b := e.own(s)
		i := b.place(bit)
		b.bits |= bit
		b.kids = append(b.kids, slot{})
		copy(b.kids[i+1:], b.kids[i:])
		b.kids[i] = slot{leaf: n}
		return
	}
	other := symbolAt(near.key, at)
	kids := []slot{*s, {leaf: n}}
	if bit < other {
		kids[0], kids[1] = kids[1], kids[0]
	}
	*s = slot{branch: &branch{bits: bit | other, edit: e, kids: kids, offset: uint16(at)}}
}

// remove takes the node with this key out, if there is one.
func (t *trie) remove(e *edit, key string) {
	if t.get(key) == nil {
		return
	}
	t.size--
	if t.root.branch == nil {
		t.root = slot{}
		return
	}
	s := &t.root
	for {
		b := e.own(s)
		bit := symbolAt(key, int(b.offset))
		i := b.place(bit)
		if b.kids[i].branch != nil {
			s = &b.kids[i]
			continue
		}
		if len(b.kids) == 2 {
			*s = b.kids[1-i]
			return
		}
		b.bits &^= bit
		b.kids = append(b.kids[:i], b.kids[i+1:]...)
		return
	}
}
