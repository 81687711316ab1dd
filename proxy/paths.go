package proxy

import (
	"cmp"
	"slices"
)

// pathIndex finds routes by the path that they match or, for patterns, by the
// text that those begin with.
type pathIndex struct {
	exact  map[string][]*route
	begins map[string][]*route
	// lengths are those of the keys of begins, the longest first. They bound
	// the cost of a lookup: however many patterns there are, the texts that
	// they begin with have few different lengths.
	lengths []beginLength
	rest    []*route // routes without path, and patterns that begin with anything
}

// beginLength is a length that keys have.
type beginLength struct {
	n int
	// last has a bit for each byte that keys of this length end with. Most
	// often that is the slash alone, and a path has few of them.
	last [4]uint64
	rank int // the best of the routes with keys of this length or less
}

func newPathIndex(routes []*route) *pathIndex {
	x := &pathIndex{exact: make(map[string][]*route), begins: make(map[string][]*route)}
	for _, r := range routes {
		switch path := &r.match.path; {
		case path.kind == exactPath:
			x.exact[path.exact] = append(x.exact[path.exact], r)
		case path.begin != "":
			x.begins[path.begin] = append(x.begins[path.begin], r)
		default:
			x.rest = append(x.rest, r)
		}
	}
	for begin, list := range x.begins {
		n := len(begin)
		at, found := slices.BinarySearchFunc(x.lengths, n, func(l beginLength, n int) int { return cmp.Compare(n, l.n) })
		if !found {
			x.lengths = slices.Insert(x.lengths, at, beginLength{n: n, rank: list[0].rank})
		}
		l, last := &x.lengths[at], begin[n-1]
		l.last[last/64] |= 1 << (last % 64)
		l.rank = min(l.rank, list[0].rank)
	}
	for i := len(x.lengths) - 2; i >= 0; i-- {
		x.lengths[i].rank = min(x.lengths[i].rank, x.lengths[i+1].rank)
	}
	return x
}

// find returns the first route that takes the request, or nil.
func (x *pathIndex) find(q *query) *route {
	best := first(x.exact[q.path], q, httpTraffic, nil)
	for i := range x.lengths {
		l := &x.lengths[i]
		if best != nil && best.rank < l.rank {
			break
		}
		if l.n > len(q.path) {
			continue
		}
		if last := q.path[l.n-1]; l.last[last/64]>>(last%64)&1 != 0 {
			best = first(x.begins[q.path[:l.n]], q, httpTraffic, best)
		}
	}
	return first(x.rest, q, httpTraffic, best)
}
