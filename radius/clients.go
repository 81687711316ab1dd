package radius

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// client is one entry of the configuration, of one address or many.
type client struct {
	Client
	secret []byte
	many   bool // it is for more than one address
	// signs remembers the addresses whose requests had a right
	// Message-Authenticator, which from then on must have one. Only those who
	// know the secret get in.
	signs struct {
		sync.RWMutex
		addrs map[netip.Addr]struct{}
		all   bool // there were too many to remember
	}
	stats clientCounters
}

// clientCounters are those of [ClientStats].
type clientCounters struct {
	requests, accepts, rejects, challenges, accounting, dropped atomic.Uint64
}

// maxSigners bounds what a client of many addresses makes us remember.
const maxSigners = 1 << 16

// mustSign reports whether a request of that address without
// Message-Authenticator is to be ignored.
func (c *client) mustSign(addr netip.Addr) bool {
	if c.RequireMessageAuthenticator != nil {
		return *c.RequireMessageAuthenticator
	}
	c.signs.RLock()
	defer c.signs.RUnlock()
	_, ok := c.signs.addrs[addr]
	return ok || c.signs.all
}

// mustProve reports whether a request without Message-Authenticator needs something
// else that proves that its sender knows the secret: among many addresses there are
// those of hosts that are no clients.
func (c *client) mustProve() bool { return c.many && c.RequireMessageAuthenticator == nil }

// hasSigned notes a request that had one.
func (c *client) hasSigned(addr netip.Addr) {
	if c.RequireMessageAuthenticator != nil || c.mustSign(addr) {
		return
	}
	c.signs.Lock()
	defer c.signs.Unlock()
	if len(c.signs.addrs) >= maxSigners {
		c.signs.all, c.signs.addrs = true, nil
		return
	}
	if c.signs.addrs == nil {
		c.signs.addrs = make(map[netip.Addr]struct{})
	}
	c.signs.addrs[addr] = struct{}{}
}

// clientTable finds a client by address: a probe for each length of prefix
// that there is, so its cost does not grow with the number of clients.
type clientTable struct {
	list []*client
	// The lengths of prefixes, longest first.
	lengths4, lengths6 []int
	byPrefix           map[netip.Prefix]*client
	anyone             *client // where there are no clients: who knows the secret
}

// newClientTable takes a valid configuration.
func newClientTable(cfg *Config) *clientTable {
	t := &clientTable{byPrefix: make(map[netip.Prefix]*client)}
	add := func(c Client) *client {
		if c.RequireMessageAuthenticator == nil {
			c.RequireMessageAuthenticator = cfg.RequireMessageAuthenticator
		}
		c.Secret = valueOr(c.Secret, cfg.Secret)
		entry := &client{Client: c, secret: []byte(c.Secret.Reveal())}
		t.list = append(t.list, entry)
		return entry
	}
	if len(cfg.Clients) == 0 {
		t.anyone = add(Client{})
		t.anyone.many = true
	}
	for _, c := range cfg.Clients {
		prefix, _ := conf.ParseCIDR(c.IP)
		entry := add(c)
		entry.many = !prefix.IsSingleIP()
		t.byPrefix[prefix] = entry
		lengths := &t.lengths6
		if prefix.Addr().Is4() {
			lengths = &t.lengths4
		}
		if !slices.Contains(*lengths, prefix.Bits()) {
			*lengths = append(*lengths, prefix.Bits())
		}
	}
	for _, lengths := range [][]int{t.lengths4, t.lengths6} {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
	}
	return t
}

// find returns the client with the longest prefix of addr, or nil.
func (t *clientTable) find(addr netip.Addr) *client {
	lengths := t.lengths6
	if addr.Is4() {
		lengths = t.lengths4
	}
	for _, n := range lengths {
		if prefix, err := addr.Prefix(n); err == nil {
			if c := t.byPrefix[prefix]; c != nil {
				return c
			}
		}
	}
	return t.anyone
}
