package suppress

import (
	"slices"
	"sort"
	"strings"
)

// table is a sorted set of records by address, in blocks that are cheap to insert
// into.
type table struct {
	blocks [][]record // none is empty
	len    int
}

// maxBlock is how many records a block has before it is split.
const maxBlock = 512

// find returns where an address is or belongs.
func (t *table) find(address string) (block, at int, found bool) {
	// The last block that does not begin behind it.
	block = max(0, sort.Search(len(t.blocks), func(i int) bool { return t.blocks[i][0].address() > address })-1)
	if block < len(t.blocks) {
		at, found = slices.BinarySearchFunc(t.blocks[block], address, func(r record, s string) int { return strings.Compare(r.address(), s) })
	}
	return block, at, found
}

func (t *table) get(address string) (record, bool) {
	block, at, found := t.find(address)
	if !found {
		return "", false
	}
	return t.blocks[block][at], true
}

// put keeps the newer of a record and the one that is there for its address, "" if
// there is none, and reports whether that is r.
func (t *table) put(r record) (old record, kept bool) {
	block, at, found := t.find(r.address())
	switch {
	case found:
		if old = t.blocks[block][at]; !r.newer(old) {
			return old, false
		}
		t.blocks[block][at] = r
		return old, true
	case len(t.blocks) == 0:
		t.blocks = [][]record{{r}}
	default:
		b := slices.Insert(t.blocks[block], at, r)
		t.blocks[block] = b
		if len(b) > maxBlock {
			half := len(b) / 2
			if at == len(b)-1 { // in order, as segments are: leave full blocks behind
				half = len(b) - 1
			}
			t.blocks = slices.Insert(t.blocks, block+1, slices.Clone(b[half:]))
			clear(b[half:])
			t.blocks[block] = b[:half]
		}
	}
	t.len++
	return "", true
}

func (t *table) delete(address string) {
	block, at, found := t.find(address)
	if !found {
		return
	}
	t.len--
	if len(t.blocks[block]) == 1 {
		t.blocks = slices.Delete(t.blocks, block, block+1)
		return
	}
	t.blocks[block] = slices.Delete(t.blocks[block], at, at+1)
}

// from returns up to n records from an address on, in order.
func (t *table) from(address string, n int) []record {
	var list []record
	block, at, _ := t.find(address)
	for ; block < len(t.blocks) && len(list) < n; block, at = block+1, 0 {
		b := t.blocks[block][at:]
		list = append(list, b[:min(len(b), n-len(list))]...)
	}
	return list
}
