package dnsserver

import (
	"iter"
	"math/bits"
	"strings"
	"unsafe"
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

// slot is a leaf, a branch, or, in an empty trie, nothing. What a search wants
// to know of a branch stands in its slot and not with its children, as most of
// the time of a search goes into memory that is not in the cache: so each step
// down touches one place.
type slot struct {
	// index is 0 for a leaf. For a branch it is which children there are, a bit
	// for each (see symbolAt), and above offsetShift the offset of the symbol
	// in which they differ.
	index uint64
	// to is the leaf's node. For a branch it is an array: a slot that has the
	// edit which made the array, and may change it, then the children in order.
	to unsafe.Pointer
}

// offsetShift leaves room for the bits of all symbols: the second of an octet
// may be up to highRange-1.
const offsetShift = 52

// edit is a series of changes that nobody sees before it is over. Branches that
// it has made it changes in place.
type edit struct{ _ byte }

func leafSlot(n *node) slot { return slot{to: unsafe.Pointer(n)} }

// branchSlot makes a branch with room for the children that bits says, and
// returns these too.
func branchSlot(e *edit, bitmap uint64, offset int) (slot, []slot) {
	array := make([]slot, 1+bits.OnesCount64(bitmap))
	array[0].to = unsafe.Pointer(e)
	return slot{index: bitmap | uint64(offset)<<offsetShift, to: unsafe.Pointer(unsafe.SliceData(array))}, array[1:]
}

func (s *slot) isBranch() bool { return s.index != 0 }

// leaf is the node of a slot that is no branch, or nil.
func (s *slot) leaf() *node { return (*node)(s.to) }

// These are of a branch.

func (s *slot) offset() int { return int(s.index >> offsetShift) }

func (s *slot) bitmap() uint64 { return s.index & (1<<offsetShift - 1) }

func (s *slot) place(bit uint64) int { return bits.OnesCount64(s.index & (bit - 1)) }

func (s *slot) kid(i int) *slot {
	return (*slot)(unsafe.Add(s.to, uintptr(1+i)*unsafe.Sizeof(slot{})))
}

func (s *slot) kids() []slot { return unsafe.Slice(s.kid(0), bits.OnesCount64(s.bitmap())) }

// symbolAt returns the bit for the symbol of a key at an offset. The end of the
// key goes before all symbols.
func symbolAt[K string | []byte](key K, offset int) uint64 {
	if offset >= len(key) {
		return 1
	}
	return 2 << key[offset]
}

// get returns the node with this key, or nil.
func (t *trie) get(key string) *node {
	return t.getBytes(unsafe.Slice(unsafe.StringData(key), len(key)))
}

// getBytes is get for a key that is no string.
func (t *trie) getBytes(key []byte) *node {
	s := t.root
	for s.isBranch() {
		bit := uint64(1)
		if at := s.offset(); at < len(key) {
			bit = 2 << key[at]
		}
		if s.index&bit == 0 {
			return nil
		}
		s = *s.kid(s.place(bit))
	}
	if n := s.leaf(); n != nil && n.key == string(key) {
		return n
	}
	return nil
}

// near returns a leaf that shares with key as long a beginning as any does.
// There must be one.
func near[K string | []byte](t *trie, key K) *node {
	s := &t.root
	for s.isBranch() {
		at := 0
		if bit := symbolAt(key, s.offset()); s.index&bit != 0 {
			at = s.place(bit)
		}
		s = s.kid(at)
	}
	return s.leaf()
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
	for s.isBranch() {
		s = s.kid(0)
	}
	return s.leaf()
}

func (s *slot) last() *node {
	for s.isBranch() {
		s = s.kid(len(s.kids()) - 1)
	}
	return s.leaf()
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
	for s.isBranch() && s.offset() < at {
		i := s.place(symbolAt(key, s.offset()))
		if i > 0 {
			left = s.kid(i - 1)
		}
		s = s.kid(i)
	}
	if s.isBranch() && s.offset() == at {
		if i := s.place(symbolAt(key, at)); i > 0 {
			return s.kid(i - 1).last()
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
	if !s.isBranch() {
		n := s.leaf()
		return n.key < key || yield(n)
	}
	// All keys below are alike up to the offset.
	first := s.first().key
	switch at := differ(first, key); {
	case at >= len(key), at < s.offset() && symbolAt(first, at) > symbolAt(key, at):
		return s.all(yield)
	case at < s.offset():
		return true // all are below
	}
	bit := symbolAt(key, s.offset())
	right := s.kids()[s.place(bit):]
	if s.index&bit != 0 {
		if !right[0].from(key, yield) {
			return false
		}
		right = right[1:]
	}
	for i := range right {
		if !right[i].all(yield) {
			return false
		}
	}
	return true
}

func (s *slot) all(yield func(*node) bool) bool {
	if !s.isBranch() {
		return yield(s.leaf())
	}
	kids := s.kids()
	for i := range kids {
		if !kids[i].all(yield) {
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

// own makes the children of a branch ones that may be changed.
func (e *edit) own(s *slot) {
	if (*slot)(s.to).to == unsafe.Pointer(e) {
		return
	}
	kids := s.kids()
	var own []slot
	*s, own = branchSlot(e, s.bitmap(), s.offset())
	copy(own, kids)
}

// put adds a node, or replaces the one with its key.
func (t *trie) put(e *edit, n *node) {
	if t.size == 0 {
		t.root, t.size = leafSlot(n), 1
		return
	}
	near := near(t, n.key)
	at := differ(near.key, n.key)
	replace := near.key == n.key
	s := &t.root
	for s.isBranch() && (replace || s.offset() < at) {
		e.own(s)
		s = s.kid(s.place(symbolAt(n.key, s.offset())))
	}
	if replace {
		*s = leafSlot(n)
		return
	}
	t.size++
	bit := symbolAt(n.key, at)
	var kids []slot
	if s.isBranch() && s.offset() == at {
		old, i := s.kids(), s.place(bit)
		*s, kids = branchSlot(e, s.bitmap()|bit, at)
		copy(kids, old[:i])
		kids[i] = leafSlot(n)
		copy(kids[i+1:], old[i:])
		return
	}
	other := symbolAt(near.key, at)
	old := *s
	*s, kids = branchSlot(e, bit|other, at)
	kids[0], kids[1] = old, leafSlot(n)
	if bit < other {
		kids[0], kids[1] = kids[1], kids[0]
	}
}

// remove takes the node with this key out, if there is one.
func (t *trie) remove(e *edit, key string) {
	if t.get(key) == nil {
		return
	}
	t.size--
	if !t.root.isBranch() {
		t.root = slot{}
		return
	}
	s := &t.root
	for {
		bit := symbolAt(key, s.offset())
		i := s.place(bit)
		if s.kid(i).isBranch() {
			e.own(s)
			s = s.kid(i)
			continue
		}
		old := s.kids()
		if len(old) == 2 {
			*s = old[1-i]
			return
		}
		var kids []slot
		*s, kids = branchSlot(e, s.bitmap()&^bit, s.offset())
		copy(kids, old[:i])
		copy(kids[i:], old[i+1:])
		return
	}
}
