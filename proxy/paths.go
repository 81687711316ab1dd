package proxy

import (
	"cmp"
	"slices"
)

// pathIndex finds, of the routes of a domain pattern, those for a path: by the
// path itself or, for patterns, by the text that they begin with. It refers to
// routes by their place in routes, the lower the better, and has them in order.
type pathIndex struct {
	routes []*route
	exact  map[string][]int
	begins map[string][]int
	// lengths are those of the keys of begins, the longest first. They bound
	// the cost of a lookup: however many patterns there are, the texts that
	// they begin with have few different lengths.
	lengths []beginLength
	rest    []int // routes without path, and patterns that begin with anything
}

// beginLength is a length that keys have.
type beginLength struct {
	n int
	// last has a bit for each byte that keys of this length end with. Most
	// often that is the slash alone, and a path has few of them.
	last [4]uint64
	best int // the first of the routes with keys of this length or less
}

func newPathIndex(routes []*route) *pathIndex {
	x := &pathIndex{routes: routes, exact: make(map[string][]int), begins: make(map[string][]int)}
	for i, r := range routes {
		switch path := &r.match.path; {
		case path.kind == exactPath:
			x.exact[path.exact] = append(x.exact[path.exact], i)
		case path.begin != "":
			x.begins[path.begin] = append(x.begins[path.begin], i)
		default:
			x.rest = append(x.rest, i)
		}
	}
	for begin, places := range x.begins {
		n := len(begin)
		at, found := slices.BinarySearchFunc(x.lengths, n, func(l beginLength, n int) int { return cmp.Compare(n, l.n) })
		if !found {
			x.lengths = slices.Insert(x.lengths, at, beginLength{n: n, best: places[0]})
		}
		l, last := &x.lengths[at], begin[n-1]
		l.last[last/64] |= 1 << (last % 64)
		l.best = min(l.best, places[0])
	}
	for i := len(x.lengths) - 2; i >= 0; i-- {
		x.lengths[i].best = min(x.lengths[i].best, x.lengths[i+1].best)
	}
	return x
}

// find returns the first route that takes the request, or nil.
func (x *pathIndex) find(q *query) *route {
	found := x.first(x.exact[q.path], q, len(x.routes))
	for i := range x.lengths {
		l := &x.lengths[i]
		if found < l.best {
			break
		}
		if l.n > len(q.path) {
			continue
		}
		if last := q.path[l.n-1]; l.last[last/64]>>(last%64)&1 != 0 {
			found = x.first(x.begins[q.path[:l.n]], q, found)
		}
	}
	if found = x.first(x.rest, q, found); found < len(x.routes) {
		return x.routes[found]
	}
	return nil
}

// first returns the first place before the one found so far whose route takes
// the request, or found if there is none.
func (x *pathIndex) first(places []int, q *query, found int) int {
	for _, i := range places {
		switch {
		case i > found:
			return found
		case x.routes[i].takes(q, httpTraffic):
			return i
		}
	}
	return found
}
