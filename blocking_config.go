package dcrouter

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/dcrouter/dcrouter/internal/blocklist"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/proxy"
)

// BlockingConfig has addresses that misbehave in one place refused in all. An
// address of IPv6 stands for the /64 around it. Blocks are kept in the storage;
// Routers that share one share them: at once if it tells of changes, else within a
// minute if its leases hold among them.
//
// Only what an address is proven to have done counts: a datagram can carry any
// address, and else anybody could have others blocked. So of RADIUS over UDP, of
// UDP through the proxy and of QUIC before its handshake nothing counts.
type BlockingConfig struct {
	// BlockList are addresses and CIDR blocks that are always refused.
	BlockList []string `json:"blockList"`
	// AllowList are those that never are, which goes before everything. Loopback
	// is in it, unless the list names loopback addresses of its own; so are
	// PublicIP, and proxies in front that the configuration, or a route in force,
	// trusts.
	AllowList []string `json:"allowList"`
	// Count says whose security events count: [CountEmail], [CountProxy],
	// [CountRADIUS], [CountOps]. The default empty means all. Of mail it is what a
	// client does itself, such as to fail to sign in or to talk before its turn; not
	// what it hands on, as anybody can have a large provider do that.
	Count []string `json:"count"`
	// Refuse says who refuses: [RefuseProxy], whose ports for mail are a matter of
	// the mail system, and [RefuseEmail]. The default empty means both. The
	// operations API does not, so that a block can be lifted there.
	Refuse []string `json:"refuse"`
	// Events is how many block an address, if they come Within this time from the
	// first on. Of being over a limit or in a place where an address may not be, one
	// a second counts. Defaults 10 and 10m.
	Events int           `json:"events"`
	Within time.Duration `json:"within"`
	// Duration is for how long the first time. Each time after that takes twice as
	// long as the one before, at most MaxDuration, which is also how long an address
	// is remembered after its block. Defaults 1h and 24h.
	Duration    time.Duration `json:"duration"`
	MaxDuration time.Duration `json:"maxDuration"`
	// Reputation blocks an address at once that the mail system refuses because of
	// its reputation. Without it such refusals do not count.
	Reputation bool `json:"reputation"`
}

// Values of [BlockingConfig.Count].
const (
	CountEmail  = "email"
	CountProxy  = "proxy"
	CountRADIUS = "radius"
	CountOps    = "ops"
)

// Values of [BlockingConfig.Refuse].
const (
	RefuseProxy = "proxy"
	RefuseEmail = "email"
)

// maxBlockingEvents keeps Events to what a count of it can hold.
const maxBlockingEvents = 1_000_000

func (c *Config) checkBlocking(check *conf.Checker) {
	b := c.Blocking
	check.Field("blockList").CIDRs(b.BlockList)
	check.Field("allowList").CIDRs(b.AllowList)
	for i, s := range b.Count {
		check.Field("count").Index(i).OneOf(s, CountEmail, CountProxy, CountRADIUS, CountOps)
	}
	for i, s := range b.Refuse {
		check.Field("refuse").Index(i).OneOf(s, RefuseProxy, RefuseEmail)
	}
	check.Field("events").Range(b.Events, 0, maxBlockingEvents)
	check.Field("within").Wait(b.Within)
	check.Field("duration").Wait(b.Duration)
	check.Field("maxDuration").Wait(b.MaxDuration)
	if d := b.set(); d.Duration > d.MaxDuration {
		check.Field("duration").Errorf("%v is longer than maxDuration, %v", d.Duration, d.MaxDuration)
	}
	if b.Reputation && (c.Email == nil || c.Email.IPReputation == nil) {
		check.Field("reputation").Errorf("needs emailConfig.ipReputation, which is asked about the addresses")
	}
}

// set is the part about events, with defaults.
func (b *BlockingConfig) set() blocklist.Config {
	return blocklist.Config{
		Events: cmp.Or(b.Events, 10), Within: cmp.Or(b.Within, 10*time.Minute),
		Duration: cmp.Or(b.Duration, time.Hour), MaxDuration: cmp.Or(b.MaxDuration, 24*time.Hour),
	}
}

// blocklist is what Blocking means, with the other sections.
func (c *Config) blocklist() blocklist.Config {
	set := c.Blocking.set()
	set.Block = conf.ParseCIDRs(c.Blocking.BlockList)
	return set // followRoutes sets what is allowed: it depends on the routes in force
}

// neverBlocked are the addresses of whom the configuration trusts to speak for
// others, with these routes.
func (c *Config) neverBlocked(routes []proxy.Route) []netip.Prefix {
	list := conf.ParseCIDRs(c.Blocking.AllowList)
	if !slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
		list = append(list, conf.ParseCIDRs([]string{"127.0.0.0/8", "::1"})...)
	}
	list = append(list, conf.ParseCIDRs(c.PublicIP)...)
	if c.Proxy != nil {
		list = append(list, conf.ParseCIDRs(c.Proxy.TrustedProxies)...)
	}
	for i := range routes {
		if p := routes[i].Action.ProxyProtocol; p != nil {
			list = append(list, conf.ParseCIDRs(p.Accept)...)
		}
	}
	if c.Email != nil && c.Email.ProxyProtocol != nil {
		list = append(list, conf.ParseCIDRs(c.Email.ProxyProtocol.Accept)...)
	}
	if c.Ops != nil {
		list = append(list, conf.ParseCIDRs(c.Ops.TrustedProxies)...)
	}
	return list
}
