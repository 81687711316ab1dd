package radius

import (
	"net/netip"
	"strings"
	"sync"
)

// nas is who an Accounting-On or -Off is from.
type nas struct {
	source     netip.Addr
	identifier string
	addr       netip.Addr
}

// nasHead is a NAS as it is written in its sessions.
type nasHead struct{ source, identifier, addr string }

// has reports whether a session is of that NAS. What the NAS does not say of
// itself does not count.
func (n *nas) has(h nasHead) bool {
	if h.source != string(n.source.AsSlice()) {
		return false
	}
	if n.identifier != "" {
		return h.identifier == n.identifier
	}
	return !n.addr.IsValid() || h.addr == string(n.addr.AsSlice())
}

// nasIndex has the keys of sessions by NAS, and the NASes by the address that
// their records come from, so that the restart of one costs what its own sessions
// do: after a power failure all of a site restart at once.
type nasIndex struct {
	mu       sync.Mutex
	bySource map[string]map[nasHead]map[sessionKey]struct{}
}

func (x *nasIndex) add(h nasHead, k sessionKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	keys := x.bySource[h.source][h]
	if keys == nil {
		// Parts of h would keep the whole session that they are of.
		h = nasHead{strings.Clone(h.source), strings.Clone(h.identifier), strings.Clone(h.addr)}
		keys = make(map[sessionKey]struct{})
		if x.bySource == nil {
			x.bySource = make(map[string]map[nasHead]map[sessionKey]struct{})
		}
		if x.bySource[h.source] == nil {
			x.bySource[h.source] = make(map[nasHead]map[sessionKey]struct{})
		}
		x.bySource[h.source][h] = keys
	}
	keys[k] = struct{}{}
}

func (x *nasIndex) remove(h nasHead, k sessionKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	nases := x.bySource[h.source]
	delete(nases[h], k)
	if len(nases[h]) == 0 {
		delete(nases, h)
	}
	if len(nases) == 0 {
		delete(x.bySource, h.source)
	}
}

// of returns the keys of a NAS's sessions.
func (x *nasIndex) of(n *nas) (list []sessionKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for h, keys := range x.bySource[string(n.source.AsSlice())] {
		if !n.has(h) {
			continue
		}
		for k := range keys {
			list = append(list, k)
		}
	}
	return list
}

func (x *nasIndex) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.bySource = nil
}
