package opsapi

import (
	"net/netip"
	"sync"
)

// places bound what takes up room while its client takes his time: how much there
// is at once, and how much of that is one client's.
type places struct {
	most, share int

	mu    sync.Mutex
	taken int
	by    map[string]int // who has some; "" is not counted
}

func newPlaces(most, share int) *places {
	return &places{most: most, share: share, by: map[string]int{}}
}

// take reports whether there was a place, and less than a share taken by who; ""
// may have all.
func (p *places) take(who string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most || who != "" && p.by[who] >= p.share {
		return false
	}
	p.taken++
	if who != "" {
		p.by[who]++
	}
	return true
}

func (p *places) release(who string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] <= 0 {
		delete(p.by, who)
	}
}

// holder is whose places those of an address are: whoever has an IPv6 address may
// have the /48 around it. Without an address nobody can be told from others.
func holder(addr netip.Addr) string {
	switch {
	case !addr.IsValid():
		return ""
	case addr.Is6():
		p, _ := addr.Prefix(48)
		return p.String()
	}
	return addr.String()
}
