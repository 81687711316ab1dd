package dnsserver

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// connLimits are the books of how many connections are open, over all
// transports that have some.
type connLimits struct {
	max, perClient int

	open    atomic.Int64 // changed with mu
	mu      sync.Mutex
	clients map[netip.Prefix]int
}

func newConnLimits(c *Config) *connLimits {
	return &connLimits{max: c.maxConnections(), perClient: c.maxConnectionsPerClient(), clients: make(map[netip.Prefix]int)}
}

// verdict is what becomes of a new connection.
type verdict int

const (
	admitted verdict = iota
	full             // unless another makes room
	tooMany          // of this client
)

// take counts a connection if there is room for it.
func (l *connLimits) take(addr netip.Addr) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(addr)
}

// replace takes the place of a connection that makes room.
func (l *connLimits) replace(gone, addr netip.Addr) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(gone)
	return l.add(addr)
}

// release is the opposite of a take that admitted.
func (l *connLimits) release(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(addr)
}

func (l *connLimits) add(addr netip.Addr) verdict {
	client := connClient(addr)
	switch {
	case client.IsValid() && l.clients[client] >= l.perClient:
		return tooMany
	case l.open.Load() >= int64(l.max):
		return full
	}
	l.open.Add(1)
	if client.IsValid() {
		l.clients[client]++
	}
	return admitted
}

func (l *connLimits) remove(addr netip.Addr) {
	client := connClient(addr)
	l.open.Add(-1)
	if !client.IsValid() {
		return
	}
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

// patience is how long a connection may be idle, which is the shorter the
// fewer places are left (RFC 7766 section 6.2.3).
func (l *connLimits) patience(idle time.Duration) time.Duration {
	switch open, places := l.open.Load(), int64(l.max); {
	case open*10 > places*9:
		return idle / 20
	case open*2 > places:
		return idle / 4
	}
	return idle
}

// connClient is what counts as one client: as many addresses as one subscriber
// has. It is not valid where the address is not known.
func connClient(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(addr, 32)
	}
	p, _ := addr.Prefix(56)
	return p
}
