package transport

import (
	"net/netip"
	"sync"
	"time"
)

// ailTime is how long an address that could not be reached comes last, and
// maxAiling how many are remembered.
const (
	ailTime   = time.Minute
	maxAiling = 4096
)

// ailing remembers addresses that could not be reached a moment ago. The zero value
// is ready for use.
type ailing struct {
	mu    sync.Mutex
	until map[way]time.Time
}

// way is from an address to another: one that is blocked there need not be
// elsewhere.
type way struct{ source, addr netip.Addr }

func (a *ailing) has(addr, source netip.Addr, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	until, ok := a.until[way{source, addr}]
	if ok && now.After(until) {
		delete(a.until, way{source, addr})
		ok = false
	}
	return ok
}

func (a *ailing) set(addr, source netip.Addr, ill bool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !ill {
		delete(a.until, way{source, addr})
		return
	}
	if a.until == nil || len(a.until) >= maxAiling { // those that matter will be back at once
		a.until = map[way]time.Time{}
	}
	a.until[way{source, addr}] = now.Add(ailTime)
}
